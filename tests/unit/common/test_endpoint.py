"""Endpoints: nothing of the user is removed, nothing is open to other users, IPv6 works."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from speech_emotion.common.client.results import Results
from speech_emotion.common.errors import UserError
from speech_emotion.common.wire.endpoint import remove_file
from speech_emotion.common.wire.sockets import bind, connect
from tools.ports import free_port


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def router(context: zmq.Context[Any]) -> Iterator[zmq.Socket[Any]]:
    with context.socket(zmq.ROUTER) as router:
        yield router


def test_a_file_of_the_user_is_not_removed(router: zmq.Socket[Any], tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    link = tmp_path / "link"
    link.symlink_to(path)
    for place in (path, link, tmp_path):
        with pytest.raises(UserError, match="is not a socket"):
            bind(router, f"ipc://{place}", "hub")
        remove_file(f"ipc://{place}")
    assert path.read_text() == "years of work"
    assert link.is_symlink()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_in_use_stays_its_owners(
    router: zmq.Socket[Any], tmp_path: Path, kind: int
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, kind) as owner:
        owner.bind(str(path))
        if kind == socket.SOCK_STREAM:
            owner.listen(0)
        for _ in range(3):  # also when its queue is full
            with pytest.raises(UserError, match="in use"):
                bind(router, f"ipc://{path}", "hub")
        assert path.is_socket()
    bind(router, f"ipc://{path}", "hub")  # left by a process that has ended


def test_an_abstract_name_is_refused(router: zmq.Socket[Any]) -> None:
    with pytest.raises(UserError, match="every local user"):
        bind(router, "ipc://@name", "hub")
    with pytest.raises(ValueError, match="not usable"):
        Results("ipc://@name")


def test_ipv6_works(context: zmq.Context[Any], router: zmq.Socket[Any]) -> None:
    endpoint = f"tcp://[::1]:{free_port()}"
    bind(router, endpoint, "hub")
    with connect(context, endpoint, "hub") as client:
        client.send(b"hello")
        assert router.poll(10_000)
    Results(endpoint).close()

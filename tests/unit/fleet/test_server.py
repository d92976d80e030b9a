"""Why a server of NATS is not reached, in words that are the same at each attempt."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("nats")

import nats.errors

from speech_emotion.common.nats_server import NatsServer
from speech_emotion.fleet import server as fleet_server
from speech_emotion.fleet.server import FAULTS, cause, open_client
from tools.ports import free_port

CLOSED = "the server closed the connection"

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    """nats-py leaves sockets of lost connections to the collector: here, not later."""
    yield
    gc.collect()


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server that does something with each connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        answer(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def why(port: int) -> str:
    """Why the server at a port is not reached."""

    async def attempt() -> None:
        client = await open_client(NatsServer(f"nats://127.0.0.1:{port}"), "test")
        await client.close()

    with pytest.raises(FAULTS) as caught:
        asyncio.run(attempt())
    return cause(caught.value)


def reset(connection: socket.socket) -> None:
    """End a connection as the kernel does where a program is killed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("answer", [lambda _: None, reset], ids=["closed", "reset"])
def test_a_server_that_ends_as_it_is_asked(answer: Callable[[socket.socket], object]) -> None:
    with listening(answer) as port:
        assert why(port) == CLOSED


def test_a_port_without_a_server() -> None:
    assert why(free_port()) == "no server answers there (connection refused)"


def test_a_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_server, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert why(silent.getsockname()[1]) == "the server does not answer (timed out)"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (nats.errors.ConnectionClosedError(), CLOSED),
        (nats.errors.UnexpectedEOF(), CLOSED),
        (nats.errors.StaleConnectionError(), CLOSED),
        (nats.errors.TimeoutError(), "the server does not answer (timed out)"),
        (nats.errors.AuthorizationError(), "authorization failed"),
        (ConnectionResetError(104, "Connection reset by peer"), CLOSED),
        (BrokenPipeError(32, "Broken pipe"), CLOSED),
    ],
    ids=repr,
)
def test_words_of_an_error(error: Exception, text: str) -> None:
    assert cause(error) == text

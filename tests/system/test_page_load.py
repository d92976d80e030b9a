"""The page's server under slow, silent and excessive clients."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from speech_emotion.dashboard.access.connections import INCOMPLETE, WRITE_S
from speech_emotion.dashboard.history.writer import HistoryWriter
from tests.support.history import make_result
from tests.support.pages import Dashboard, get, greeting
from tests.support.pipelines import PATIENCE_S, fresh_endpoint, wait_until

ROWS = 20_000
HALF_REQUEST = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n"
HALF_BODY = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\ntoken="


pytestmark = pytest.mark.xdist_group("page_load")  # its server is started once


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A history with `ROWS` windows of two runs; the time of its first window."""
    path = tmp_path_factory.mktemp("history") / "h.sqlite"
    return path, write_history(path, ROWS)


def write_history(path: Path, count: int) -> float:
    begin = time.time() - count
    writer = HistoryWriter(path)
    rows = (make_result(seq, run="ab"[seq * 2 // count]) for seq in range(count))
    writer.write([(dataclasses.replace(row, time=begin + row.seq), 0.0) for row in rows])
    writer.close()
    return begin


@pytest.fixture(scope="module")
def page(history: tuple[Path, float]) -> Iterator[Dashboard]:
    server = Dashboard(fresh_endpoint(), f"--history={history[0]}")
    yield server
    assert server.end() == 0


def connect(port: int, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(data)
    return client


def closed(client: socket.socket) -> bool:
    client.settimeout(0.01)
    try:
        return client.recv(1 << 16) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.costly_cases
@pytest.mark.parametrize("data", [b"", b"GET", HALF_REQUEST, HALF_BODY], ids=str)
def test_half_requests_block_no_other_client(page: Dashboard, data: bytes) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(page.port, data)) for _ in range(300)]
        for _ in range(5):
            assert greeting(page.port)["service"]["history"] is True
        wait_until(lambda: sum(map(closed, clients)) >= 300 - INCOMPLETE, "the oldest to be closed")
        wait_until(lambda: all(map(closed, clients)), "all to be closed")


def test_a_kept_connection_has_the_deadline_for_every_request(page: Dashboard) -> None:
    request = b"GET /token.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(page.port, request + HALF_REQUEST) as client:
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        wait_until(lambda: closed(client), "the connection to be closed")


def test_parallel_downloads_are_complete(page: Dashboard, history: tuple[Path, float]) -> None:
    begin = history[1]
    query = f"/api/v1/history?format=csv&from={begin - 1}&to={begin + ROWS}"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: get(page.port, query), range(8)))
    for status, _, body in answers:
        assert status == 200
        lines = body.splitlines()
        assert len(lines) == ROWS + 1
    assert len({body for _, _, body in answers}) == 1


@pytest.mark.slow
def test_a_client_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    count = 100_000  # more than the kernel's buffers hold
    begin = write_history(tmp_path / "h.sqlite", count)
    query = f"/api/v1/history?format=csv&from={begin - 1}&to={begin + count}"
    page = Dashboard(fresh_endpoint(), f"--history={tmp_path / 'h.sqlite'}")
    with contextlib.closing(socket.socket()) as client, contextlib.ExitStack() as stack:
        stack.callback(page.end)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", page.port))
        client.sendall(f"GET {query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        poller = select.poll()
        poller.register(client, 0)  # errors only: nothing is read
        events = poller.poll(1000.0 * (WRITE_S + PATIENCE_S))
        assert events, "the connection is still open"

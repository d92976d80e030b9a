"""The server of the metrics: bounded, with deadlines, and closed to other sites and machines."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from speech_emotion.common.wire.public import Health
from speech_emotion.supervision import metrics_server
from speech_emotion.supervision.metrics_server import CONNECTIONS, MetricsServer
from tests.support.pipelines import PATIENCE_S, wait_until

Serve = Callable[..., MetricsServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers; they are closed at the end."""
    with contextlib.ExitStack() as stack:

        def start(token: str | None = None) -> MetricsServer:
            server = MetricsServer("127.0.0.1", 0, lambda: Health(1.0, "ok", [], [], {}), token)
            stack.callback(server.close)
            return server

        yield start


def request(server: MetricsServer, *headers: str, target: str = "GET /metrics") -> str:
    """The whole answer to a request; empty where the connection was closed."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall("\r\n".join([f"{target} HTTP/1.0", *headers, "", ""]).encode())
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(4096):
                answer += part
    return answer.decode()


def status(answer: str) -> str:
    return answer.split()[1] if answer else ""


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "200"),
        ("localhost:9464", "200"),
        ("[::1]:9464", "200"),
        ("evil.example", "403"),
        ("evil.example:9464", "403"),
        ("", "403"),
    ],
)
def test_a_page_of_another_site_cannot_read_it(serve: Serve, host: str, expected: str) -> None:
    assert status(request(serve(), f"Host: {host}")) == expected


def test_a_token_opens_it_for_every_host(serve: Serve) -> None:
    server = serve("a-token-of-enough-length")
    host = "Host: box.example:9464"
    assert status(request(server, host)) == "401"
    assert status(request(server, host, "Authorization: Bearer \xff")) == "401"
    answer = request(server, host, "Authorization: Bearer a-token-of-enough-length")
    assert status(answer) == "200"
    assert "sep_state" in answer


def test_other_paths_and_methods(serve: Serve) -> None:
    server = serve()
    assert status(request(server, "Host: localhost", target="GET /other")) == "404"
    assert status(request(server, "Host: localhost", target="POST /metrics")) == "501"


def test_idle_connections_are_few_and_short(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "CONNECTION_S", 1.0)
    server = serve()
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(4 * CONNECTIONS)
        ]
        clients[0].sendall(b"GET /metrics HT")  # a half request
        closed: set[int] = set()

        def all_closed() -> bool:
            for number, client in enumerate(clients):
                client.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    try:
                        if not client.recv(4096):
                            closed.add(number)
                    except ConnectionError:
                        closed.add(number)
            assert threading.active_count() <= before + CONNECTIONS
            return len(closed) == len(clients)

        wait_until(all_closed, "every connection to be closed")
    assert status(request(server, "Host: localhost")) == "200"

"""Access to the metrics, and the limits of a client: connections, time, memory."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator

import pytest

from speech_emotion.common.config.model import MetricsConfig
from speech_emotion.common.wire import public
from speech_emotion.supervision.metrics import server as metrics_server
from speech_emotion.supervision.metrics.server import MetricsServer
from tests.support.pipelines import wait_until

HEALTH = public.Health(1.0, "ok", [], [], {"hub_malformed": 1})
TOKEN = "0123456789abcdef"


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    one = MetricsServer("127.0.0.1", 0, lambda: HEALTH)
    yield one
    one.close()


def get(server: MetricsServer, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20.0)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def answers(server: MetricsServer) -> bool:
    """Whether it gives an answer before its deadline, and takes the connection."""
    with contextlib.suppress(ConnectionError):
        return get(server)[0] == 200
    return False


@pytest.mark.parametrize("host", ["localhost", "localhost:9464", "127.0.0.1:1", "[::1]:9", "[::1]"])
def test_this_machine_gets_the_metrics(server: MetricsServer, host: str) -> None:
    status, text = get(server, host=host)
    assert status == 200
    assert 'sep_events_total{event="hub_malformed"} 1.0' in text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "localhost.evil.example", ""]
)
def test_another_host_name_is_refused(server: MetricsServer, host: str) -> None:
    assert get(server, host=host)[0] == 403


def test_beyond_loopback_a_token_is_needed() -> None:
    with pytest.raises(ValueError, match=r"metrics\.token"):
        MetricsConfig(port=9464, address="0.0.0.0")
    with pytest.raises(ValueError, match="16 to 256"):
        MetricsConfig(port=9464, address="0.0.0.0", token="short")
    config = MetricsConfig(port=0, address="0.0.0.0", token=TOKEN)
    server = MetricsServer(config.address, config.port or 0, lambda: HEALTH, config.token)
    try:
        for wrong in ({}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": TOKEN}):
            assert get(server, **wrong)[0] == 401
        assert get(server, host="box.example", authorization=f"Bearer {TOKEN}")[0] == 200
    finally:
        server.close()


def test_other_requests_are_answered_and_nothing_else_happens(server: MetricsServer) -> None:
    assert get(server, "/")[0] == 404
    assert get(server, padding="x" * 20_000)[0] == 431
    for rubbish in (b"POST /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20.0) as one:
            one.sendall(rubbish)
            assert b" 405 " in one.recv(4096)
    assert get(server)[0] == 200


def test_idle_and_slow_connections_are_bounded_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(metrics_server, "DEADLINE_S", 1.0)
    server = MetricsServer("127.0.0.1", 0, lambda: HEALTH)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    try:
        for number, one in enumerate(idle):
            one.settimeout(20.0)
            if number % 2:
                try:
                    one.sendall(b"GET /metrics HTTP/1.1\r\n")
                except ConnectionError:
                    continue  # closed already, beyond the limit
        for one in idle:
            with contextlib.suppress(ConnectionError):
                assert one.recv(4096) == b""
        wait_until(lambda: answers(server), "an answer")
    finally:
        for one in idle:
            one.close()
        server.close()


def test_it_ends_with_open_connections() -> None:
    server = MetricsServer("127.0.0.1", 0, lambda: HEALTH)
    with socket.create_connection(("127.0.0.1", server.port)) as one:
        one.sendall(b"GET /metrics HTTP/1.1\r\n")
        server.close()

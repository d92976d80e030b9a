"""Why `speech-emotion mqtt` has no connection, in its own process."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

pytest.importorskip("paho")

from paho.mqtt.client import Client

from speech_emotion.commands.mqtt import forwarder
from speech_emotion.commands.mqtt.discovery import Topics
from tests.support.broker import Broker
from tests.support.pipelines import wait_until


def test_each_cause_of_a_failed_connection_is_reported_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    errors: list[OSError] = [unknown, unknown, refused, unknown, refused]
    connect = socket.create_connection

    def failing(*words: Any, **more: Any) -> socket.socket:
        if errors:
            raise errors.pop(0)
        return connect(*words, **more)

    monkeypatch.setattr(socket, "create_connection", failing)
    monkeypatch.setattr(Client, "_reconnect_wait", lambda _: None)
    where = forwarder.Broker("127.0.0.1", broker.port, None, None, None)
    forward = forwarder.Forwarder(where, Topics("sep"), "homeassistant", listen=False)
    printed = ""

    def connected() -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return "mqtt: connected\n" in printed

    try:
        wait_until(connected, "the connection")
    finally:
        forward.close()
    failed = f"mqtt: no connection to 127.0.0.1:{broker.port}: "
    assert printed.splitlines() == [
        f"{failed}the name of the broker is unknown (is the network up?); trying again",
        f"{failed}no broker answers there (connection refused); trying again",
        "mqtt: connected",
    ]

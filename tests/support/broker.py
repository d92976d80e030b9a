"""The MQTT broker of the system, and a subscriber to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.support.pipelines import PATIENCE_S, wait_until
from tools.ports import free_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Broker:
    """A real mosquitto whose sessions survive a restart."""

    def __init__(self, folder: Path) -> None:
        assert MOSQUITTO is not None
        self.port = free_port()
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"persistence true\npersistence_location {folder}/\nautosave_interval 1\n"
            f"user {os.environ.get('USER', 'root')}\nlog_type error\n"
        )
        self._command = [MOSQUITTO, "-c", str(config)]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        wait_until(lambda: connects(self.port), "the broker")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)


def connects(port: int) -> bool:
    """Whether something listens at a port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE_S):
        return True
    return False


class Listener:
    """A subscriber with a persistent session, as Home Assistant is one."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, str, bool]] = []
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False
        )
        self._subscribed = False
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = lambda _c, _u, message: self.messages.append(
            (message.topic, message.payload.decode(), bool(message.retain))
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    def of(self, topic: str) -> list[str]:
        return [payload for known, payload, _ in list(self.messages) if known == topic]

    def newest(self, topic: str) -> str | None:
        """The newest payload of a topic; None before any."""
        payloads = self.of(topic)
        return payloads[-1] if payloads else None

    def publish(self, topic: str, payload: str, *, retain: bool = True) -> None:
        """Publish, and wait until the broker has it."""
        sent = self._client.publish(topic, payload, qos=1, retain=retain)
        sent.wait_for_publish(PATIENCE_S)
        assert sent.is_published()

    @property
    def connected(self) -> bool:
        """Whether every message from now on arrives."""
        return self._client.is_connected() and self._subscribed

    def _on_subscribe(self, *_: object) -> None:
        self._subscribed = True

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

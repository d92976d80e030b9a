"""`speech-emotion mqtt` with Home Assistant itself, in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from tests.support.broker import MOSQUITTO, Broker
from tests.support.pipelines import PATIENCE_S, ROOT, Running, wait_until

PYTHON = ROOT / ".venv-homeassistant" / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="needs Home Assistant: deploy/setup.sh homeassistant"
    ),
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: deploy/setup.sh dev"),
]


class HomeAssistant:
    """A running Home Assistant: `rows` are the states that its entities have had."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        program = ROOT / "tests" / "support" / "home_assistant.py"
        self.log = folder / "log"
        self._stderr = self.log.open("w")
        self._process = subprocess.Popen(
            [PYTHON, program, folder, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
        self.rows: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self.rows.append(json.loads(line))

    def newest(self, entity: str) -> dict[str, Any]:
        """The newest state of an entity; empty before it exists."""
        return next((row for row in reversed(self.rows) if row["entity"] == entity), {})

    def wait_for(self, entity: str, *states: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.newest(entity).get("state") not in states:
            if time.monotonic() > deadline:
                pytest.fail(
                    f"{entity} is {self.newest(entity)}; log: {self.log.read_text()[-2000:]}"
                )
            time.sleep(0.05)

    def call(self, service: str, entity: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{service} {entity}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        with self._process:
            self._process.kill()
            self._reader.join()
        self._stderr.close()


@pytest.fixture
def home(broker: Broker, tmp_path: Path) -> Iterator[HomeAssistant]:
    one = HomeAssistant(tmp_path / "home", broker.port)
    one.wait_for("", "started")
    yield one
    one.close()


@contextlib.contextmanager
def forwarding(endpoint: str, port: int) -> Iterator[subprocess.Popen[str]]:
    words = ["--results", endpoint, "--broker", f"127.0.0.1:{port}", "--mute-switch"]
    process = subprocess.Popen(
        [sys.executable, "-m", "speech_emotion", "mqtt", *words],
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


PREFIX = "speech_emotion_main"


def test_home_assistant_shows_a_stream_hears_utterances_and_mutes(
    supervise: Callable[..., Running],
    clip: Callable[..., Path],
    broker: Broker,
    home: HomeAssistant,
    tmp_path: Path,
) -> None:
    switch = tmp_path / "switch"
    switch.write_text("0\n")
    settings = {"SEP_MUTE__STATE": str(tmp_path / "m.json"), "SEP_MUTE__SWITCH": str(switch)}
    running = supervise(f"--source=file:{clip(12.0, repeat=20)}", env=settings)
    with forwarding(running.endpoint, broker.port):
        wait_until(lambda: bool(labels_of(running)), "the labels")
        heard = (*labels_of(running), "uncertain", "silence")
        home.wait_for(f"sensor.{PREFIX}_emotion", *heard)
        home.wait_for(f"binary_sensor.{PREFIX}_problem", "off")
        home.wait_for(f"binary_sensor.{PREFIX}_speech", "on")
        event = f"event.{PREFIX}_utterance"
        wait_until(lambda: bool(home.newest(event).get("event_type")), "an utterance")
        spoken = home.newest(event)
        assert set(spoken["event_types"]) == {*labels_of(running), "uncertain"}
        heard_of = (spoken["event_type"], spoken["seq"], spoken["confidence"])
        wait_until(lambda: heard_of in utterances_of(running), "the same utterance")
        mute = "switch.speech_emotion_mute"
        home.wait_for(mute, "off")
        home.call("switch.turn_on", mute)
        home.wait_for(mute, "on")
        wait_until(lambda: home.newest(mute).get("by") == ["hand"], "the hand")
        home.wait_for(f"sensor.{PREFIX}_emotion", "muted")
        switch.write_text("1\n")
        wait_until(lambda: home.newest(mute).get("by") == ["switch", "hand"], "the physical switch")
        home.call("switch.turn_off", mute)
        wait_until(lambda: home.newest(mute).get("by") == ["switch"], "the hand's mute to end")
        assert home.newest(mute)["state"] == "on"
        assert running.stopped()[0] == 0
        home.wait_for(f"sensor.{PREFIX}_emotion", "unavailable")
        home.wait_for(mute, "unavailable")
        home.wait_for(f"binary_sensor.{PREFIX}_problem", "on")
    home.wait_for(f"binary_sensor.{PREFIX}_problem", "unavailable")  # the last will


def labels_of(running: Running) -> list[str]:
    """Labels of the bundle; empty before they are known."""
    known = [one for one, _, _ in running.received.messages if isinstance(one, public.Info)]
    return known[-1].labels if known else []


def utterances_of(running: Running) -> list[tuple[str, int, float]]:
    """Label, number and confidence of each utterance that was published."""
    spoken = running.received.fresh(public.Utterance)
    return [(one.emotion, one.seq, one.confidence) for one in spoken]

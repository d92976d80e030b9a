"""The add-on of Home Assistant: its configuration, and its program with a real broker."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]

import speech_emotion
from tests.support.broker import Broker, Listener
from tests.support.pipelines import PATIENCE_S, ROOT, fresh_endpoint, wait_until
from tools.ports import free_port

ADDON = ROOT / "deploy" / "homeassistant"
REQUIRED = {"name", "version", "slug", "description", "arch"}
ALLOWED = {
    *("name", "version", "slug", "description", "arch", "audio", "services", "options", "schema"),
    *("url", "ports", "ports_description", "map", "devices", "environment", "stage", "tmpfs"),
}
"""Of the keys in developers.home-assistant.io/docs/add-ons/configuration, those that fit here."""
DEFAULTS = {"audio": False, "options": {}, "schema": {}, "stage": "stable", "tmpfs": False}
"""The add-on linter refuses a key that has its default value."""
TYPE = r"(str|bool|int|float|password|port|email|url|match\(.+\)|list\(.+\))(\(\d*,\d*\))?\??"


def load(name: str) -> Any:
    return yaml.safe_load((ADDON / name).read_text())


def test_the_configuration_is_one_of_an_addon() -> None:
    config = load("config.yaml")
    assert set(config) >= REQUIRED
    assert set(config) <= ALLOWED
    assert not {key for key, value in config.items() if DEFAULTS.get(key) == value}
    assert config["version"] == speech_emotion.__version__
    assert re.fullmatch(r"[-_.A-Za-z0-9]+", config["slug"])
    assert set(config["arch"]) <= {"aarch64", "amd64"}
    assert all(re.fullmatch(r"(mqtt|mysql):(provide|want|need)", one) for one in config["services"])
    for kind in config["schema"].values():
        assert re.fullmatch(TYPE, kind), kind
    needed = {key for key, kind in config["schema"].items() if not kind.endswith("?")}
    assert set(config["options"]) == needed
    assert set(load("translations/en.yaml")["configuration"]) == set(config["schema"])


def test_the_image_installs_extras_that_exist() -> None:
    import tomllib

    text = (ADDON / "Dockerfile").read_text()
    (extras,) = re.findall(r"\.whl\)\[([a-z,]+)\]", text)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    for name in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert name.endswith(".whl") or (ADDON / name).is_file()


@pytest.fixture
def supervisor(broker: Broker) -> Iterator[str]:
    """A server that names the broker, as the Supervisor of Home Assistant does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/services/mqtt"
            allowed = self.headers["Authorization"] == "Bearer secret"
            data = {"host": "127.0.0.1", "port": broker.port, "ssl": False, "username": "addons"}
            body = json.dumps({"result": "ok", "data": {**data, "password": "p"}}).encode()
            self.send_response(200 if known and allowed else 403)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def start(data: Path, supervisor: str, **options: object) -> subprocess.Popen[str]:
    """The program of the add-on, in a process group of its own."""
    defaults = load("config.yaml")["options"]
    (data / "options.json").write_text(json.dumps({**defaults, **options}))
    return subprocess.Popen(
        [sys.executable, str(ADDON / "run.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DATA": str(data),
            "SUPERVISOR": supervisor,
            "SUPERVISOR_TOKEN": "secret",
            "SEP_RESULTS": fresh_endpoint(),
            "SEP_BUNDLE": str(ROOT / "models" / "small"),
        },
    )


@pytest.mark.slow
def test_the_addon_announces_its_microphone_and_ends_in_order(
    broker: Broker, supervisor: str, clip: Callable[..., Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    listener = Listener(broker.port)
    source = f"file:{clip(9.0, repeat=20)}"
    with start(data, supervisor, stream="kitchen", source=source) as process:
        try:
            wait_until(lambda: bool(listener.of("sep/kitchen/utterance")), "an utterance")
            wait_until(lambda: listener.newest("sep/kitchen/availability") == "online", "it")
            switch = "homeassistant/switch/sep_pipeline/mute/config"
            wait_until(lambda: bool(listener.of(switch)), "the switch")
            assert json.loads(listener.of(switch)[-1])["command_topic"] == "sep/mute/set"
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
            wait_until(lambda: listener.newest("sep/status") == "offline", "its end")
            assert (data / "history.sqlite").stat().st_size > 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            listener.close()


def test_without_a_broker_it_says_what_to_install(tmp_path: Path) -> None:
    with start(tmp_path, f"http://127.0.0.1:{free_port()}") as process:
        assert process.wait(PATIENCE_S) == 2
        (line,) = process.stderr.read().splitlines()  # type: ignore[union-attr]
    assert line.startswith("add-on: no MQTT broker (")
    assert "install the add-on Mosquitto broker" in line

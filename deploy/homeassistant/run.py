"""Runs the pipeline and `speech-emotion mqtt` in the add-on, from its options.

The broker is the one in the options, else the one that the Supervisor of Home Assistant names. If
one of the two programs ends, the other is ended, too; the Supervisor starts the add-on again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from speech_emotion.common.connection_error import phrase

PROGRAM = (sys.executable, "-m", "speech_emotion")
RESULTS = os.environ.get("SEP_RESULTS", "tcp://127.0.0.1:5555")
STOP_S = 30.0
"""Longest time in seconds that a program may take to end."""


def broker_of(options: Mapping[str, Any], supervisor: str, token: str) -> dict[str, Any]:
    """Host, port, user, password and encryption of the broker.

    Raises:
        OSError: the Supervisor does not answer, or knows no broker.
        ValueError: its answer is no such table.
    """
    if options.get("broker"):
        host, _, port = options["broker"].partition(":")
        keys = {"username": options.get("username"), "password": options.get("password")}
        return {"host": host, "port": int(port or 1883), "ssl": False, **keys}
    request = urllib.request.Request(
        f"{supervisor}/services/mqtt", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10.0) as answer:
        table = json.load(answer)
    if not isinstance(table, dict) or not isinstance(table.get("data"), dict):
        raise ValueError("an answer without `data`")
    return {"ssl": False, "username": None, "password": None, **table["data"]}


def pipeline_words(options: Mapping[str, Any], data: Path) -> list[str]:
    """Arguments of `speech-emotion run`; writes its configuration."""
    table: dict[str, Any] = {
        "results": RESULTS,
        "stream": [{"name": options["stream"], "source": options["source"]}],
        "capture": {"wait_for_device": True},
    }
    if options.get("history"):
        table["history"] = {"file": str(data / "history.sqlite")}
    config = data / "pipeline.toml"
    config.write_text(tomli_w.dumps(table))
    return ["run", "--config", str(config)]


def forward_words(options: Mapping[str, Any], broker: Mapping[str, Any]) -> list[str]:
    """Arguments of `speech-emotion mqtt`; the password is in its environment."""
    words = ["mqtt", "--results", RESULTS, "--broker", f"{broker['host']}:{broker['port']}"]
    if broker.get("username"):
        words += ["--username", str(broker["username"])]
    if broker.get("ssl"):
        words.append("--tls")
    if options.get("mute_switch"):
        words.append("--mute-switch")
    return words


def run(programs: list[subprocess.Popen[bytes]]) -> int:
    """Wait until a program ends or a stop is requested; end all; returns the first exit code."""
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda one, _: stops.append(one))
    while not stops and all(program.poll() is None for program in programs):
        time.sleep(0.2)
    code = next((one.returncode for one in programs if one.poll() is not None), 0)
    for program in programs:
        with contextlib.suppress(ProcessLookupError):
            program.terminate()
    for program in programs:
        try:
            program.wait(STOP_S)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
    return code


def main() -> int:
    data = Path(os.environ.get("DATA", "/data"))
    supervisor = os.environ.get("SUPERVISOR", "http://supervisor")
    try:
        options = json.loads((data / "options.json").read_text())
        broker = broker_of(options, supervisor, os.environ.get("SUPERVISOR_TOKEN", ""))
    except (OSError, ValueError) as error:
        reason = phrase(error, "Supervisor")
        print(
            f"add-on: no MQTT broker ({reason}); install the add-on Mosquitto broker and the "
            "integration MQTT, or set `broker`",
            file=sys.stderr,
        )
        return 2
    environment = {
        "STATE_DIRECTORY": str(data),
        **os.environ,
        "MQTT_PASSWORD": str(broker.get("password") or ""),
    }
    words = (pipeline_words(options, data), forward_words(options, broker))
    return run([subprocess.Popen([*PROGRAM, *one], env=environment) for one in words])


if __name__ == "__main__":
    sys.exit(main())

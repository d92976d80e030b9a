"""The sources of a sound server (PulseAudio or PipeWire), asked with `pactl`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import threading
from typing import Any

from speech_emotion.common.linux.parent_death import die_with_parent

TIMEOUT_S = 2.0


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of the sound server.

    Attributes:
        index: number of the source, valid while it exists.
        name: name that stays the same after a replug.
        description: name for people.
        usb: vendor:product in hex; None where it is not on USB.
        loopback: whether it repeats what an output plays (PulseAudio calls it a monitor).
        channels: number of channels.
        rate: sample rate in Hz.
    """

    index: int
    name: str
    description: str
    usb: str | None
    loopback: bool
    channels: int
    rate: int


def sources() -> list[Source]:
    """List all sources; empty where no server answers."""
    readable = []
    for row in _list("sources"):
        with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError):
            readable.append(_source(row))  # skip a row without the fields that we need
    return readable


def _source(row: dict[str, Any]) -> Source:
    properties = row.get("properties", {})
    vendor, product = (properties.get(f"device.{key}.id", "") for key in ("vendor", "product"))
    usb = properties.get("device.bus") == "usb" and vendor and product
    _, channels, rate = row["sample_specification"].split()
    return Source(
        index=row["index"],
        name=row["name"],
        description=row.get("description") or row["name"],
        usb=f"{vendor[-4:]}:{product[-4:]}".lower() if usb else None,
        loopback=properties.get("device.class") == "monitor",
        channels=int(channels.removesuffix("ch")),
        rate=int(rate.removesuffix("Hz")),
    )


def default_source() -> str | None:
    """Name of the source that is recorded when none is named."""
    return os.environ.get("PULSE_SOURCE") or (_pactl("get-default-source") or "").strip() or None


def own_source() -> str | None:
    """Name of the source that this process records; None if it records none."""
    names = {source.index: source.name for source in sources()}
    for row in _list("source-outputs"):
        if row.get("properties", {}).get("application.process.id") == str(os.getpid()):
            return names.get(row.get("source", -1))
    return None


class SourceFollower:
    """Follows which source the server gives to this process: a thread that reads `pactl subscribe`.

    When a source is removed, the server moves the application to another source without
    reporting it. Create the follower on the main thread: the kernel kills `pactl` when the
    thread that started it ends.

    Attributes:
        first: name of the first source; None until it is known.
        now: name of the present source; None until it is known.
    """

    def __init__(self) -> None:
        self.first: str | None = None
        self.now: str | None = None
        self._process: subprocess.Popen[str] | None = None
        if shutil.which("pactl") is None:
            return
        self._process = subprocess.Popen(
            ["pactl", "subscribe"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(),
            preexec_fn=die_with_parent,
        )
        threading.Thread(target=self._follow, name="source follower", daemon=True).start()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _follow(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._update()
        # The output ends with the server. The source monitor detects that the device has stopped.
        with self._process.stdout as lines:
            for line in lines:
                if "source" in line or "server" in line:
                    self._update()

    def _update(self) -> None:
        source = own_source()
        if source is not None:
            self.first = self.first or source
            self.now = source


def _list(kind: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(_pactl("--format=json", "list", kind) or "[]")
    except ValueError:
        return []  # this version of pactl has no JSON output
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _pactl(*arguments: str) -> str | None:
    if shutil.which("pactl") is None:
        return None
    try:
        finished = subprocess.run(
            ["pactl", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        return None
    return finished.stdout if finished.returncode == 0 else None


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}

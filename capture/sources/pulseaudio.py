"""What a sound server says of the sources behind ALSA's `pulse` and `default`."""

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
        name: its own, the same after a replug.
        description: for people.
        usb: vendor:product in hex, where it is on USB.
        monitor: whether it is what some output plays.
        rate: Hz.
    """

    index: int
    name: str
    description: str
    usb: str | None
    monitor: bool
    channels: int
    rate: int


def sources() -> list[Source]:
    """Every source there is; none where there is no server that answers."""
    found = []
    for row in _list("sources"):
        with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError):
            found.append(_source(row))  # what we cannot read we cannot use
    return found


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
        monitor=properties.get("device.class") == "monitor",
        channels=int(channels.removesuffix("ch")),
        rate=int(rate.removesuffix("Hz")),
    )


def default_source() -> str | None:
    """Name of the source that would be recorded where nobody names one."""
    return os.environ.get("PULSE_SOURCE") or (_pactl("get-default-source") or "").strip() or None


def own_source() -> str | None:
    """Name of the source that this process records; None where it records none."""
    names = {source.index: source.name for source in sources()}
    for row in _list("source-outputs"):
        if row.get("properties", {}).get("application.process.id") == str(os.getpid()):
            return names.get(row.get("source", -1))
    return None


class SourceFollower:
    """Follows which source the server gives to this process: a thread beside `pactl subscribe`.

    A source that goes away while another is there is replaced by that one without a word to
    the application. Make it on the main thread: the kernel ends `pactl` with its maker.

    Attributes:
        first: the source when this began, None until that is known.
        now: the present one.
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
        self._look()
        # Ends with the server; that the device has stopped then is seen elsewhere.
        for line in self._process.stdout:
            if "source" in line or "server" in line:
                self._look()

    def _look(self) -> None:
        source = own_source()
        if source is not None:
            self.first = self.first or source
            self.now = source


def _list(what: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(_pactl("--format=json", "list", what) or "[]")
    except ValueError:
        return []  # a pactl that knows no JSON
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _pactl(*arguments: str) -> str | None:
    if shutil.which("pactl") is None:
        return None
    try:
        done = subprocess.run(
            ["pactl", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}

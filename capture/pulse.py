"""What a sound server says of the source behind ALSA's `pulse` and `default`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

TIMEOUT_S = 2.0


def native_format() -> tuple[int, int] | None:
    """Channels and rate in Hz of the source that would be recorded; None where nobody knows.

    ALSA's plugin resamples to whatever it is asked for and calls 44100 Hz its own rate; the
    server knows better.
    """
    source = current_source()
    for name, channels, rate in _sources():
        if name == source:
            return channels, rate
    return None


def current_source() -> str | None:
    """Name of the source that would be recorded."""
    return os.environ.get("PULSE_SOURCE") or (_pactl("get-default-source") or "").strip() or None


def _sources() -> list[tuple[str, int, int]]:
    rows = []
    for line in (_pactl("list", "short", "sources") or "").splitlines():
        fields = line.split("\t")
        found = re.search(r"(\d+)ch (\d+)Hz", line)
        if len(fields) > 1 and found:
            rows.append((fields[1], int(found[1]), int(found[2])))
    return rows


def _pactl(*arguments: str) -> str | None:
    if shutil.which("pactl") is None:
        return None
    try:
        done = subprocess.run(
            ["pactl", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None

"""A microphone of PipeWire without its PulseAudio server: one `pw-record` per connection.

Before each connection `pw-dump` says whether the microphone is there: `pw-record` alone would take
another one in its place, or wait for ever.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
from typing import Any

import numpy as np

from speech_emotion.capture.sources.network.connection import Chunk, End
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.parent_death import die_with_parent

PROGRAMS = ("pw-dump", "pw-record")
RATE = 48000
"""Rate in Hz that is asked for: the usual one of PipeWire's clock, which needs no resampling."""
LATENCY = "20ms"
MOST_CHANNELS = 8
READ_BYTES = 1 << 16
REAP_S = 0.2
TIMEOUT_S = 2.0


@dataclasses.dataclass(frozen=True)
class Node:
    """A source of PipeWire.

    Attributes:
        name: name that stays the same after a replug.
        description: name for people.
    """

    name: str
    description: str
    channels: int


def require_pipewire() -> None:
    """Check that PipeWire's programs are installed.

    Raises:
        UserError: one is missing.
    """
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise UserError(
            f"pipewire sources need {missing[0]}; install it with: "
            "sudo apt-get install pipewire-bin"
        )


def nodes() -> list[Node]:
    """List the sources; empty where PipeWire does not run."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["pw-dump"], capture_output=True, timeout=TIMEOUT_S)
        return parse_nodes(done.stdout)
    return []


def parse_nodes(dump: bytes) -> list[Node]:
    """The sources in what `pw-dump` writes; empty where it is no list."""
    found = []
    with contextlib.suppress(ValueError):
        for row in json.loads(dump):
            with contextlib.suppress(KeyError, TypeError, AttributeError):
                properties = row["info"]["props"]
                if properties["media.class"].startswith(("Audio/Source", "Audio/Duplex")):
                    name = properties["node.name"]
                    described = properties.get("node.description", name)
                    found.append(Node(name, described, _channels(row["info"], properties)))
    return found


def choose(found: list[Node], name: str) -> Node:
    """The source of a name, or of a part that only one has; the first one for no name.

    Raises:
        ValueError: none, or several; the text says which there are.
    """
    listing = ", ".join(node.name for node in found) or "none"
    exact = [node for node in found if name == node.name]
    partly = [n for n in found if name.lower() in f"{n.name}\n{n.description}".lower()]
    chosen = exact or (partly[:1] if not name else partly)
    if len(chosen) != 1:
        raise ValueError(f"PipeWire has {len(chosen) or 'no'} sources {name!r}; it has: {listing}")
    return chosen[0]


def _channels(info: dict[str, Any], properties: dict[str, Any]) -> int:
    parameters = info.get("params", {})
    formats = [*parameters.get("Format", []), *parameters.get("EnumFormat", [])]
    known = [properties.get("audio.channels"), *(one.get("channels") for one in formats)]
    numbers = [int(n) for n in known if isinstance(n, int | str) and str(n).isdigit()]
    return min(MOST_CHANNELS, max(1, numbers[0] if numbers else 2))


class PipeWireConnection:
    """`pw-dump`, and then `pw-record` of the source that was found.

    Create it in a thread that lives as long: the kernel kills both when that thread ends.

    Args:
        name: of the source, or a part of it; empty: the first one.
    """

    def __init__(self, name: str) -> None:
        self.rate: int | None = None
        self.end: End | None = None
        self.doing = "asking PipeWire for its sources"
        self._name = name
        self._channels = 0
        self._content = bytearray()
        self._child = _started("pw-dump")

    def read(self, now: float, seconds: float) -> list[Chunk]:
        """The chunks that have arrived, about `seconds` of sound at most."""
        ended = self._child.poll() is not None
        arrived = self._read(seconds)
        if self.rate is None:
            if ended and not arrived:
                self._record()
            return []
        if ended and not arrived:
            self.end = End("pw-record has ended: does PipeWire run, is the microphone plugged in?")
        frame = 4 * self._channels
        whole = len(self._content) // frame * frame
        if not whole:
            return []
        samples = np.frombuffer(bytes(self._content[:whole]), np.float32)
        del self._content[:whole]
        return [Chunk(samples.reshape(-1, self._channels), now, None)]

    def close(self) -> None:
        """Kill the child."""
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(REAP_S)
        assert self._child.stdout is not None
        self._child.stdout.close()

    def _record(self) -> None:
        """Start to record, now that the sources are known."""
        try:
            node = choose(parse_nodes(bytes(self._content)), self._name)
        except ValueError as error:
            self.end = End(str(error) if self._content else "PipeWire does not run")
            return
        self.close()
        self._content.clear()
        self._channels = node.channels
        self._child = _started(
            *("pw-record", "--target", node.name, "--rate", str(RATE), "--format", "f32"),
            *("--channels", str(node.channels), "--latency", LATENCY),
            *("-P", "{ node.dont-reconnect = true }", "-"),
        )
        self.rate = RATE
        self.doing = f"recording from {node.description}"

    def _read(self, seconds: float) -> bool:
        """Take what has arrived; whether there was anything."""
        assert self._child.stdout is not None
        room = seconds * RATE * 4 * max(1, self._channels) if self.rate else float("inf")
        before = len(self._content)
        while len(self._content) - before < room:
            try:
                content = os.read(self._child.stdout.fileno(), READ_BYTES)
            except BlockingIOError:
                break
            if not content:
                break
            self._content += content
        return len(self._content) > before


def _started(*words: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    return child

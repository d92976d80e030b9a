"""A PipeWire of its own, with a virtual microphone that can be unplugged."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from speech_emotion.capture.sources.network.pipewire import parse_nodes
from speech_emotion.common.closing import Closing
from tests.support.pipelines import PATIENCE_S

NEEDED = ("pipewire", "wireplumber", "pw-dump", "pw-record", "pw-cli", "pw-cat", "pw-loopback")
NODE = "virtmic"


def installed() -> bool:
    """Whether the programs that it needs are installed."""
    return all(shutil.which(program) for program in (*NEEDED, "dbus-run-session"))


class VirtualPipeWire(Closing):
    """PipeWire and WirePlumber, and a sink whose other end is a source (`virtmic`)."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="sep-pipewire-"))
        self._daemons: subprocess.Popen[bytes] | None = None
        self._owner: subprocess.Popen[bytes] | None = None
        self._player: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        """Environment of its clients."""
        return {"PIPEWIRE_RUNTIME_DIR": str(self._folder)}

    def start(self) -> None:
        """Start the daemons, and plug the microphone in."""
        # WirePlumber ends where PipeWire does not listen yet.
        listens = '[ -S "$XDG_RUNTIME_DIR/pipewire-0" ]'
        script = f"pipewire & until {listens}; do sleep 0.05; done; exec wireplumber"
        environment = {
            **os.environ,
            **dict.fromkeys(("HOME", "XDG_RUNTIME_DIR"), str(self._folder)),
        }
        self._daemons = subprocess.Popen(
            ["dbus-run-session", "--", "sh", "-c", script],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        self._await(lambda: self._run("pw-cli", "info", "0").returncode == 0)
        self.plug()

    def plug(self) -> None:
        """Make the microphone, which lives as long as the process that made it."""
        self._owner = subprocess.Popen(
            [
                *("pw-loopback", "--capture-props"),
                f"{{ media.class=Audio/Sink node.name={NODE}.in audio.position=[MONO] }}",
                "--playback-props",
                f"{{ media.class=Audio/Source node.name={NODE} audio.position=[MONO] }}",
                *("--channels", "1"),
            ],
            env={**os.environ, **self.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._await(lambda: any(n.name == NODE for n in parse_nodes(self._run("pw-dump").stdout)))

    def unplug(self) -> None:
        """Remove the microphone."""
        for process in (self._player, self._owner):
            if process is not None:
                process.kill()
                process.wait()
        self._player = self._owner = None

    def play(self, path: Path) -> None:
        """Play a sound file into the microphone."""
        self._player = subprocess.Popen(
            ["pw-cat", "--playback", "--target", f"{NODE}.in", str(path)],
            env={**os.environ, **self.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """Kill the daemons, as a crash does."""
        self.unplug()
        if self._daemons is not None:
            os.killpg(self._daemons.pid, signal.SIGKILL)
            self._daemons.wait()
            self._daemons = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(words, env={**os.environ, **self.env}, capture_output=True)

    def _await(self, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not there():
            if time.monotonic() > deadline:
                raise RuntimeError("PipeWire did not start")
            time.sleep(0.05)

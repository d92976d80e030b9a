"""A virtual microphone: PulseAudio's null sink, a real PortAudio device without a sound card."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from speech_emotion.common.closing import Closing
from tests.support.pipelines import PATIENCE_S

NEEDED = ("pulseaudio", "pactl", "pacat")


def installed() -> bool:
    """Whether the programs that the virtual microphone needs are installed."""
    return all(shutil.which(program) for program in NEEDED)


class VirtualMicrophone(Closing):
    """A separate audio daemon with a null sink, whose monitor repeats the played samples.

    Args:
        rate: sample rate of the sink in Hz.
        channels: number of channels of the sink.
    """

    def __init__(self, rate: int = 16000, channels: int = 1) -> None:
        self.rate, self.channels = rate, channels
        self._folder = Path(tempfile.mkdtemp(prefix="sep-pulse-"))
        self._daemon: subprocess.Popen[bytes] | None = None
        self._players: list[subprocess.Popen[bytes]] = []

    @property
    def env(self) -> dict[str, str]:
        """Environment in which the device `pulse` is this microphone."""
        return {
            "HOME": str(self._folder),
            "PULSE_SERVER": f"unix:{self._folder}/native",
            "PULSE_SOURCE": "virtmic.monitor",
            "PULSE_SINK": "virtmic",
        }

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        script = self._folder / "pulse.pa"
        script.write_text(
            "load-module module-native-protocol-unix auth-anonymous=1 "
            f"socket={self._folder}/native\n"
            f"load-module module-null-sink sink_name=virtmic rate={self.rate} "
            f"channels={self.channels} format=s16le\n"
            "set-default-sink virtmic\nset-default-source virtmic.monitor\n"
        )
        environment = {
            **os.environ,
            "HOME": str(self._folder),
            "XDG_RUNTIME_DIR": str(self._folder),
        }
        self._daemon = subprocess.Popen(
            [
                *("pulseaudio", "-n", "-F", str(script), "--exit-idle-time=-1"),
                *("--daemonize=no", "--disable-shm", "--log-level=error"),
            ],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE_S
        while self.pactl("info").returncode != 0:
            if time.monotonic() > deadline or self._daemon.poll() is not None:
                raise RuntimeError("the audio daemon did not start")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill the daemon, as a crash does."""
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGKILL)
            self._daemon.wait()
            self._daemon = None

    def pactl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pactl", *arguments], env={**os.environ, **self.env}, capture_output=True, text=True
        )

    def play(self, path: Path) -> subprocess.Popen[bytes]:
        """Play a sound file into the microphone, in real time."""
        player = subprocess.Popen(["paplay", str(path)], env={**os.environ, **self.env})
        self._players.append(player)
        return player

    def __enter__(self) -> Self:
        self.start()
        return self

    def close(self) -> None:
        """Kill the daemon and its players, and remove their folder."""
        self.kill()
        for player in self._players:
            player.kill()
            player.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

"""CPU of capture, and of its ffmpeg, for a microphone and for network sources with the same sound.

usage: python -m bench.sources [SECONDS]

It needs PulseAudio, ffmpeg and GStreamer's RTSP server, as the tests do.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from speech_emotion.common.wire import public
from tests.support import sound_servers
from tests.support.pipelines import Running, wait_until
from tests.support.pulse import VirtualMicrophone
from tests.support.sound_servers import noise

SECONDS = 30.0


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def measured(name: str, running: Running, seconds: float) -> None:
    """Print CPU and memory of capture and of its children, over some seconds of live sound."""
    try:
        running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= 6)
        capture = running.stages()["capture"]
        processes = {"capture": capture, **{c.name(): c for c in capture.children()}}
        before = {key: cpu_s(process) for key, process in processes.items()}
        began = time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - began
        cells = [
            f"{key} {100 * (cpu_s(process) - before[key]) / elapsed:.2f} % of a core, "
            f"{process.memory_full_info().pss / 2**20:.0f} MiB"
            for key, process in processes.items()
        ]
        print(f"{name}: {'; '.join(cells)}", flush=True)
        running.process.terminate()
        wait_until(lambda: running.process.poll() is not None, "the end")
    finally:
        running.end()


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        sound = noise(Path(folder), 16000)
        with VirtualMicrophone() as microphone:
            player = microphone.play(sound.path)
            measured("microphone", Running("--source=mic", env=microphone.env), seconds)
            player.kill()
            player.wait()
        with sound_servers.rtsp(sound) as server:
            measured("RTSP, L16", Running(f"--source={server.url}"), seconds)
        with sound_servers.udp(noise(Path(folder), 48000, 2)) as server:
            measured("UDP, TrueHD stereo 48 kHz", Running(f"--source={server.url}"), seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

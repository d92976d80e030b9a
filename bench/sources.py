"""CPU of capture, and of its ffmpeg, for a microphone and for network sources with the same sound.

It needs PulseAudio, ffmpeg and GStreamer's RTSP server, as the tests do; without them there are no
figures.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from speech_emotion.common.wire import public
from tests.support import sound_servers
from tests.support.pipelines import Running
from tests.support.pulse import VirtualMicrophone, installed
from tests.support.sound_servers import noise

RATE = 16000
SETTLED = 6
"""Results before the measurement begins."""


def measure(seconds: float) -> dict[str, Any]:
    """CPU in per cent of a core and memory in MiB by source and process.

    Args:
        seconds: length of each measurement.
    """
    needed = installed(), sound_servers.has_ffmpeg(), sound_servers.has_rtsp_server()
    if not all(needed):
        return {}
    with (
        tempfile.TemporaryDirectory(prefix="sep-bench-") as folder,
        patch.dict(os.environ, {"XDG_RUNTIME_DIR": folder}),
    ):
        sound, stereo = noise(Path(folder), RATE), noise(Path(folder), 48000, 2)
        with VirtualMicrophone(RATE) as microphone:
            microphone.play(sound.path)
            of_microphone = cost(Running("--source=mic", env=microphone.env), seconds)
        with sound_servers.rtsp(sound) as server:
            of_camera = cost(Running(f"--source={server.url}"), seconds)
        with sound_servers.udp(stereo) as server:
            of_udp = cost(Running(f"--source={server.url}"), seconds)
    return {
        "microphone (PulseAudio, 16 kHz)": of_microphone,
        "RTSP (L16, 16 kHz)": of_camera,
        "UDP (TrueHD, stereo, 48 kHz)": of_udp,
    }


def cost(running: Running, seconds: float) -> dict[str, dict[str, float]]:
    """CPU and memory of capture and of its children, over some seconds of live sound."""
    try:
        running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= SETTLED)
        capture = running.stages()["capture"]
        processes = {"capture": capture, **{c.name(): c for c in capture.children()}}
        before = {name: cpu_s(process) for name, process in processes.items()}
        began = time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - began
        return {
            name: {
                "cpu_percent": 100.0 * (cpu_s(process) - before[name]) / elapsed,
                "pss_mb": process.memory_full_info().pss / 2**20,
            }
            for name, process in processes.items()
        }
    finally:
        running.end()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system

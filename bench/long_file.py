"""Peak memory of `infer --out` on one long file.

The file is sparse: the demo at the beginning of each hour, silence after it. It takes hardly any
disk, and is read, hashed, resampled and analysed like any other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import soxr

from bench.harness import ROOT
from speech_emotion.common.paths import DEMO_CLIP

BYTES = 2
"""Of a sample; one channel."""
LOOK_S = 0.2
RATE = 192_000


def measure(bundle: Path, hours: float) -> dict[str, Any]:
    """Peak memory in MB of the program and of its worker, and seconds, for a file at 192 kHz."""
    with tempfile.TemporaryDirectory(prefix="sep-bench-", dir="/var/tmp") as name:
        path = long_file(Path(name) / "long.w64", hours, RATE)
        command = ["-m", "infer", str(path), "--out", f"{name}/out", "--jobs", "1"]
        began = time.monotonic()
        infer = subprocess.Popen(
            [sys.executable, *command, "--bundle", str(bundle)],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        peaks = watch(infer)
        if infer.returncode:
            raise RuntimeError(f"infer ended with exit code {infer.returncode}")
        return {
            "hours": hours,
            "bytes": path.stat().st_size,
            "seconds": time.monotonic() - began,
            "peak_mb": peaks,
        }


def long_file(path: Path, hours: float, rate: int) -> Path:
    """A sparse file of 16-bit samples in Wave64, whose sizes have 64 bits."""
    samples, demo_rate = soundfile.read(DEMO_CLIP, dtype="float32")
    speech = soxr.resample(samples, demo_rate, rate)
    soundfile.write(path, speech, rate, subtype="PCM_16", format="W64")
    size = round(hours * 3600 * rate) * BYTES
    with path.open("r+b") as file:
        header = file.read(4096)
        data = header.index(b"data\xf3\xac\xd3\x11")  # the identifier of the chunk
        begin = data + 24
        file.seek(16)
        file.write((begin + size).to_bytes(8, "little"))
        file.seek(data + 16)
        file.write((24 + size).to_bytes(8, "little"))
        speech = (32767.0 * np.clip(speech, -1.0, 1.0)).astype("<i2")
        for hour in range(int(hours)):
            file.seek(begin + hour * 3600 * rate * BYTES)
            file.write(speech.tobytes())
        file.truncate(begin + size)
    return path


def watch(program: subprocess.Popen[bytes]) -> dict[str, float]:
    """Peak resident memory in MB of a program and of the process that it starts."""
    peaks = {"program": 0.0, "worker": 0.0}
    while program.poll() is None:
        try:
            workers = psutil.Process(program.pid).children()
            pids = {"program": program.pid, "worker": workers[0].pid if workers else program.pid}
            for kind, pid in pids.items():
                if kind == "program" or pid != program.pid:
                    peaks[kind] = max(peaks[kind], peak_mb(pid))
        except (psutil.Error, OSError, IndexError):
            continue
        time.sleep(LOOK_S)
    return peaks


def peak_mb(pid: int) -> float:
    """The kernel's own maximum, so that nothing between two looks is missed."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0

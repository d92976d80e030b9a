"""Peak memory of `infer --out` on one long file: `python -m bench.long_file`.

The file is sparse: the demo at the beginning of each hour, silence after it. It takes hardly any
disk, and is read, hashed, resampled and analysed like any other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile
import soxr

from bench.harness import ROOT, machine
from speech_emotion.common.paths import DEMO_CLIP

BYTES = 2
"""Of a sample; one channel."""
LOOK_S = 0.2


def main() -> int:
    """Measure and print. Returns the exit code of `infer`."""
    parser = argparse.ArgumentParser(prog="python -m bench.long_file", description=__doc__)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=192_000, help="sample rate in Hz")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "small")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sep-bench-") as name:
        path = long_file(Path(name) / "long.w64", flags.hours, flags.rate)
        command = ["-m", "infer", str(path), "--out", f"{name}/out", "--jobs", "1"]
        began = time.monotonic()
        infer = subprocess.Popen(
            [sys.executable, *command, "--bundle", str(flags.bundle)], cwd=ROOT
        )
        peaks = watch(infer)
        elapsed = time.monotonic() - began
        used = path.stat().st_blocks * 512 / 1e6
        print(
            f"{machine()['cpu']}: {flags.hours:g} hours at {flags.rate} Hz, "
            f"{path.stat().st_size / 1e9:.1f} GB ({used:.0f} MB on the disk), in {elapsed:.0f} s; "
            f"peak memory {', '.join(f'{kind} {mib:.0f} MiB' for kind, mib in peaks.items())}, "
            f"together {sum(peaks.values()):.0f} MiB"
        )
        return infer.returncode


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
    """Peak resident memory in MiB of a program and of the process that it starts."""
    peaks = {"program": 0.0, "worker": 0.0}
    while program.poll() is None:
        try:
            workers = psutil.Process(program.pid).children()
            pids = {"program": program.pid, "worker": workers[0].pid if workers else program.pid}
            for kind, pid in pids.items():
                if kind == "program" or pid != program.pid:
                    peaks[kind] = max(peaks[kind], peak_mib(pid))
        except (psutil.Error, OSError, IndexError):
            continue
        time.sleep(LOOK_S)
    return peaks


def peak_mib(pid: int) -> float:
    """The kernel's own maximum, so that nothing between two looks is missed."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())

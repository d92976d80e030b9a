"""Seconds from `python supervisor.py` to the first result, with and without the first window.

    python -m bench.first_result [RUNS]

Plays the demo clip in real time. The first window is complete one window length after capture
starts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.client.results import Results
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.paths import PACKAGE as ROOT


def measure() -> float:
    """Start the pipeline once. Returns the seconds to its first result."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/results"
        with Results(endpoint, timeout=30.0) as results:
            began = time.monotonic()
            process = subprocess.Popen(
                [
                    *(sys.executable, str(ROOT / "supervisor.py"), "--results", endpoint),
                    *("--source", f"file:{ROOT / 'examples' / 'demo.flac'}"),
                ],
                stderr=subprocess.DEVNULL,
            )
            next(iter(results))
            seconds = time.monotonic() - began
            process.terminate()
            process.wait()
    return seconds


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    window = load_bundle(DEFAULT_BUNDLE).spec.window_s
    measure()  # warm up the file cache
    seconds = [measure() for _ in range(runs)]
    print(f"{runs} starts, window {window:g} s")
    for name, value in (("median", statistics.median(seconds)), ("longest", max(seconds))):
        print(f"{name:<8} {value:6.2f} s, {value - window:5.2f} s beyond the window")


if __name__ == "__main__":
    main()

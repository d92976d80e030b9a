"""Cost of a stream with a local infer and with an infer host: CPU per process, bytes on the wire.

    python -m bench.host [--streams 4 16 48] [--seconds 20]

Plays the demo in real time for each number of streams, once with a local infer and once with an
infer host on loopback with keys. Counts all bytes of the loopback interface, so run it where
nothing else uses that (`unshare --net`, `ip link set lo up`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile

from speech_emotion.common.client.results import Results
from speech_emotion.common.security.curve import make_keys
from speech_emotion.common.wire.public import Result

ROOT = Path(__file__).resolve().parent.parent
SETTLE_S = 6.0
HUB, FEATURES = "tcp://127.0.0.1:5556", "tcp://127.0.0.1:5557"
STAGES = ("supervisor", "capture", "features", "infer")


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--streams", type=int, nargs="+", default=[4, 16, 48])
    flags.add_argument("--seconds", type=float, default=20.0)
    arguments = flags.parse_args()
    print(f"{psutil.cpu_count()} cores, Python {sys.version.split()[0]}")
    print("CPU in ms per second and stream; kB per second and stream; latency in ms")
    names = "".join(f"{name:>12}" for name in STAGES)
    print(
        f"{'streams':>8}{'infer':>7}{names}{'all':>8}{'kB/s':>8}{'p50':>7}{'p99':>7}{'speech':>8}"
    )
    for streams in arguments.streams:
        for remote in (False, True):
            with tempfile.TemporaryDirectory(prefix="sep-bench-") as folder:
                print(measure(Path(folder), streams, arguments.seconds, remote), flush=True)


def measure(folder: Path, streams: int, seconds: float, remote: bool) -> str:
    """One line of the table."""
    sound, rate = soundfile.read(ROOT / "examples" / "demo.flac", dtype="float32")
    repeats = 1 + int((seconds + 3 * SETTLE_S) * rate / len(sound))
    soundfile.write(folder / "long.wav", np.tile(sound, repeats), rate)
    rows = [f"[[stream]]\nname = 's{n}'\nsource = 'file:{folder}/long.wav'" for n in range(streams)]
    endpoint = f"ipc://{folder}/results"
    head = [f"results = '{endpoint}'"]
    if remote:
        for name in ("box", "host"):
            make_keys(folder, name)
        (folder / "allowed").mkdir()
        (folder / "host.key").rename(folder / "allowed" / "host.key")
        head += ["[infer_host]", f"hub = '{HUB}'", f"features = '{FEATURES}'"]
        head += [f"secret = '{folder}/box.key_secret'", f"allowed = '{folder}/allowed'"]
        boxes = [f"secret = '{folder}/host.key_secret'", "[[box]]", "name = 'a'", f"hub = '{HUB}'"]
        boxes += [f"features = '{FEATURES}'", f"server = '{folder}/box.key'"]
        (folder / "boxes.toml").write_text("\n".join(boxes))
    (folder / "box.toml").write_text("\n".join(head + rows))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    one = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    box = subprocess.Popen(
        [sys.executable, "supervisor.py", "--config", str(folder / "box.toml")],
        **quiet,  # type: ignore[call-overload]
    )
    host = None
    if remote:
        host = subprocess.Popen(
            [sys.executable, "-m", "infer", "--boxes", str(folder / "boxes.toml")],
            env=one,
            **quiet,  # type: ignore[call-overload]
        )
    try:
        with Results(endpoint, timeout=60.0) as results:
            next(iter(results))
            _receive(results, SETTLE_S)
            cpu_before, bytes_before, began = _cpu(box, host), _wire_bytes(), time.monotonic()
            received = _receive(results, seconds)
            cpu_after, bytes_after, ended = _cpu(box, host), _wire_bytes(), time.monotonic()
    finally:
        for process in (box, host):
            if process is not None:
                process.terminate()
                process.wait()
    elapsed = ended - began
    scale = 1000.0 / elapsed / streams
    cost = {name: (cpu_after[name] - cpu_before[name]) * scale for name in STAGES}
    latency = np.array([r.timing_ms["total"] for r in received if r.timing_ms])
    speech = sum(r.state == "speech" for r in received) / len(received)
    cells = "".join(f"{cost[name]:>12.2f}" for name in STAGES)
    return (
        f"{streams:>8}{'host' if remote else 'here':>7}{cells}{sum(cost.values()):>8.2f}"
        f"{(bytes_after - bytes_before) / 1000.0 / elapsed / streams:>8.1f}"
        f"{np.percentile(latency, 50):>7.1f}{np.percentile(latency, 99):>7.1f}{speech:>8.0%}"
    )


def _receive(results: Results, seconds: float) -> list[Result]:
    deadline, received = time.monotonic() + seconds, []
    while (left := deadline - time.monotonic()) > 0:
        event = results.receive(left)
        if event is not None and isinstance(event.message, Result) and not event.replay:
            received.append(event.message)
    return received


def _cpu(box: subprocess.Popen[bytes], host: subprocess.Popen[bytes] | None) -> dict[str, float]:
    """CPU seconds used so far, by stage."""
    supervisor = psutil.Process(box.pid)
    spent = dict.fromkeys(STAGES, 0.0)
    spent["supervisor"] = sum(supervisor.cpu_times()[:2])
    for child in supervisor.children():
        words = " ".join(child.cmdline()).split()
        if words[:1] == ["sep"]:
            spent[words[1]] += sum(child.cpu_times()[:2])
    if host is not None:
        spent["infer"] += sum(psutil.Process(host.pid).cpu_times()[:2])
    return spent


def _wire_bytes() -> int:
    """Bytes sent over the loopback interface so far."""
    return psutil.net_io_counters(pernic=True)["lo"].bytes_sent


if __name__ == "__main__":
    main()

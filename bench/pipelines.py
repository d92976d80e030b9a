"""Whole pipelines compared with the rival: latency, CPU, memory, start, streams, full speed."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import (
    PATIENCE_MS,
    Program,
    cpu_by_process,
    cpu_percent,
    loaded_cores,
    pipeline,
    quiet_file,
    rival,
    speech_file,
    spread,
)
from bench.original import original_bundle
from speech_emotion.common.bundle.manifest import Bundle

BLOCK_MS = 100.0
"""Block length of the rival, and of ours where both are compared by CPU time."""


@dataclasses.dataclass
class Setting:
    """Bundles and a folder for sound files, shared by the parts.

    Attributes:
        bundle: the measured bundle.
        original: a bundle with the original engine's spec.
        quick: run too short for valid figures, to test this program.
    """

    folder: Path
    bundle: Bundle
    original: Bundle
    quick: bool

    def seconds(self, seconds: float) -> float:
        return 3.0 if self.quick else seconds

    def rounds(self, rounds: int) -> int:
        return 1 if self.quick else rounds


@contextlib.contextmanager
def setting(bundle: Bundle, *, quick: bool) -> Iterator[Setting]:
    with tempfile.TemporaryDirectory(prefix="sep-bench-data-") as name:
        folder = Path(name)
        yield Setting(folder, bundle, original_bundle(folder / "original"), quick)


Start = Callable[[], Program]


def latencies(program: Program, seconds: float) -> list[float]:
    """ms from capture of each window's last sample to its message, without the first windows."""
    program.wait_for(results=3)
    until = time.monotonic() + seconds
    return [
        1000.0 * (now - message["time"])
        for topic, message, now in program.messages(until)
        if topic.startswith("result/")
    ]


def latency(at: Setting) -> dict[str, Any]:
    """Latency on an idle machine; ours with blocks of 20 ms."""
    return _latency(at, contextlib.nullcontext)


def loaded(at: Setting) -> dict[str, Any]:
    """Latency with one busy program per core."""
    return _latency(at, loaded_cores)


def _latency(
    at: Setting, load: Callable[[], contextlib.AbstractContextManager[None]]
) -> dict[str, Any]:
    speech = speech_file(at.folder, 120)
    programs: dict[str, Start] = {
        "ours": lambda: pipeline(speech, at.bundle.path, block_ms=20.0),
        "rival": lambda: rival(speech, at.original.path),
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    p99s: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(at.rounds(3)):
        for name, start in programs.items():
            with start() as program, load():
                ms = latencies(program, at.seconds(22.0))
            times[name] += ms
            p99s[name].append(float(np.percentile(ms, 99)))
    return {
        name: {**spread(values), "p99_by_round": spread(p99s[name])}
        for name, values in times.items()
    }


def live_cost(program: Program, seconds: float, streams: int = 1) -> dict[str, Any]:
    """CPU, memory and latency of a running program, after the first result of every stream."""
    seen: set[str] = set()
    for topic, _, _ in program.messages():
        if topic.startswith("result/"):
            seen.add(topic)
        if len(seen) == streams:
            break
    for _ in program.messages(time.monotonic() + 1.0):
        pass
    before = program.cost()
    ms: list[float] = []
    spoken = 0
    seqs: dict[str, list[int]] = {}
    for topic, message, now in program.messages(time.monotonic() + seconds):
        if topic.startswith("result/"):
            ms.append(1000.0 * (now - message["time"]))
            spoken += message["state"] == "speech"
            seqs.setdefault(topic, []).append(message["seq"])
    after = program.cost(memory=True)
    holes = sum(b - a != 1 for values in seqs.values() for a, b in itertools.pairwise(values))
    return {
        "cpu_percent": cpu_percent(before, after),
        "cpu_by_process": cpu_by_process(before, after),
        "pss_mb": after.pss_mb,
        "pss_total_mb": sum(after.pss_mb.values()),
        "windows": len(ms),
        "speech": spoken / max(1, len(ms)),
        "holes": holes + (streams - len(seqs)),
        "latency_ms": spread(ms),
    }


def cost(at: Setting) -> dict[str, Any]:
    """CPU and memory: one stream of speech, 16 streams, a silent room, and the rival."""
    speech, silent = speech_file(at.folder, 120), quiet_file(at.folder, 120)
    own, original = at.bundle.path, at.original.path
    programs: dict[str, tuple[Start, int]] = {
        "ours": (lambda: pipeline(speech, own, block_ms=BLOCK_MS), 1),
        "rival": (lambda: rival(speech, original), 1),
        "ours, 16 streams": (lambda: pipeline(speech, own, "--streams=16", block_ms=BLOCK_MS), 16),
        "ours, the original's spec": (lambda: pipeline(speech, original, block_ms=BLOCK_MS), 1),
        "rival, our spec": (lambda: rival(speech, own), 1),
        "ours, silent room": (lambda: pipeline(silent, own, block_ms=20.0), 1),
        "rival, silent room": (lambda: rival(silent, original), 1),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    for _ in range(at.rounds(3)):
        for name, (start, streams) in programs.items():
            with start() as program:
                runs[name].append(live_cost(program, at.seconds(8.0), streams))
    return {
        name: {
            "cpu_percent": spread([run["cpu_percent"] / programs[name][1] for run in costs]),
            "pss_total_mb": spread([run["pss_total_mb"] for run in costs]),
            "pss_mb": costs[-1]["pss_mb"],
            "cpu_by_process": costs[-1]["cpu_by_process"],
            "speech": costs[-1]["speech"],
            "holes": sum(run["holes"] for run in costs),
        }
        for name, costs in runs.items()
    }


def start(at: Setting) -> dict[str, Any]:
    """Seconds from the start to ready, warm; and the first start, without compiled Python."""
    speech = speech_file(at.folder, 120)
    warm: dict[str, list[float]] = {"ours": [], "rival": []}
    first: dict[str, list[float]] = {"ours": [], "rival": []}
    for _ in range(at.rounds(5)):
        with pipeline(speech, at.bundle.path) as program:
            warm["ours"].append(program.wait_for(topic="health"))
        with rival(speech, at.original.path) as program:
            warm["rival"].append(program.wait_for(topic="ready"))
    for k in range(at.rounds(3)):
        # As after an installation: no bytecode of any module, no numba cache.
        fresh = {"PYTHONPYCACHEPREFIX": str(at.folder / f"pycache-{k}")}
        source = ["--source", f"file:{speech}", "--bundle", str(at.bundle.path)]
        with Program(["supervisor.py", *source], fresh) as program:
            first["ours"].append(program.wait_for(topic="health"))
        if k == 0 and not at.quick:
            fresh["NUMBA_CACHE_DIR"] = str(at.folder / f"numba-{k}")
            original = ["--source", f"file:{speech}", "--bundle", str(at.original.path)]
            with Program(["-m", "bench.single_process", *original], fresh) as program:
                first["rival"].append(program.wait_for(topic="ready"))
    return {
        "warm": {name: spread(values) for name, values in warm.items()},
        "first": {name: spread(values) for name, values in first.items()},
    }


def streams(at: Setting) -> dict[str, Any]:
    """Cost of an increasing number of live streams."""
    speech = speech_file(at.folder, 120)
    costs: dict[str, Any] = {}
    for count in (1, 4) if at.quick else (1, 10, 50, 100, 200, 300, 400):
        with pipeline(speech, at.bundle.path, f"--streams={count}", block_ms=20.0) as program:
            costs[str(count)] = live_cost(program, at.seconds(12.0), count)
    return costs


def speed(at: Setting) -> dict[str, Any]:
    """Seconds of sound per second, one file at full speed through the whole pipeline."""
    length = 60.0 if at.quick else 1800.0
    speech = speech_file(at.folder, length)
    rates, whole = [], []
    for _ in range(at.rounds(3)):
        with pipeline(speech, at.bundle.path, "--speed=max") as program:
            rates.append(times_real_time(program, length, at.bundle))
            whole.append(length / (time.monotonic() - program.began))
    return {"times_real_time": spread(rates), "with_start": spread(whole), "seconds": length}


def times_real_time(program: Program, length: float, bundle: Bundle) -> float:
    """Seconds of sound per second from the first to the last result of a file of `length`."""
    arrived: list[tuple[float, float]] = []
    deadline = time.monotonic() + PATIENCE_MS / 1000.0
    for topic, message, now in program.messages(deadline):
        if topic.startswith("result/"):
            arrived.append((message["end"] / message["rate"], now))
            if arrived[-1][0] > length - bundle.spec.hop_s:
                break
    return (arrived[-1][0] - arrived[0][0]) / (arrived[-1][1] - arrived[0][1])

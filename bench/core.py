"""CPU time of the feature core beside librosa's own calls: `python -m bench.core`.

Both take the same windows of real speech by turns, in one run, with one BLAS thread. `ratio`
is librosa's calls for that spec over the core; `original` is the three calls with which the
original engine spends a window, over the core.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported

import numpy as np
import soundfile
from numpy.typing import NDArray

from common.bundle import DEFAULT_BUNDLE, load_bundle
from common.spec import FeatureSpec
from features.core import Banks, make_core
from features.definition import definition

Samples = NDArray[np.float32]

SPEECH = Path(__file__).resolve().parent.parent / "tests" / "data"
ORIGINAL = FeatureSpec()
SHIPPED = load_bundle(DEFAULT_BUNDLE).spec
SPECS = {
    "original": ORIGINAL,
    "original, tuning 0": dataclasses.replace(ORIGINAL, chroma_tuning=0.0),
    "shipped": SHIPPED,
    "shipped, with 128 MFCC and chroma": dataclasses.replace(SHIPPED, n_mfcc=128, chroma=True),
}


@dataclasses.dataclass
class Times:
    """CPU times of one window in µs."""

    librosa: list[float] = dataclasses.field(default_factory=list)
    core: list[float] = dataclasses.field(default_factory=list)


def cpu_us(extract: Callable[..., Samples], *args: object) -> tuple[float, Samples]:
    began = time.thread_time_ns()
    features = extract(*args)
    return (time.thread_time_ns() - began) / 1000.0, features


def measure(speech: Samples, rounds: int) -> tuple[dict[str, Times], dict[str, float]]:
    """Times by spec, and the largest difference between the two by spec."""
    cores = {name: make_core(spec, Banks.from_librosa(spec)) for name, spec in SPECS.items()}
    times = {name: Times() for name in SPECS}
    worst = dict.fromkeys(SPECS, 0.0)
    rng = np.random.default_rng(0)
    for k in range(-3, rounds):  # the first rounds warm up
        for name, spec in SPECS.items():
            start = rng.integers(len(speech) - spec.window)
            window = speech[start : start + spec.window]
            librosa_us, expected = cpu_us(definition, window, spec)
            core_us, found = cpu_us(cores[name].extract, window)
            worst[name] = max(worst[name], float(np.abs(found - expected).max()))
            if k >= 0:
                times[name].librosa.append(librosa_us)
                times[name].core.append(core_us)
    return times, worst


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.core", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="windows per spec (%(default)s)")
    rounds = parser.parse_args().rounds
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SPEECH.glob("*.flac"))]
    times, worst = measure(np.concatenate(clips), rounds)
    original = np.median(times["original"].librosa)
    print("| spec | librosa µs | p99 | core µs | p99 | ratio | original | largest difference |")
    print("|---|---|---|---|---|---|---|---|")
    for name, found in times.items():
        librosa, core = np.median(found.librosa), np.median(found.core)
        print(
            f"| {name} | {librosa:.0f} | {np.percentile(found.librosa, 99):.0f} "
            f"| {core:.0f} | {np.percentile(found.core, 99):.0f} "
            f"| {librosa / core:.1f}x | {original / core:.1f}x | {worst[name]:g} |"
        )


if __name__ == "__main__":
    main()

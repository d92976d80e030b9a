"""CPU of `infer --out` and of the library on recordings, beside librosa, openSMILE and a floor.

All programs read the same files in this process, by turns, with one thread. The floor is what no
program that does the same can avoid: decode the file and, for each window with speech, one batched
float32 rfft, one matrix product and one invocation of the model.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bench.features import ORIGINAL, bare
from bench.harness import ROOT, spread
from speech_emotion import Pipeline, Result
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.paths import DEFAULT_BUNDLE, DEMO_CLIP
from speech_emotion.features.extractor import windows_of
from speech_emotion.features.reference import reference_features
from speech_emotion.infer.batch.analysis import PartWriter
from speech_emotion.infer.batch.setting import Setting
from speech_emotion.infer.model import Model

RATE = 16000
CLIP_S = 3.0
FORMATS = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
BUNDLES = {"small": (ROOT / "models" / "small", 1.0), "default": (DEFAULT_BUNDLE, 0.2)}
"""Folder, and the share of the sound that is measured with it: `default` takes 50 times as long."""
COPIES = 32
"""Copies of the long recording for the measurement with all cores."""
SLOW_S = 30.0
"""Seconds of sound for librosa and openSMILE, whose cost does not depend on the length."""

Work = Callable[[list[Path]], object]


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """Times real time per core of each program, by bundle and kind of file.

    Args:
        seconds: length of the long recording; the clips of 3 s are as long together.
        rounds: measurements of each.
    """
    part: dict[str, Any] = {"seconds": seconds, "openSMILE": smile_version()}
    with tempfile.TemporaryDirectory(prefix="sep-bench-") as folder:
        place = Path(folder)
        for name, (bundle, share) in BUNDLES.items():
            part[name] = {"bundle": load_bundle(bundle).id}
            for form in FORMATS:
                for kind in ("long", "clips"):
                    paths = recordings(place, form, share * seconds, kind)
                    programs = ours(bundle, place, paths)
                    speed = speeds(programs, paths, share * seconds, rounds)
                    part[name][f"{kind}, {form}"] = speed
        (long,) = recordings(place, "flac", seconds, "long")
        part["cores"] = {
            f"{jobs}": spread([together(long, seconds, jobs) for _ in range(rounds)])
            for jobs in (1, len(os.sched_getaffinity(0)))
        }
        short = recordings(place, "flac", SLOW_S, "long")
        part["others"] = speeds(others(), short, SLOW_S, rounds)
    return part


def recordings(folder: Path, name: str, seconds: float, kind: str) -> list[Path]:
    """The demo (44 % of its windows are speech) again and again, in one file or in clips."""
    samples = np.resize(soundfile.read(DEMO_CLIP, dtype="float32")[0], round(seconds * RATE))
    pieces = [samples] if kind == "long" else np.array_split(samples, round(seconds / CLIP_S))
    form, subtype = FORMATS[name]
    paths = []
    for k, piece in enumerate(pieces):
        path = folder / f"{kind}-{seconds:g}-{k:04}.{name}"
        soundfile.write(path, piece, RATE, format=form, subtype=subtype)
        paths.append(path)
    return paths


def ours(bundle: Path, folder: Path, paths: list[Path]) -> dict[str, Work]:
    """Batch, library and floor."""
    pipeline = Pipeline(bundle)
    out = folder / f"out-{bundle.name}"
    writer = PartWriter(Setting(str(bundle), str(out)))

    def batch(files: list[Path]) -> None:
        for path in files:  # it is not told that an earlier round has written the part
            writer.process(str(path), [], lambda *_: None)

    speech = {
        path: sum(m.state == "speech" for m in pipeline(path) if isinstance(m, Result))
        for path in paths
    }
    return {
        "batch": batch,
        "library": lambda files: [sum(1 for _ in pipeline(path)) for path in files],
        "floor": floor(bundle, speech),
        "decoder": decode,
    }


def together(path: Path, seconds: float, jobs: int) -> float:
    """Times real time of `infer --out` from start to end, with so many processes."""
    with tempfile.TemporaryDirectory(prefix="copies-", dir=path.parent) as folder:
        for number in range(COPIES):
            os.link(path, Path(folder) / f"{number:02}.flac")
        command = ["-m", "infer", folder, "--out", f"{folder}-out", "--jobs", str(jobs)]
        began = time.monotonic()
        subprocess.run(
            [sys.executable, *command, "--bundle", str(BUNDLES["small"][0])],
            cwd=ROOT,
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return COPIES * seconds / (time.monotonic() - began)


def floor(bundle: Path, speech: dict[Path, int]) -> Work:
    """Decode, and for each window with speech rfft, product and model."""
    loaded = load_bundle(bundle)
    model, compute = Model(loaded), bare(loaded.spec)
    features = np.zeros((loaded.spec.n_frames, loaded.spec.dims), np.float32)
    window = np.zeros(loaded.spec.window, np.float32)

    def work(files: list[Path]) -> None:
        for path in files:
            decode([path])
            for _ in range(speech[path]):
                compute(window)
                model.predict(features)

    return work


def decode(files: list[Path]) -> None:
    """Decode to float32, block by block."""
    for path in files:
        with soundfile.SoundFile(path) as file:
            for _ in file.blocks(1 << 15, dtype="float32"):
                pass


def others() -> dict[str, Work]:
    """librosa's three calls per window of the original, and openSMILE's eGeMAPSv02."""
    programs: dict[str, Work] = {"librosa": three_calls}
    if importlib.util.find_spec("opensmile") is not None:
        import opensmile

        smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.eGeMAPSv02,
            feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
        )
        programs["openSMILE"] = lambda files: [smile.process_file(str(path)) for path in files]
    return programs


def three_calls(files: list[Path]) -> None:
    """MFCC, chroma and mel of every window of the original engine, without gate and model."""
    for path in files:
        samples = soundfile.read(path, dtype="float32")[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # librosa finds no pitch in silence
            for _, window in windows_of(samples, ORIGINAL.grid):
                reference_features(window, ORIGINAL)


def speeds(
    programs: dict[str, Work], paths: list[Path], seconds: float, rounds: int
) -> dict[str, Any]:
    """Seconds of sound per second of CPU, programs by turns."""
    found: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(-1, rounds):  # the first round warms up
        for name, work in programs.items():
            began = time.process_time()
            work(paths)
            if turn >= 0:
                found[name].append(seconds / (time.process_time() - began))
    return {name: spread(values) for name, values in found.items()}


def smile_version() -> str | None:
    """Version of opensmile; None where it is not installed."""
    if importlib.util.find_spec("opensmile") is None:
        return None
    from importlib.metadata import version

    return version("opensmile")

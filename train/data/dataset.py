"""Training examples: windows of clean and augmented clips as features, cached on disk.

Everything passes through the pure cores that run live: the same gate says which windows are
speech, the same feature core computes them, bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing.pool
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core import Banks, Core, make_core
from speech_emotion.features.extractor import windows_of
from speech_emotion.features.gate import Gate, make_gate
from speech_emotion.train.data.augment import augment
from speech_emotion.train.data.clips import Clip, Samples, load

ACTIVE_S = 0.4
"""Least amount of speech in a training window; below it the label is not to be heard."""
WINDOWS_PER_CLIP = 5
"""More windows of one clip than this are left out at random."""

T = TypeVar("T")

_core: Core
_gate: Gate
_spec: FeatureSpec


@dataclasses.dataclass(frozen=True)
class Examples:
    """Windows of one rendering of all clips.

    Attributes:
        x: features before normalization, float16, (n, frames, dims).
        clip: index of each window's clip, (n,).
    """

    x: NDArray[np.float16]
    clip: NDArray[np.int32]


def load_all(clips: Sequence[Clip], rate: int, workers: int = 2) -> list[Samples]:
    """The samples of every clip, read in parallel."""
    with pool(workers) as processes:
        jobs = ((clip, rate) for clip in clips)
        return progress(processes.imap(_load, jobs, chunksize=32), len(clips), "reading")


def content_key(clips: Sequence[Clip], sounds: Sequence[Samples]) -> str:
    """A hash of what the clips sound like, in order."""
    digest = hashlib.sha256()
    for clip, samples in zip(clips, sounds, strict=True):
        digest.update(clip.name.encode())
        digest.update(samples.tobytes())
    return digest.hexdigest()[:16]


def render(
    clips: Sequence[Clip],
    sounds: Sequence[Samples],
    spec: FeatureSpec,
    copy: int,
    cache: Path,
    *,
    seed: int = 0,
    workers: int = 2,
) -> Examples:
    """Windows of one rendering: copy 0 is the clips as they are, others are augmented.

    Cached under `cache` by spec, content, copy and seed.
    """
    described = json.dumps([dataclasses.asdict(spec), content_key(clips, sounds), copy, seed])
    path = cache / f"windows-{hashlib.sha256(described.encode()).hexdigest()[:16]}.npz"
    if path.is_file():
        with np.load(path) as arrays:
            return Examples(arrays["x"], arrays["clip"])
    jobs = ((s, _seed(c, copy, seed) if copy else None) for c, s in zip(clips, sounds, strict=True))
    with pool(workers, _start, (spec,)) as processes:
        found = progress(processes.imap(_windows, jobs, chunksize=16), len(clips), f"copy {copy}")
    examples = Examples(
        np.concatenate(found),
        np.repeat(np.arange(len(clips), dtype=np.int32), [len(x) for x in found]),
    )
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, x=examples.x, clip=examples.clip)
    partial.rename(path)
    return examples


def active(samples: Samples, rate: int) -> NDArray[np.bool_]:
    """Which 20 ms frames of a clean clip hold speech: within 30 dB of the loud ones."""
    frame = rate // 50
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame).astype(np.float64)
    power = np.mean(frames**2, axis=1)
    return np.asarray(power > 1e-3 * np.quantile(power, 0.95))


def _seed(clip: Clip, copy: int, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{clip.name}/{copy}/{seed}".encode()).digest()[:8])


def _start(spec: FeatureSpec) -> None:
    global _core, _gate, _spec
    _core, _gate, _spec = make_core(spec, Banks.from_librosa(spec)), make_gate(spec), spec


def _windows(job: tuple[Samples, int | None]) -> NDArray[np.float16]:
    samples, seed = job
    rate = _spec.sample_rate
    rng = np.random.default_rng(seed or 0)
    speech = np.repeat(active(samples, rate), rate // 50)
    if seed is not None:
        samples, speech = augment(samples, speech, rate, rng)
    _gate.reset()
    kept = []
    for k, window in windows_of(samples, WindowGrid(_spec.window, _spec.hop)):
        start = k * _spec.hop
        heard = np.count_nonzero(speech[start : start + _spec.window]) / rate
        if _gate.step(window) and heard >= ACTIVE_S:
            kept.append(window)
    if len(kept) > WINDOWS_PER_CLIP:
        chosen = sorted(rng.choice(len(kept), WINDOWS_PER_CLIP, replace=False))
        kept = [kept[i] for i in chosen]
    shape = (len(kept), _spec.n_frames, _spec.dims)
    x = np.array([_core.extract(window) for window in kept], np.float32).reshape(shape)
    return x.astype(np.float16)


def _load(job: tuple[Clip, int]) -> Samples:
    return load(*job)


def pool(
    workers: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> multiprocessing.pool.Pool:
    """Worker processes, fresh interpreters: a fork behind TensorFlow's threads can hang."""
    return multiprocessing.get_context("spawn").Pool(workers, start, arguments)


def progress(results: Iterator[T], total: int, what: str) -> list[T]:
    """All the results, with a progress bar."""
    from tqdm import tqdm

    return list(tqdm(results, total=total, desc=what, mininterval=5.0))


class Statistics:
    """Mean and standard deviation per feature, streaming, in float64 (Chan et al., 1979)."""

    def __init__(self, dims: int) -> None:
        self._n = 0
        self._mean = np.zeros(dims)
        self._squares = np.zeros(dims)

    def add(self, x: NDArray[np.floating]) -> None:
        """Take features (…, dims) in."""
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        if len(rows) == 0:
            return
        mean = rows.mean(axis=0)
        delta, total = mean - self._mean, self._n + len(rows)
        self._squares += ((rows - mean) ** 2).sum(axis=0) + delta**2 * self._n * len(rows) / total
        self._mean += delta * len(rows) / total
        self._n = total

    def result(self) -> tuple[Samples, Samples]:
        """Mean and standard deviation, float32, (dims,)."""
        deviation = np.sqrt(self._squares / max(self._n, 1))
        return self._mean.astype(np.float32), deviation.astype(np.float32)

"""Training examples: windows of clean and augmented clips as features, cached on disk.

The gate and the feature core are those that run live, so the features are the same bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core import Banks, Core, make_core
from speech_emotion.features.extractor import windows_of
from speech_emotion.features.gate import Gate, make_gate
from speech_emotion.train.data.augment import augment
from speech_emotion.train.data.clips import Clip, Samples, load
from speech_emotion.train.data.workers import pool, progress

ACTIVE_S = 0.4
"""Least speech in a training window, seconds; a window with less does not show the label."""
WINDOWS_PER_CLIP = 5
"""Most windows of one clip in a rendering; others are dropped at random."""

_core: Core
_gate: Gate
_spec: FeatureSpec


@dataclasses.dataclass(frozen=True)
class Examples:
    """Windows of one rendering of all clips.

    Attributes:
        x: features before normalization, float16, (n, frames, dims).
        clip: clip index per window, (n,).
    """

    x: NDArray[np.float16]
    clip: NDArray[np.int32]


def load_all(clips: Sequence[Clip], rate: int, workers: int = 2) -> list[Samples]:
    """The samples of every clip, mono at `rate` Hz, read in parallel.

    Raises:
        UserError: a file is missing or is not a sound file.
    """
    with pool(workers) as processes:
        jobs = ((clip, rate) for clip in clips)
        return progress(processes.imap(_load, jobs, chunksize=32), len(clips), "reading")


def content_key(clips: Sequence[Clip], sounds: Sequence[Samples]) -> str:
    """A hash of the clips' names and samples, in order."""
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
    """Windows of one rendering of all clips, cached by spec, content, copy and seed.

    Args:
        sounds: samples per clip, mono, at the rate of the spec.
        copy: number of the rendering; 0 leaves the clips unchanged, others are augmented.
        cache: folder of the cache.
        workers: number of worker processes.
    """
    described = json.dumps([dataclasses.asdict(spec), content_key(clips, sounds), copy, seed])
    path = cache / f"windows-{hashlib.sha256(described.encode()).hexdigest()[:16]}.npz"
    if path.is_file():
        with np.load(path) as arrays:
            return Examples(arrays["x"], arrays["clip"])
    jobs = ((s, _seed(c, copy, seed) if copy else None) for c, s in zip(clips, sounds, strict=True))
    with pool(workers, _start, (spec,)) as processes:
        parts = progress(processes.imap(_windows, jobs, chunksize=16), len(clips), f"copy {copy}")
    examples = Examples(
        np.concatenate(parts),
        np.repeat(np.arange(len(clips), dtype=np.int32), [len(x) for x in parts]),
    )
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, x=examples.x, clip=examples.clip)
    partial.rename(path)
    return examples


def active(samples: Samples, rate: int) -> NDArray[np.bool_]:
    """Which 20 ms frames of a clean clip hold speech: those within 30 dB of the loud frames.

    Args:
        samples: (n,).
        rate: Hz.

    Returns:
        (n // (rate // 50),).
    """
    frame = rate // 50
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame).astype(np.float64)
    power = np.mean(frames**2, axis=1)
    return np.asarray(power > 1e-3 * np.quantile(power, 0.95))


def _seed(clip: Clip, copy: int, seed: int) -> int:
    """Seed of one clip's augmentation; independent of the order of the clips."""
    return int.from_bytes(hashlib.sha256(f"{clip.name}/{copy}/{seed}".encode()).digest()[:8])


def _start(spec: FeatureSpec) -> None:
    """Prepare a worker process."""
    global _core, _gate, _spec
    _core, _gate, _spec = make_core(spec, Banks.from_librosa(spec)), make_gate(spec), spec


def _windows(job: tuple[Samples, int | None]) -> NDArray[np.float16]:
    """Features of a clip's windows, (windows, frames, dims); seed None leaves it unchanged."""
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
        speech_s = np.count_nonzero(speech[start : start + _spec.window]) / rate
        if _gate.step(window) and speech_s >= ACTIVE_S:
            kept.append(window)
    if len(kept) > WINDOWS_PER_CLIP:
        chosen = sorted(rng.choice(len(kept), WINDOWS_PER_CLIP, replace=False))
        kept = [kept[i] for i in chosen]
    shape = (len(kept), _spec.n_frames, _spec.dims)
    x = np.array([_core.extract(window) for window in kept], np.float32).reshape(shape)
    return x.astype(np.float16)


def _load(job: tuple[Clip, int]) -> Samples:
    return load(*job)

"""Features of whole clips and streams, by the voice gate and feature core that run live."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core import Banks, Core, make_core
from speech_emotion.features.extractor import FeatureExtractor, windows_of
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.data.workers import pool, progress

_extractor: FeatureExtractor
_core: Core
_spec: FeatureSpec


@dataclasses.dataclass(frozen=True)
class ClipFeatures:
    """What the features stage computes for a clip.

    Attributes:
        kind: `speech` or `silence` per window.
        rms_db: RMS level per window, dBFS.
        clipped: share of clipped samples per window, a fraction of 1.
        x: features of the speech windows before normalization, (speech windows, frames, dims).
        forced: the gate found no speech in the clip, so every window counts as speech.
    """

    kind: list[str]
    rms_db: list[float]
    clipped: list[float]
    x: Samples
    forced: bool = False


def extract_clips(
    sounds: Sequence[Samples], spec: FeatureSpec, *, force: bool = True, workers: int = 2
) -> list[ClipFeatures]:
    """Features of every clip, each a stream of its own, computed in parallel.

    Args:
        sounds: samples per clip, mono, at the rate of the spec.
        force: if the gate finds no speech in a clip, count all its windows as speech.
        workers: number of worker processes.
    """
    jobs = ((samples, force) for samples in sounds)
    chunk = max(1, min(32, len(sounds) // (4 * workers)))
    with pool(workers, _start, (spec,)) as processes:
        return progress(
            processes.imap(_extract, jobs, chunksize=chunk), len(sounds), "clip features"
        )


def extract_chosen(
    sounds: Mapping[int, Samples] | Sequence[Samples], chosen: NDArray[np.int64], spec: FeatureSpec
) -> dict[int, ClipFeatures]:
    """Clip index → features, of the clips with the indices `chosen`."""
    return dict(zip(chosen.tolist(), extract_clips([sounds[i] for i in chosen], spec), strict=True))


def extract_stream(samples: Samples, spec: FeatureSpec) -> ClipFeatures:
    """Features of one long stream (n,); the gate alone decides which windows are speech."""
    return extract_clips([samples], spec, force=False, workers=1)[0]


def _start(spec: FeatureSpec) -> None:
    """Prepare a worker process."""
    global _extractor, _core, _spec
    # A mean of 0, a deviation of 1 and a tiny eps leave the features without normalization.
    unchanged = np.zeros(spec.dims, np.float32), np.ones(spec.dims, np.float32)
    _core = make_core(spec, Banks.from_librosa(spec))
    _extractor = FeatureExtractor(dataclasses.replace(spec, eps=1e-30), _core, *unchanged)
    _spec = spec


def _extract(job: tuple[Samples, bool]) -> ClipFeatures:
    samples, force = job
    _extractor.resume([])
    grid = WindowGrid(_spec.window, _spec.hop)
    windows = [_extractor.analyze(window) for _, window in windows_of(samples, grid)]
    x = [w.features for w in windows if w.features is not None]
    forced = force and not x
    if forced:
        x = [_core.extract(window) for _, window in windows_of(samples, grid)]
    shape = (len(x), _spec.n_frames, _spec.dims)
    return ClipFeatures(
        kind=["speech"] * len(windows) if forced else [w.kind for w in windows],
        rms_db=[w.rms_db for w in windows],
        clipped=[w.clipped for w in windows],
        x=np.array(x, np.float32).reshape(shape),
        forced=forced,
    )

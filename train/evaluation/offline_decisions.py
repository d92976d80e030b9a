"""Clips through the very gate, feature core, calibration, smoothing and utterances that run live.

`hear` does what features does, `judge` what infer does; between them stands any model, Keras in
cross-validation and TFLite in `evaluate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.wire.internal import Window
from speech_emotion.common.wire.public import Utterance
from speech_emotion.features.core import Banks, Core, make_core
from speech_emotion.features.extractor import FeatureExtractor, windows_of
from speech_emotion.infer.decision import UNCERTAIN, State, calibrate, decide, finish, speech_of
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.data.dataset import pool, progress

Vector = NDArray[np.float64]

_analyzer: FeatureExtractor
_core: Core
_spec: FeatureSpec


@dataclasses.dataclass(frozen=True)
class Heard:
    """What features knows of a clip.

    Attributes:
        kind: `speech` or `silence` of each window.
        rms_db, clipped: level and share of clipped samples of each window.
        x: features before normalization of the speech windows, (speech, frames, dims).
        forced: the gate found no speech, so every window counts as speech.
    """

    kind: list[str]
    rms_db: list[float]
    clipped: list[float]
    x: Samples
    forced: bool = False


@dataclasses.dataclass(frozen=True)
class Judged:
    """What infer says of a clip.

    Attributes:
        probabilities: of the clip's utterances, weighted by their windows, (labels,).
        sure: whether the longest utterance got a label, not `uncertain`.
        utterances: as they would be published.
        smoothed: of each speech window, (speech, labels).
        window_sure: whether each speech window got a label.
        reasons: why not, per speech window.
        speech: smoothed probability of speech, per speech window.
    """

    probabilities: Vector
    sure: bool
    utterances: list[Utterance]
    smoothed: Vector
    window_sure: NDArray[np.bool_]
    reasons: list[str | None]
    speech: Vector


def hear_all(
    sounds: Sequence[Samples], spec: FeatureSpec, *, force: bool = True, workers: int = 2
) -> list[Heard]:
    """Every clip through gate and feature core, in parallel.

    Args:
        force: a clip in which the gate finds no speech counts as speech throughout.
    """
    jobs = ((samples, force) for samples in sounds)
    chunk = max(1, min(32, len(sounds) // (4 * workers)))
    with pool(workers, _start, (spec,)) as processes:
        return progress(processes.imap(_hear, jobs, chunksize=chunk), len(sounds), "hearing")


def _start(spec: FeatureSpec) -> None:
    global _analyzer, _core, _spec
    # Statistics and eps that leave the features as they are: x is kept before normalization.
    unchanged = np.zeros(spec.dims, np.float32), np.ones(spec.dims, np.float32)
    _core = make_core(spec, Banks.from_librosa(spec))
    _analyzer = FeatureExtractor(dataclasses.replace(spec, eps=1e-30), _core, *unchanged)
    _spec = spec


def _hear(job: tuple[Samples, bool]) -> Heard:
    samples, force = job
    _analyzer.resume([])
    grid = WindowGrid(_spec.window, _spec.hop)
    found = [_analyzer.analyze(window) for _, window in windows_of(samples, grid)]
    x = [a.features for a in found if a.features is not None]
    forced = force and not x
    if forced:
        x = [_core.extract(window) for _, window in windows_of(samples, grid)]
    shape = (len(x), _spec.n_frames, _spec.dims)
    return Heard(
        kind=["speech"] * len(found) if forced else [a.kind for a in found],
        rms_db=[a.rms_db for a in found],
        clipped=[a.clipped for a in found],
        x=np.array(x, np.float32).reshape(shape),
        forced=forced,
    )


def judge(heard: Heard, outputs: NDArray[np.float32], bundle: Bundle) -> Judged:
    """A clip's decisions, as a stream of its own that ends with it.

    Args:
        outputs: the model's raw output per speech window, (speech, bundle.outputs).
    """
    state, row = State(), 0
    voiced = []
    utterances: list[Utterance] = []
    results = []
    window = _window(bundle, 0, "silence", -100.0, 0.0)
    for k, kind in enumerate(heard.kind):
        window = _window(bundle, k, kind, heard.rms_db[k], heard.clipped[k])
        probabilities, speech = None, 1.0
        if kind == "speech":
            probabilities = calibrate(outputs[row], bundle)
            speech = speech_of(outputs[row], bundle)
            row += 1
        result, ended, state = decide(state, window, probabilities, bundle, speech)
        utterances += ended
        if kind == "speech":
            results.append(result)
            voiced.append(state.speech)
    utterances += finish(state, window, bundle)
    n = len(bundle.labels)
    smoothed = [list(r.smoothed.values()) if r.smoothed else [1 / n] * n for r in results]
    weights = np.array([u.windows for u in utterances], np.float64)
    said = np.array([list(u.probabilities.values()) for u in utterances]).reshape(-1, n)
    longest = max(utterances, key=lambda u: u.windows, default=None)
    return Judged(
        probabilities=weights @ said / weights.sum() if utterances else np.full(n, 1 / n),
        sure=longest is not None and longest.emotion != UNCERTAIN,
        utterances=utterances,
        smoothed=np.array(smoothed).reshape(-1, n),
        window_sure=np.array([r.emotion != UNCERTAIN for r in results], bool),
        reasons=[r.reason for r in results],
        speech=np.array(voiced),
    )


def _window(bundle: Bundle, k: int, kind: str, rms_db: float, clipped: float) -> Window:
    start = k * bundle.spec.hop
    return Window(
        stream="main",
        run="offline",
        session="",
        seq=k,
        start=start,
        end=start + bundle.spec.window,
        kind=kind,
        rms_db=rms_db,
        clipped=clipped,
        lost=0,
        skipped=0,
        captured=0.0,
        time=None,
        features_ms=0.0,
        gate=[],
        features=None,
    )

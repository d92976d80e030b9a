"""Decisions for whole clips, by the calibration, smoothing and utterance code that runs live.

`extract_clips` does the work of the features stage, `decide_clip` that of the infer stage; the
outputs between them come from a Keras model in cross-validation, from TFLite in `evaluate`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.wire.internal import Window
from speech_emotion.common.wire.public import Utterance
from speech_emotion.infer.decision import (
    NOTHING,
    UNCERTAIN,
    State,
    calibrate,
    decide,
    dimensions_of,
    finish,
    speech_of,
)
from speech_emotion.train.data.stream_features import ClipFeatures

Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ClipDecisions:
    """What the infer stage publishes for a clip.

    Attributes:
        probabilities: mean over the clip's utterances, weighted by their windows, (labels,).
        sure: the longest utterance has a label, not `uncertain`.
        utterances: as they would be published.
        smoothed: probabilities per speech window after smoothing, (speech windows, labels).
        window_sure: the window has a label, not `uncertain`, (speech windows,).
        reasons: reason of `uncertain` per speech window; None for a label.
        speech: smoothed probability of speech, (speech windows,).
        dimensions: mean over the clip's utterances, weighted by their windows; empty without.
    """

    probabilities: Vector
    sure: bool
    utterances: list[Utterance]
    smoothed: Vector
    window_sure: NDArray[np.bool_]
    reasons: list[str | None]
    speech: Vector
    dimensions: dict[str, float] = dataclasses.field(default_factory=dict)


def decide_clip(
    features: ClipFeatures, outputs: NDArray[np.float32], bundle: Bundle
) -> ClipDecisions:
    """Decisions for a clip as a stream of its own, whose last utterance ends with the clip.

    Args:
        outputs: raw model outputs, (speech windows, bundle.outputs).
    """
    state, row = State(), 0
    speech_probabilities = []
    utterances: list[Utterance] = []
    results = []
    window = _window(bundle, 0, "silence", -100.0, 0.0)
    for k, kind in enumerate(features.kind):
        window = _window(bundle, k, kind, features.rms_db[k], features.clipped[k])
        probabilities, speech, dimensions = None, 1.0, NOTHING
        if kind == "speech":
            probabilities = calibrate(outputs[row], bundle)
            speech = speech_of(outputs[row], bundle)
            dimensions = dimensions_of(outputs[row], bundle)
            row += 1
        result, ended, state = decide(state, window, probabilities, bundle, speech, dimensions)
        utterances += ended
        if kind == "speech":
            results.append(result)
            speech_probabilities.append(state.speech)
    utterances += finish(state, window, bundle)
    n = len(bundle.labels)
    smoothed = [list(r.smoothed.values()) if r.smoothed else [1 / n] * n for r in results]
    weights = np.array([u.windows for u in utterances], np.float64)
    each = np.array([list(u.probabilities.values()) for u in utterances]).reshape(-1, n)
    rated = [u for u in utterances if u.dimensions]
    heard = {
        name: sum((u.dimensions or {})[name] * u.windows for u in rated)
        / sum(u.windows for u in rated)
        for name in (bundle.dimensions if rated else ())
    }
    longest = max(utterances, key=lambda u: u.windows, default=None)
    return ClipDecisions(
        probabilities=weights @ each / weights.sum() if utterances else np.full(n, 1 / n),
        sure=longest is not None and longest.emotion != UNCERTAIN,
        utterances=utterances,
        smoothed=np.array(smoothed).reshape(-1, n),
        window_sure=np.array([r.emotion != UNCERTAIN for r in results], bool),
        reasons=[r.reason for r in results],
        speech=np.array(speech_probabilities),
        dimensions=heard,
    )


def _window(bundle: Bundle, k: int, kind: str, rms_db: float, clipped: float) -> Window:
    """Window k of an offline stream, without features."""
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

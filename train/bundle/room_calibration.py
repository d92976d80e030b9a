"""Fit a bundle's gate and thresholds to a room, from a recording of it without speech."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.manifest import Bundle, load_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.common.levels import rms_dbfs
from speech_emotion.features.extractor import load_statistics, windows_of
from speech_emotion.infer.decision import NOT_SPEECH, UNCERTAIN
from speech_emotion.infer.model import Model
from speech_emotion.train.bundle.writer import update_bundle
from speech_emotion.train.data.clips import Clip, Samples, load
from speech_emotion.train.data.stream_features import ClipFeatures, extract_stream
from speech_emotion.train.evaluation.evaluate import model_outputs
from speech_emotion.train.evaluation.offline_decisions import ClipDecisions, decide_clip

MIN_RECORDING_S = 60.0
MAX_PASSING = 0.01
"""Largest share of the room's windows that may pass the gate."""
MARGINS_DB = tuple(float(m) for m in range(6, 25))
"""Values of `gate_margin_db` to try, for the adaptive gate."""
HEADROOM_DB = 3.0
"""Distance of `gate_dbfs` above the room's level, for the fixed gate."""
MAX_CONFIDENCE = 0.9
"""Upper limit of the fitted thresholds."""


@dataclasses.dataclass(frozen=True)
class RoomCalibration:
    """The new values, and their effect on the recording.

    Attributes:
        key, value: key of the feature spec for the gate, and its new value.
        passing: share of the windows that pass the gate, a fraction of 1.
        min_confidence, min_utterance_confidence: the new thresholds.
        false_before, false_after: number of utterances with an emotion in the recording.
    """

    key: str
    value: float
    passing: float
    min_confidence: float
    min_utterance_confidence: float
    false_before: int
    false_after: int


def calibrate(path: Path, recording: Path) -> RoomCalibration:
    """Set a bundle's gate for a room, then raise its thresholds above the windows that pass.

    Thresholds are never lowered, and never raised above `MAX_CONFIDENCE`.

    Args:
        path: the bundle's folder; its manifest is changed.
        recording: sound file of the room without speech.

    Raises:
        UserError: the bundle or the recording is not valid, or shorter than a minute.
    """
    bundle = load_bundle(path)
    samples = load(Clip(recording, "", "", "", "", str(recording)), bundle.spec.sample_rate)
    if len(samples) < MIN_RECORDING_S * bundle.spec.sample_rate:
        raise UserError(
            f"{recording}: record at least {MIN_RECORDING_S:.0f} s of the room, nobody speaking"
        )
    before = _false_events(bundle, samples)
    key, value = _gate(bundle, samples)
    bundle = update_bundle(path, {"features": {key: value}})
    decision = _thresholds(bundle, samples)
    bundle = update_bundle(path, {"decision": decision})
    return RoomCalibration(
        key=key,
        value=value,
        passing=_passing(bundle, samples),
        min_confidence=decision["min_confidence"],
        min_utterance_confidence=decision["min_utterance_confidence"],
        false_before=before,
        false_after=_false_events(bundle, samples),
    )


def _gate(bundle: Bundle, samples: Samples) -> tuple[str, float]:
    """The gate's key of the feature spec, and the value that closes it on the recording."""
    spec = bundle.spec
    if spec.gate == "fixed":
        grid = WindowGrid(spec.window, spec.hop)
        loudest = np.quantile([rms_dbfs(w) for _, w in windows_of(samples, grid)], 1 - MAX_PASSING)
        return "gate_dbfs", round(min(0.0, float(loudest) + HEADROOM_DB), 1)
    for margin in MARGINS_DB:
        tried = dataclasses.replace(bundle, spec=dataclasses.replace(spec, gate_margin_db=margin))
        if margin >= spec.gate_margin_db and _passing(tried, samples) <= MAX_PASSING:
            break
    return "gate_margin_db", margin


def _passing(bundle: Bundle, samples: Samples) -> float:
    """Share of the windows that pass the gate."""
    kinds = extract_stream(samples, bundle.spec).kind
    return kinds.count("speech") / len(kinds)


def _thresholds(bundle: Bundle, samples: Samples) -> dict[str, float]:
    """`min_confidence` and `min_utterance_confidence` above those of the recording."""
    windows, utterances = np.zeros(1), np.zeros(1)
    features = extract_stream(samples, bundle.spec)
    if len(features.x):
        decisions = _decide(bundle, features)
        # Windows that are rejected as not speech need no higher threshold.
        kept = [r != NOT_SPEECH for r in decisions.reasons]
        windows = np.append(decisions.smoothed.max(axis=1)[kept], 0.0)
        speech = [u.confidence for u in decisions.utterances if u.reason != NOT_SPEECH]
        utterances = np.array([0.0, *speech])

    def above(present: float, highest: float) -> float:
        return max(present, min(MAX_CONFIDENCE, round(highest + 0.01, 4)))

    decision = bundle.decision
    return {
        "min_confidence": above(decision.min_confidence, float(np.quantile(windows, 0.95))),
        "min_utterance_confidence": above(
            decision.min_utterance_confidence, float(utterances.max())
        ),
    }


def _false_events(bundle: Bundle, samples: Samples) -> int:
    """Number of utterances with a label other than `neutral` and `uncertain`."""
    utterances = _decide(bundle, extract_stream(samples, bundle.spec)).utterances
    return sum(u.emotion not in ("neutral", UNCERTAIN) for u in utterances)


def _decide(bundle: Bundle, features: ClipFeatures) -> ClipDecisions:
    outputs = model_outputs(Model(bundle), bundle, load_statistics(bundle), features)
    return decide_clip(features, outputs, bundle)

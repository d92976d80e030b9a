"""Fit a bundle's gate and thresholds to a place, from a recording of it with nobody speaking."""

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
from speech_emotion.train.data.nonspeech import hear_mix
from speech_emotion.train.evaluation.evaluate import outputs
from speech_emotion.train.evaluation.offline_decisions import judge

LEAST_S = 60.0
PASSING = 0.01
"""Share of the room's windows that the gate may take for speech."""
MARGINS_DB = tuple(float(m) for m in range(6, 25))
HEADROOM_DB = 3.0
MOST_CONFIDENCE = 0.9


@dataclasses.dataclass(frozen=True)
class Site:
    """What was set, and what the room does with it.

    Attributes:
        key, value: the gate's key of the feature spec and its new value.
        passing: share of the room's windows that it still takes for speech.
        min_confidence, min_utterance_confidence: the new thresholds.
        false_before, false_after: utterances with an emotion in the recording.
    """

    key: str
    value: float
    passing: float
    min_confidence: float
    min_utterance_confidence: float
    false_before: int
    false_after: int


def calibrate(path: Path, recording: Path) -> Site:
    """Set the gate so that the room alone hardly opens it, then thresholds above what passes.

    Thresholds are only ever raised, and never above `MOST_CONFIDENCE`.

    Raises:
        UserError: a bad bundle or recording, or one shorter than a minute.
    """
    bundle = load_bundle(path)
    samples = load(Clip(recording, "", "", "", "", str(recording)), bundle.spec.sample_rate)
    if len(samples) < LEAST_S * bundle.spec.sample_rate:
        raise UserError(
            f"{recording}: record at least {LEAST_S:.0f} s of the room, nobody speaking"
        )
    before = _false(bundle, samples)
    key, value = _gate(bundle, samples)
    bundle = update_bundle(path, {"features": {key: value}})
    decision = _thresholds(bundle, samples)
    bundle = update_bundle(path, {"decision": decision})
    return Site(
        key=key,
        value=value,
        passing=_passing(bundle, samples),
        min_confidence=decision["min_confidence"],
        min_utterance_confidence=decision["min_utterance_confidence"],
        false_before=before,
        false_after=_false(bundle, samples),
    )


def _gate(bundle: Bundle, samples: Samples) -> tuple[str, float]:
    spec = bundle.spec
    if spec.gate == "fixed":
        grid = WindowGrid(spec.window, spec.hop)
        loudest = np.quantile([rms_dbfs(w) for _, w in windows_of(samples, grid)], 1 - PASSING)
        return "gate_dbfs", round(min(0.0, float(loudest) + HEADROOM_DB), 1)
    for margin in MARGINS_DB:
        tried = dataclasses.replace(bundle, spec=dataclasses.replace(spec, gate_margin_db=margin))
        if margin >= spec.gate_margin_db and _passing(tried, samples) <= PASSING:
            break
    return "gate_margin_db", margin


def _passing(bundle: Bundle, samples: Samples) -> float:
    kinds = hear_mix(samples, bundle.spec).kind
    return kinds.count("speech") / len(kinds)


def _thresholds(bundle: Bundle, samples: Samples) -> dict[str, float]:
    heard = hear_mix(samples, bundle.spec)
    decision = bundle.decision
    if not len(heard.x):
        windows, said = np.zeros(1), np.zeros(1)
    else:
        found = outputs(Model(bundle), bundle, load_statistics(bundle), heard)
        judged = judge(heard, found, bundle)
        # What is known to be no speech needs no higher threshold.
        kept = [r != NOT_SPEECH for r in judged.reasons]
        windows = np.append(judged.smoothed.max(axis=1)[kept], 0.0)
        said = np.array([0.0] + [u.confidence for u in judged.utterances if u.reason != NOT_SPEECH])

    def above(present: float, seen: float) -> float:
        return max(present, min(MOST_CONFIDENCE, round(seen + 0.01, 4)))

    return {
        "min_confidence": above(decision.min_confidence, float(np.quantile(windows, 0.95))),
        "min_utterance_confidence": above(decision.min_utterance_confidence, float(said.max())),
    }


def _false(bundle: Bundle, samples: Samples) -> int:
    heard = hear_mix(samples, bundle.spec)
    found = outputs(Model(bundle), bundle, load_statistics(bundle), heard)
    utterances = judge(heard, found, bundle).utterances
    return sum(u.emotion not in ("neutral", UNCERTAIN) for u in utterances)

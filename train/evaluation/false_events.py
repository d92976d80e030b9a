"""False events: utterances with an emotion in a mix that holds no speech."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle, load_bundle
from speech_emotion.features.extractor import load_statistics
from speech_emotion.infer.decision import UNCERTAIN
from speech_emotion.infer.model import Model
from speech_emotion.train.data.nonspeech import Part, mix, sound_files
from speech_emotion.train.data.stream_features import ClipFeatures, extract_stream
from speech_emotion.train.evaluation.evaluate import model_outputs
from speech_emotion.train.evaluation.offline_decisions import decide_clip

SECONDS, SEED = 7200.0, 1
"""Length in seconds and seed of the mix that the model cards report."""
THRESHOLDS = (0.5, 0.55, 0.6, 0.7, 0.8)
"""Values of `min_utterance_confidence` to compare with the bundle's own."""


def false_events(
    features: ClipFeatures, outputs: NDArray[np.float32], bundle: Bundle, parts: Sequence[Part]
) -> dict[str, Any]:
    """Utterances with a label other than `neutral` and `uncertain`, per hour and kind of part.

    Args:
        features: of the mix as one stream.
        outputs: raw model outputs, (speech windows, bundle.outputs).
        parts: of the mix.

    Returns:
        `per_hour`, `hours`, `utterances`, `speech_windows`, `windows`, `by_kind`.
    """
    utterances = decide_clip(features, outputs, bundle).utterances
    hours = parts[-1].end / bundle.spec.sample_rate / 3600
    false = [u for u in utterances if u.emotion not in ("neutral", UNCERTAIN)]
    by_kind = dict.fromkeys(sorted({p.kind for p in parts}), 0)
    for utterance in false:
        middle = (utterance.start + utterance.end) // 2
        by_kind[next(p.kind for p in parts if p.start <= middle < p.end)] += 1
    return {
        "per_hour": len(false) / hours,
        "hours": hours,
        "utterances": len(utterances),
        "speech_windows": len(outputs),
        "windows": len(features.kind),
        "by_kind": by_kind,
    }


def measure(
    path: Path, sounds: Path | None, seconds: float, seed: int
) -> tuple[dict[str, dict[str, Any]], list[Part]]:
    """False events of a bundle on a seeded mix.

    Args:
        path: the bundle's folder.
        sounds: folder of sound files without speech; None for synthetic sounds only.
        seconds: length of the mix.

    Returns:
        Threshold → figures, the bundle's own threshold first; the parts of the mix.

    Raises:
        UserError: the bundle is not valid, or the folder has no sound files.
    """
    bundle = load_bundle(path)
    files = sound_files(sounds) if sounds else []
    samples, parts = mix(bundle.spec.sample_rate, seconds, seed, files)
    features = extract_stream(samples, bundle.spec)
    outputs = model_outputs(Model(bundle), bundle, load_statistics(bundle), features)
    own = bundle.decision.min_utterance_confidence
    figures = {}
    for threshold in (own, *(t for t in THRESHOLDS if t > own)):
        decision = dataclasses.replace(bundle.decision, min_utterance_confidence=threshold)
        changed = dataclasses.replace(bundle, decision=decision)
        figures[f"{threshold:g}"] = false_events(features, outputs, changed, parts)
    return figures, parts


def summary(path: Path, sounds: Path | None) -> str:
    """A sentence for the model card: false events of the bundle itself on the two-hour mix."""
    figures, _ = measure(path, sounds, SECONDS, SEED)
    rates = ", ".join(f"{events['per_hour']:.1f} at {t}" for t, events in figures.items())
    return (
        "**False events of the model in this folder itself**, an hour, by "
        f"`min_utterance_confidence`, its own first: {rates}."
    )

"""False events of a finished bundle, at its own threshold of abstention and at higher ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.features.extractor import load_statistics
from speech_emotion.infer.model import Model
from speech_emotion.train.data.nonspeech import Part, false_events, hear_mix, mix, sound_files
from speech_emotion.train.evaluation.evaluate import outputs

SECONDS, SEED = 7200.0, 1
THRESHOLDS = (0.5, 0.55, 0.6, 0.7, 0.8)


def measure(
    path: Path, sounds: Path | None, seconds: float, seed: int
) -> tuple[dict[str, dict[str, Any]], list[Part]]:
    """False events by threshold, the bundle's own first, and what the mix is made of.

    Raises:
        UserError: a bad bundle, or a folder without sounds.
    """
    bundle = load_bundle(path)
    samples, parts = mix(
        bundle.spec.sample_rate, seconds, seed, sound_files(sounds) if sounds else []
    )
    heard = hear_mix(samples, bundle.spec)
    said = outputs(Model(bundle), bundle, load_statistics(bundle), heard)
    own = bundle.decision.min_utterance_confidence
    found = {}
    for threshold in (own, *(t for t in THRESHOLDS if t > own)):
        decision = dataclasses.replace(bundle.decision, min_utterance_confidence=threshold)
        changed = dataclasses.replace(bundle, decision=decision)
        found[f"{threshold:g}"] = false_events(heard, said, changed, parts)
    return found, parts


def summary(path: Path, sounds: Path | None) -> str:
    """A sentence for the model card: the shipped model itself on the two hours."""
    found, _ = measure(path, sounds, SECONDS, SEED)
    rates = ", ".join(f"{events['per_hour']:.1f} at {t}" for t, events in found.items())
    return (
        "**False events of the model in this folder itself**, an hour, by "
        f"`min_utterance_confidence`, its own first: {rates}."
    )

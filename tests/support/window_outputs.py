"""Synthetic outputs of a model for the windows of a corpus, whose right answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("angry", "happy", "neutral", "sad")
CLIPS = 10
"""Per speaker and label."""


def write_outputs(
    folder: Path, name: str, seed: int, speakers: int = 6, twins: bool = True
) -> Path:
    """Window outputs of a corpus in which voices differ more than emotions.

    The usual scores see the voice as well as the emotion; the relative ones see both, too, so that
    only the comparison with the voice's usual sound separates them.
    """
    chance = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {key: [] for key in ("speaker", "clip", "label", "cold", "r")}
    for speaker in range(speakers):
        voice = chance.normal(0.0, 2.0, 4)
        for k in range(CLIPS * len(LABELS)):
            label = k % len(LABELS)
            for _ in range(int(chance.integers(1, 4))):
                emotion = 2.0 * (np.arange(4) == label) + chance.normal(0.0, 0.7, 4)
                rows["speaker"].append(f"s{speaker}")
                rows["clip"].append(speaker * CLIPS * len(LABELS) + k)
                rows["label"].append(label)
                cold = np.exp(emotion + 0.7 * voice)
                rows["cold"].append(cold / cold.sum())
                rows["r"].append(2.0 * emotion + 2.0 * voice)
    n = len(rows["clip"])
    path = folder / f"{name}.npz"
    if twins:  # through another microphone: everything is shifted
        device = chance.normal(0.0, 1.0, 4)
        shifted = np.array(rows["cold"]) * np.exp(0.7 * device)
        rows["cold"] += list(shifted / shifted.sum(axis=1, keepdims=True))
        rows["r"] += [r + 2.0 * device for r in rows["r"]]
        for key in ("speaker", "clip", "label"):
            rows[key] *= 2
    total = len(rows["clip"])
    np.savez(
        path,
        labels=np.array(LABELS),
        corpus=np.array([name] * total),
        rendering=np.array([0] * n + [1] * (total - n), np.int8),
        speaker=np.array(rows["speaker"]),
        clip=np.array(rows["clip"], np.int32),
        label=np.array(rows["label"], np.int8),
        cold=np.array(rows["cold"], np.float32),
        speech=np.where(chance.uniform(size=total) < 0.95, 0.9, 0.1).astype(np.float32),
        relative=np.array(rows["r"], np.float32),
        prior=np.zeros(4, np.float32),
        bias=np.array([0.0, 0.0, 1.0, 0.0], np.float32),
    )
    return path

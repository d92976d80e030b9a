"""Train on one side of a split and keep the raw outputs for the clips of the other side."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.data.splits import Split
from speech_emotion.train.data.stream_features import ClipFeatures
from speech_emotion.train.model.fit import fit
from speech_emotion.train.model.recipe import Recipe
from speech_emotion.train.model.training_set import TrainingSet

Outputs = dict[int, NDArray[np.float32]]
"""Clip index → raw outputs for its speech windows, (speech windows, bundle.outputs)."""


def run_key(training_set: TrainingSet, recipe: Recipe, seed: int) -> str:
    """Name of a run's folder: a hash of spec, recipe, seed and clips."""
    described = {
        "spec": dataclasses.asdict(training_set.spec),
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "clips": [c.name for c in training_set.clips],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def run_split(
    training_set: TrainingSet,
    split: Split,
    recipe: Recipe,
    features: Mapping[str, Mapping[int, ClipFeatures]],
    work: Path,
    seed: int = 0,
    soft: Callable[[], NDArray[np.float32] | None] = lambda: None,
) -> dict[str, Outputs]:
    """Train on one side of a split; compute outputs for the other side under each condition.

    Args:
        features: condition → clip index → features; `clean` is as recorded.
        work: folder that stores checkpoints and outputs; stored outputs are not computed again.
        soft: returns a teacher's probabilities per clip, (clips, labels), or None.

    Returns:
        Condition → clip index → raw outputs.
    """
    folder = work / run_key(training_set, recipe, seed)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        condition: [i for i in split.test.tolist() if i in clips]
        for condition, clips in features.items()
    }
    missing = [c for c in features if not _path(folder, split, c).is_file()]
    if missing:
        trained = fit(
            training_set,
            split.train,
            recipe,
            seed=seed,
            checkpoint=folder / f"{split.name}.npz",
            soft=soft(),
        )
        for condition in missing:
            clips = wanted[condition]
            sizes = [len(features[condition][i].x) for i in clips]
            x = np.concatenate([features[condition][i].x for i in clips]) if clips else None
            outputs = trained.outputs(x) if x is not None else np.zeros((0, 1), np.float32)
            np.savez(_path(folder, split, condition), outputs=outputs, sizes=sizes, clips=clips)
    result = {}
    for condition in features:
        with np.load(_path(folder, split, condition)) as arrays:
            ends = np.cumsum(arrays["sizes"])[:-1].astype(int)
            parts = np.split(arrays["outputs"], ends)
            result[condition] = dict(zip(arrays["clips"].tolist(), parts, strict=False))
    return result


def _path(folder: Path, split: Split, condition: str) -> Path:
    return folder / f"{split.name}.{condition}.outputs.npz"

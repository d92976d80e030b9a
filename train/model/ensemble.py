"""Several larger networks as the teacher of the small one (Hinton et al., 2015)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.model.fit import Index, Material, Recipe, fit

CHANNELS, HIDDEN = (32, 64, 96, 128), 128
TEMPERATURE = 2.0


def soft_labels(
    material: Material, name: str, train: Index, recipe: Recipe, seed: int, folder: Path
) -> NDArray[np.float32]:
    """The mean softened probabilities of `recipe.ensemble` networks, (clips, labels).

    The networks learn from the clips `train` alone, each from a seed of its own, and speak of
    these alone; other clips, and those without a window of speech, are NaN.
    """
    network = dataclasses.replace(recipe.network, channels=CHANNELS, hidden=HIDDEN)
    member = dataclasses.replace(recipe, network=network, ensemble=0, distil=0.0)
    clean = material.examples[0]
    rows = np.flatnonzero(np.isin(clean.clip, train))
    clip, count = clean.clip[rows], len(material.label_names(recipe))
    total = np.zeros((len(material.clips), count), np.float64)
    windows = np.bincount(clip, minlength=len(total))[:, np.newaxis]
    for k in range(recipe.ensemble):
        checkpoint = folder / f"{name}.member{k}.npz"
        fitted = fit(material, train, member, seed=seed + 1000 + k, checkpoint=checkpoint)
        said = fitted.outputs(clean.x[rows])[:, :count].astype(np.float64)
        np.add.at(total, clip, said / recipe.ensemble)
    with np.errstate(invalid="ignore"):
        mean = np.where(windows > 0, total / windows, np.nan)
    softened = mean ** (1 / TEMPERATURE)
    return np.asarray(softened / softened.sum(axis=1, keepdims=True), np.float32)

"""Several larger networks as the teacher of a small one (Hinton et al., 2015)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.model.fit import fit
from speech_emotion.train.model.recipe import Recipe
from speech_emotion.train.model.training_set import Index, TrainingSet

CHANNELS, HIDDEN = (32, 64, 96, 128), 128
TEMPERATURE = 2.0


def soft_labels(
    training_set: TrainingSet, name: str, train: Index, recipe: Recipe, seed: int, folder: Path
) -> NDArray[np.float32]:
    """Mean softened probabilities of `recipe.ensemble` networks, (clips, labels).

    The networks train on the clips `train` only, each with its own seed. Rows of other clips,
    and of clips without a window of speech, are NaN.

    Args:
        name: of the split, for the names of the checkpoints.
        train: indices of the training clips.
        folder: for the checkpoints.
    """
    network = dataclasses.replace(recipe.network, channels=CHANNELS, hidden=HIDDEN)
    member = dataclasses.replace(recipe, network=network, ensemble=0, distil=0.0)
    clean = training_set.examples[0]
    rows = np.flatnonzero(np.isin(clean.clip, train))
    clip, count = clean.clip[rows], len(training_set.label_names(recipe))
    total = np.zeros((len(training_set.clips), count), np.float64)
    windows = np.bincount(clip, minlength=len(total))[:, np.newaxis]
    for k in range(recipe.ensemble):
        checkpoint = folder / f"{name}.member{k}.npz"
        trained = fit(training_set, train, member, seed=seed + 1000 + k, checkpoint=checkpoint)
        probabilities = trained.outputs(clean.x[rows])[:, :count].astype(np.float64)
        np.add.at(total, clip, probabilities / recipe.ensemble)
    with np.errstate(invalid="ignore"):
        mean = np.where(windows > 0, total / windows, np.nan)
    softened = mean ** (1 / TEMPERATURE)
    return np.asarray(softened / softened.sum(axis=1, keepdims=True), np.float32)

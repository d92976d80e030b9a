"""A linear head for one dimension: ridge regression (Hoerl and Kennard, 1970) in closed form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from speech_emotion.train.dimensions.targets import Targets
from speech_emotion.train.model.whisper.discriminant import speaker_folds
from speech_emotion.train.model.whisper.window_statistics import WindowStatistics

RIDGE = 3.0
"""Variance added to every statistic; the statistics have about variance 1."""

Matrix = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Sums:
    """Weighted sums over the windows of some clips of one corpus; sums of parts can be added.

    A clip's windows have together weight 1 in each rendering.

    Attributes:
        mass: sum of the weights.
        value: of the targets.
        x: of the statistics, (columns,).
        gram: of the products of the statistics, (columns, columns).
        cross: of the products with the target, (columns,).
    """

    mass: float
    value: float
    x: Matrix
    gram: Matrix
    cross: Matrix

    def __add__(self, other: Sums) -> Sums:
        mine, theirs = vars(self).values(), vars(other).values()
        return Sums(*(a + b for a, b in zip(mine, theirs, strict=True)))


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """Value of statistics x: x @ weight + bias.

    Attributes:
        weight: (columns,).
        mean: mean target of its corpora.
    """

    weight: Matrix
    bias: float
    mean: float

    def values(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """One value per window, (windows,); in use they are limited to 0 to 1."""
        return np.asarray(x.astype(np.float32) @ self.weight + self.bias, np.float64)

    def stretched(self, factor: float) -> LinearHead:
        """The head whose values are `factor` times as far from the mean.

        A ridge draws the values of new speakers to the mean, and the CCC counts that.
        """
        bias = self.mean + factor * (self.bias - self.mean)
        return LinearHead(np.float32(factor) * self.weight, bias, self.mean)


PartSums = Mapping[tuple[str, int], Sums]
"""(Corpus, fold of its speakers) → sums."""


def sum_windows(
    targets: Targets,
    renderings: Sequence[WindowStatistics],
    folds: int,
    seed: int,
    corpora: Sequence[str] = (),
) -> tuple[PartSums, NDArray[np.int64]]:
    """The sums of every corpus and fold of speakers, and the fold of each clip, (clips,).

    Args:
        corpora: to train on; empty: all. Clips of the others have the fold -1, and no sums.
    """
    fold = speaker_folds(targets.corpus, targets.speaker, folds, seed)
    if corpora:
        fold[~np.isin(targets.corpus, corpora)] = -1
    found = {}
    for corpus in np.unique(targets.corpus[fold >= 0]):
        for k in range(folds):
            chosen = (targets.corpus == corpus) & (fold == k) & ~np.isnan(targets.value)
            parts = [_sums(r, chosen, targets.value) for r in renderings]
            whole = parts[0]
            for part in parts[1:]:
                whole = whole + part
            found[str(corpus), k] = whole
    return found, fold


def _sums(
    rendering: WindowStatistics, chosen: NDArray[np.bool_], value: NDArray[np.float64]
) -> Sums:
    rows = np.flatnonzero(chosen[rendering.clip])
    clip = rendering.clip[rows]
    x = rendering.x[rows].astype(np.float32)
    weight = (1.0 / np.bincount(clip, minlength=len(chosen))[clip]).astype(np.float32)
    y = value[clip].astype(np.float32)
    scaled = x * weight[:, np.newaxis]
    gram = np.asarray(scaled.T @ x, np.float32)
    return Sums(float(weight.sum()), float(weight @ y), weight @ x, gram, y @ scaled)


def fit(parts: Sequence[Sequence[Sums]], ridge: float = RIDGE) -> LinearHead:
    """A head for some corpora, weighted equally.

    Each corpus is centred: what differs between two studios as a whole is not learned.

    Args:
        parts: per corpus, the sums of its parts.
    """
    wholes = []
    for corpus in parts:
        whole = corpus[0]
        for part in corpus[1:]:
            whole = whole + part
        wholes.append(whole)
    columns = len(wholes[0].x)
    gram, cross = np.zeros((columns, columns), np.float32), np.zeros(columns, np.float32)
    for s in wholes:
        mean = s.x / s.mass
        gram += (s.gram / s.mass - np.outer(mean, mean)) / len(wholes)
        cross += (s.cross / s.mass - mean * (s.value / s.mass)) / len(wholes)
    gram[np.diag_indices(columns)] += ridge
    weight = linalg.solve(gram, cross, assume_a="pos", overwrite_a=True).astype(np.float32)
    centre = np.mean([s.x / s.mass for s in wholes], axis=0)
    value = float(np.mean([s.value / s.mass for s in wholes]))
    return LinearHead(weight, value - float(centre @ weight), value)

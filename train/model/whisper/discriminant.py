"""Linear discriminants for directions that separate the labels in every corpus.

Fisher's discriminant (1936) with one addition: the variance of a label's mean between corpora
counts as noise, with a weight. This suppresses directions in which recordings, languages and
acting styles differ, so that the discriminant generalizes to new corpora.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Matrix = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over some windows of one corpus; the sums of its parts can be added.

    Attributes:
        counts: sum of the targets per label, (labels,).
        sums: of the columns per label, weighted by the targets, (labels, columns).
        gram: weighted products of the columns, (columns, columns); see `label_weights`.
        mass: sum of these weights.
    """

    counts: Matrix
    sums: Matrix
    gram: Matrix
    mass: float

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.counts + other.counts,
            self.sums + other.sums,
            self.gram + other.gram,
            self.mass + other.mass,
        )


@dataclasses.dataclass(frozen=True)
class Moments:
    """Statistics of one corpus for a discriminant.

    Attributes:
        means: per label, (labels, columns).
        present: the corpus has clips of the label, (labels,).
        within: covariance within the labels, labels weighted equally, (columns, columns).
    """

    means: Matrix
    present: NDArray[np.bool_]
    within: Matrix


def label_weights(targets: Matrix) -> Matrix:
    """Weight per window of a corpus, (windows,), by which its labels have equal sums."""
    return np.asarray((targets / np.maximum(targets.sum(axis=0), 1e-6)).sum(axis=1))


def add_up(x: Matrix, targets: Matrix, weight: Matrix) -> Sums:
    """Sums over some windows of one corpus.

    Args:
        x: statistics, (windows, columns).
        targets: probabilities (windows, labels); 0 for labels that the corpus does not have.
        weight: `label_weights` of the whole corpus for these windows, (windows,).
    """
    gram = np.asarray((x * weight[:, np.newaxis]).T @ x, np.float32)
    return Sums(targets.sum(axis=0), targets.T @ x, gram, float(weight.sum()))


def moments_of(sums: Sums) -> Moments:
    """Moments of a corpus, or of a part of it, from its sums."""
    present = sums.counts > 1e-3
    total = np.maximum(sums.counts, 1e-6)[:, np.newaxis]
    means = np.asarray(sums.sums / total, np.float32)
    known = means[present]
    within = np.asarray(sums.gram / sums.mass - known.T @ known / len(known), np.float32)
    return Moments(means, present, within)


def moments(x: Matrix, targets: Matrix, truth: NDArray[np.int64]) -> Moments:
    """Moments of one corpus from its windows.

    Args:
        x: statistics, (windows, columns).
        targets: probabilities of the labels, (windows, labels).
        truth: label index per window, (windows,); determines `present`.
    """
    present = np.isin(np.arange(targets.shape[1]), truth)
    targets = targets * present
    return moments_of(add_up(x, targets, label_weights(targets)))


def standard(corpora: Sequence[Moments]) -> tuple[Matrix, Matrix]:
    """Mean and standard deviation per column, with equal weights of corpora and labels."""
    centres = np.array([m.means[m.present].mean(axis=0) for m in corpora])
    mean = centres.mean(axis=0)
    squares = np.mean(
        [np.diag(m.within) + np.square(m.means[m.present] - mean).mean(axis=0) for m in corpora],
        axis=0,
    )
    return mean, np.sqrt(np.maximum(squares, 1e-8))


@dataclasses.dataclass(frozen=True)
class Discriminant:
    """Scores of the labels: x @ weight + bias."""

    weight: Matrix
    bias: Matrix

    def scores(self, x: Matrix) -> Matrix:
        return np.asarray(x @ self.weight + self.bias, np.float32)


def solve(
    corpora: Sequence[Moments],
    *,
    spread: float,
    ridge: float,
    deviation: Matrix | float = 1.0,
    centre: Matrix | float = 0.0,
) -> Discriminant:
    """The discriminant of some corpora, weighted equally.

    Args:
        spread: weight of the variance of the labels' means between corpora.
        ridge: variance added to every column, in units of its `deviation` squared.
        deviation: standard deviation of each column, (columns,).
        centre: point from which the labels' biases are measured, (columns,).
    """
    noise = np.zeros_like(corpora[0].within)
    for part in corpora:
        noise += part.within
    noise /= len(corpora)
    means, moved = common_means(corpora)
    noise += spread * (moved.T @ moved)
    noise[np.diag_indices(len(noise))] += ridge * np.square(deviation)
    wanted = (means - means.mean(axis=0)).T
    weight = linalg.solve(noise, wanted, assume_a="pos", overwrite_a=True).astype(np.float32)
    bias = -0.5 * np.einsum("kd,dk->k", means - centre, weight)
    return Discriminant(weight, bias - np.broadcast_to(centre, len(weight)) @ weight)


def common_means(corpora: Sequence[Moments], rounds: int = 20) -> tuple[Matrix, Matrix]:
    """The labels' means over the corpora, and their deviations between the corpora.

    Corpora and labels are fitted as two additive effects, in turns, so that a corpus without
    some label does not shift the means of its other labels.

    Returns:
        means (labels, columns), and rows (corpora * labels, columns) whose squares sum to the mean
        squared deviation of a label's mean between corpora, including the corpora's offsets.
    """
    cells = np.array([m.means for m in corpora])
    present = np.array([m.present for m in corpora])[..., np.newaxis].astype(np.float32)
    offset = np.zeros((len(corpora), 1, cells.shape[2]), np.float32)
    means = np.zeros(cells.shape[1:], np.float32)
    for _ in range(rounds):
        means = ((cells - offset) * present).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
        offset = ((cells - means) * present).sum(axis=1, keepdims=True)
        offset /= present.sum(axis=1, keepdims=True)
        offset -= offset.mean(axis=0)
    share = present / (np.maximum(present.sum(axis=0), 1) * cells.shape[1])
    moved = (cells - means) * np.sqrt(share)
    return means, np.asarray(moved.reshape(-1, cells.shape[2]), np.float32)


def softmax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities of scores (n, labels), in float64."""
    raised = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def per_clip(
    values: NDArray[np.floating], clip: NDArray[np.integer], clips: int
) -> NDArray[np.float64]:
    """The mean over each clip's windows, (clips, columns); NaN for clips without a window."""
    total = np.zeros((clips, values.shape[1]))
    np.add.at(total, clip, values)
    count = np.bincount(clip, minlength=clips)[:, np.newaxis]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / count)


def speaker_folds(
    corpus: NDArray[np.str_], speaker: NDArray[np.str_], folds: int, seed: int
) -> NDArray[np.int64]:
    """Fold index per item, (items,); a speaker is in one fold, a corpus is in all folds."""
    rng = np.random.default_rng(seed)
    fold: dict[str, int] = {}
    for name in np.unique(corpus):
        people = np.unique(speaker[corpus == name])
        rng.shuffle(people)
        fold |= {person: i % folds for i, person in enumerate(people)}
    return np.array([fold[person] for person in speaker])

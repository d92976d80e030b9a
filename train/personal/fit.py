"""Fit the map of a bundle's users to their labels, and measure it on held-out labels.

The map is softmax(W s + b) of an utterance's log-probabilities s (Dirichlet calibration, Kull et
al., 2019). W and b have Gaussian priors around "no change", whose widths cross-validation chooses
anew for each fit, so that few labels change little. The loss is convex; Newton's method solves it.
numpy only: it runs on the box.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Index = NDArray[np.int64]

FOLDS = 5
"""Parts of the labels; each is held out once."""
REPEATS = 2
"""Divisions into such parts, of which the losses are averaged."""
RESAMPLES = 2000
"""Bootstrap resamples of an interval."""
STEPS, SMALL_STEP = 50, 1e-5
"""Most steps of Newton's method, and the step that ends it."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Utterances with the label that a person gave.

    Attributes:
        scores: logarithms of the probabilities that the bundle gives without a map, less their
            mean, (utterances, labels).
        truth: index of the person's label, (utterances,).
    """

    scores: Matrix
    truth: Index

    def __len__(self) -> int:
        return len(self.truth)

    def of(self, rows: NDArray[np.generic]) -> Examples:
        """Some of them."""
        return Examples(self.scores[rows], self.truth[rows])


def scores_of(probabilities: Matrix) -> Matrix:
    """Logarithms of probabilities (…, labels), less their mean."""
    scores = np.log(np.maximum(probabilities, 1e-12))
    return np.asarray(scores - scores.mean(axis=-1, keepdims=True))


@dataclasses.dataclass(frozen=True)
class Prior:
    """Standard deviations of what the map changes: how far few labels may move it.

    Attributes:
        bias: of each number of b.
        scale: of a factor common to all of W's diagonal.
        matrix: of each number of W in addition.
    """

    bias: float
    scale: float
    matrix: float


PRIORS = tuple(
    Prior(bias, 0.3, matrix)
    for bias, matrix in itertools.product((0.1, 0.3, 1.0), (0.01, 0.1, 0.3))
)


@dataclasses.dataclass(frozen=True)
class Map:
    """W (labels, labels) and b (labels,)."""

    matrix: Matrix
    bias: Vector

    @classmethod
    def identity(cls, labels: int) -> Map:
        """No change."""
        return cls(np.eye(labels), np.zeros(labels))

    def probabilities(self, scores: Matrix) -> Matrix:
        """Adapted probabilities of scores, both (…, labels)."""
        return softmax(scores @ self.matrix.T + self.bias)

    def undo(self, probabilities: Matrix) -> Matrix:
        """Scores (…, labels) whose adapted probabilities these are, or are nearest to."""
        labels = len(self.bias)
        # W s = log p - b + c, and the sum of s is 0: labels + 1 equations for s and c.
        equations = np.block([[self.matrix, -np.ones((labels, 1))], [np.ones(labels), 0.0]])
        wanted = np.log(np.maximum(probabilities, 1e-12)) - self.bias
        padded = np.concatenate([wanted, np.zeros((*wanted.shape[:-1], 1))], axis=-1)
        return np.asarray((padded @ np.linalg.pinv(equations).T)[..., :-1])


def softmax(scores: Matrix) -> Matrix:
    """Probabilities of scores, both (…, labels)."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def weights(truth: Index) -> Vector:
    """Weight of each example, (examples,), 1 on average.

    A label that a person gave n times counts as the square root of n. With equal weights of all
    examples, the map would learn how frequent the labels are among those that were given; with
    equal weights of all labels, one example of a rare label would decide.
    """
    weight = 1.0 / np.sqrt(np.bincount(truth)[truth])
    return np.asarray(weight / weight.mean())


def fit(examples: Examples, prior: Prior) -> Map:
    """The map with the largest posterior density."""
    scores, truth, weight = examples.scores, examples.truth, weights(examples.truth)
    n, labels = scores.shape
    eye = np.eye(labels)
    # Derivatives of the mapped scores by b, by the common factor, and by W: (n, labels, numbers).
    by_matrix = np.einsum("kl,nm->nklm", eye, scores).reshape(n, labels, labels * labels)
    by_bias = np.broadcast_to(eye, (n, labels, labels))
    slopes = np.concatenate([by_bias, scores[:, :, np.newaxis], by_matrix], axis=2)
    width = np.repeat([prior.bias, prior.scale, prior.matrix], [labels, 1, labels * labels])
    precision = 1.0 / np.square(width)
    wanted = eye[truth]

    def mapped(numbers: Vector) -> Matrix:
        return np.asarray(scores + slopes @ numbers)

    def loss(numbers: Vector) -> float:
        values = mapped(numbers)
        high = values.max(axis=1)
        total = high + np.log(np.exp(values - high[:, np.newaxis]).sum(axis=1))
        chosen = values[np.arange(n), truth]
        return float(weight @ (total - chosen) + 0.5 * precision @ np.square(numbers))

    numbers = np.zeros(len(width))
    value = loss(numbers)
    for _ in range(STEPS):
        p = softmax(mapped(numbers))
        gradient = np.einsum("n,nk,nkp->p", weight, p - wanted, slopes) + precision * numbers
        centred = slopes - np.einsum("nk,nkp->np", p, slopes)[:, np.newaxis]
        root = centred * np.sqrt(weight[:, np.newaxis] * p)[:, :, np.newaxis]
        root = root.reshape(-1, len(width))
        step = np.linalg.solve(root.T @ root + np.diag(precision), gradient)
        share = 1.0
        while (after := loss(numbers - share * step)) > value and share > 1e-6:
            share /= 2.0
        numbers, value = numbers - share * step, min(value, after)
        if np.abs(share * step).max() < SMALL_STEP:
            break
    bias, scale, matrix = np.split(numbers, [labels, labels + 1])
    return Map((1.0 + scale) * eye + matrix.reshape(labels, labels), bias)


def losses(probabilities: Matrix, truth: Index) -> Vector:
    """Cross-entropy of each example in nats, (examples,)."""
    return np.asarray(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)))


def divide(truth: Index, seed: int) -> Index:
    """Part of each example, 0 to `FOLDS` - 1; each label is spread over all parts."""
    chance = np.random.default_rng(seed)
    order = chance.permutation(len(truth))
    order = order[np.argsort(truth[order], kind="stable")]
    part = np.empty(len(truth), np.int64)
    part[order] = np.arange(len(truth)) % FOLDS
    return part


def choose(examples: Examples, seed: int = 0) -> Prior:
    """The prior whose maps have the smallest cross-entropy on held-out labels."""
    part, weight = divide(examples.truth, seed), weights(examples.truth)

    def kept_back(prior: Prior) -> float:
        found = 0.0
        for k in range(FOLDS):
            kept = part == k
            if kept.any():
                rest = examples.of(np.flatnonzero(~kept))
                p = fit(rest, prior).probabilities(examples.scores[kept])
                found += float(weight[kept] @ losses(p, examples.truth[kept]))
        return found

    return min(PRIORS, key=kept_back)


def adapt(examples: Examples, seed: int = 0) -> Map:
    """The map by all examples, with the prior that `choose` finds."""
    return fit(examples, choose(examples, seed))


def predict_kept_back(examples: Examples) -> list[Matrix]:
    """Adapted probabilities (examples, labels) of each repeat, by maps that saw no example of its
    part. Each map chooses its prior by its own examples alone."""
    found = []
    for repeat in range(REPEATS):
        part = divide(examples.truth, 1000 + repeat)
        p = np.zeros_like(examples.scores)
        for k in np.unique(part):
            kept = part == k
            chosen = adapt(examples.of(np.flatnonzero(~kept)), seed=repeat)
            p[kept] = chosen.probabilities(examples.scores[kept])
        found.append(p)
    return found


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Figures of two sets of probabilities of the same examples.

    Attributes:
        before, after: cross-entropy in nats, mean over the labels.
        interval: 95 % bootstrap interval of before - after.
        uar_before, uar_after: unweighted average recall, 0 to 1.
        uar_interval: 95 % bootstrap interval of uar_after - uar_before.
    """

    before: float
    after: float
    interval: tuple[float, float]
    uar_before: float
    uar_after: float
    uar_interval: tuple[float, float]

    @property
    def better(self) -> bool:
        """The cross-entropy fell beyond its interval, and the recall did not fall."""
        return self.interval[0] > 0.0 and self.uar_after >= self.uar_before


def compare(truth: Index, before: Matrix, after: list[Matrix], seed: int = 0) -> Comparison:
    """Compare probabilities with several others, of which the figures are averaged.

    Both figures are means over the labels that occur, so that a rare one counts as much.

    Args:
        truth: index of the label, (examples,).
        before: (examples, labels).
        after: one or more of (examples, labels).
    """
    labels = before.shape[1]
    rows = np.stack(
        [
            losses(before, truth),
            np.mean([losses(p, truth) for p in after], axis=0),
            before.argmax(axis=1) == truth,
            np.mean([p.argmax(axis=1) == truth for p in after], axis=0),
        ],
        axis=1,
    )
    member = np.eye(labels)[truth]

    def means(count: Matrix) -> Matrix:
        """Means over the labels of each resample's rows, (resamples, 4)."""
        total = count @ member
        summed = np.einsum("re,el,ef->rlf", count, member, rows)
        per_label = summed / np.maximum(total, 1e-9)[:, :, np.newaxis]
        return np.asarray(per_label.sum(axis=1) / (total > 0).sum(axis=1)[:, np.newaxis])

    chance = np.random.default_rng(seed)
    drawn = chance.multinomial(len(truth), np.full(len(truth), 1.0 / len(truth)), RESAMPLES)
    resampled = means(drawn.astype(np.float64))
    low_high = np.quantile(
        [resampled[:, 0] - resampled[:, 1], resampled[:, 3] - resampled[:, 2]],
        [0.025, 0.975],
        axis=1,
    )
    loss_before, loss_after, uar_before, uar_after = means(np.ones((1, len(truth))))[0].tolist()
    return Comparison(
        before=loss_before,
        after=loss_after,
        interval=(float(low_high[0, 0]), float(low_high[1, 0])),
        uar_before=uar_before,
        uar_after=uar_after,
        uar_interval=(float(low_high[0, 1]), float(low_high[1, 1])),
    )

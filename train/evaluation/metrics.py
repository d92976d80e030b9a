"""Metrics of labels and probabilities; all are fractions of 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Vector = NDArray[np.float64]

BINS = 10
"""Bins of equal mass for the calibration error."""
RESAMPLES = 1000
"""Bootstrap resamples."""


def confusion(truth: Labels, predicted: Labels, n: int) -> NDArray[np.int64]:
    """Counts by (true label, predicted label), (n, n)."""
    return np.bincount(truth * n + predicted, minlength=n * n).reshape(n, n)


def recall(table: NDArray[np.int64]) -> Vector:
    """Recall of each label that occurs in a confusion matrix (n, n)."""
    totals = table.sum(axis=1)
    return np.asarray(np.diag(table)[totals > 0] / totals[totals > 0])


def uar(truth: Labels, predicted: Labels, n: int) -> float:
    """Unweighted average recall over the labels that occur.

    Args:
        truth, predicted: label indices, (items,).
        n: number of labels.
    """
    return float(recall(confusion(truth, predicted, n)).mean())


def uar_interval(
    truth: Labels, predicted: Labels, n: int, groups: NDArray[Any] | None = None, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the UAR (Efron, 1979).

    Args:
        groups: group per item, (items,); a group is resampled as a whole, e.g. the windows of a
            clip. Without groups, every item is resampled alone.
    """
    rng = np.random.default_rng(seed)
    groups = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    # One confusion matrix per group: a resample is a sum of matrices.
    tables = np.zeros((int(groups.max()) + 1, n, n), np.int64)
    np.add.at(tables, (groups, truth, predicted), 1)
    drawn = []
    for _ in range(RESAMPLES):
        counts = np.bincount(rng.integers(len(tables), size=len(tables)), minlength=len(tables))
        drawn.append(float(recall(np.tensordot(counts, tables, 1)).mean()))
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def calibration_bins(
    right: NDArray[np.bool_], confidence: Vector
) -> list[tuple[float, float, int]]:
    """(mean confidence, accuracy, count) per bin of equal mass, lowest confidence first.

    Args:
        right: the label is correct, (items,).
        confidence: of the label, (items,).
    """
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [(float(confidence[p].mean()), float(right[p].mean()), len(p)) for p in parts]


def ece(right: NDArray[np.bool_], confidence: Vector) -> float:
    """Expected calibration error over ten bins of equal mass."""
    bins = calibration_bins(right, confidence)
    return sum(n * abs(c - a) for c, a, n in bins) / max(1, sum(n for _, _, n in bins))


def risk_coverage(right: NDArray[np.bool_], confidence: Vector) -> tuple[Vector, Vector, Vector]:
    """Coverage, error rate of the covered items, and threshold, from high to low threshold."""
    order = np.argsort(-confidence, kind="stable")
    n = np.arange(1, len(order) + 1)
    return n / len(order), np.cumsum(~right[order]) / n, confidence[order]


def risk_at(right: NDArray[np.bool_], confidence: Vector, coverage: float) -> float:
    """Error rate of the share `coverage` of the items with the highest confidence."""
    share, risk, _ = risk_coverage(right, confidence)
    return float(risk[min(len(risk) - 1, int(np.searchsorted(share, coverage)))])


def threshold_at(right: NDArray[np.bool_], confidence: Vector, coverage: float) -> float:
    """The confidence that the share `coverage` of the items reaches."""
    share, _, threshold = risk_coverage(right, confidence)
    return float(threshold[min(len(threshold) - 1, int(np.searchsorted(share, coverage)))])


def figures(
    truth: Labels,
    probabilities: Vector,
    sure: NDArray[np.bool_],
    n: int,
    groups: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """The map U of `evaluate --json`: `uar`, `uar_ci`, `accuracy`, `ece`, `coverage`, …

    Args:
        truth: label indices, (items,).
        probabilities: (items, n).
        sure: the item is not `uncertain`, (items,).
        n: number of labels.
        groups: see `uar_interval`.
    """
    if len(truth) == 0:
        return {"n": 0}
    predicted = probabilities.argmax(axis=1)
    right = predicted == truth
    return {
        "uar": uar(truth, predicted, n),
        "uar_ci": list(uar_interval(truth, predicted, n, groups)),
        "accuracy": float(right.mean()),
        "ece": ece(right, probabilities.max(axis=1)),
        "coverage": float(sure.mean()),
        "confusion": confusion(truth, predicted, n).tolist(),
        "n": len(truth),
    }


def ccc(truth: Vector, predicted: Vector) -> float:
    """Concordance correlation coefficient (Lin, 1989) of values, (items,)."""
    return float(_ccc(_moments(truth, predicted, np.zeros(len(truth), np.int64)).sum(axis=0)))


def ccc_interval(
    truth: Vector, predicted: Vector, groups: NDArray[Any], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the CCC.

    Args:
        groups: group per item, e.g. its speaker, (items,); a group is resampled as a whole.
    """
    rng = np.random.default_rng(seed)
    parts = _moments(truth, predicted, np.unique(groups, return_inverse=True)[1])
    drawn = rng.integers(len(parts), size=(RESAMPLES, len(parts)))
    found = _ccc(parts[drawn].sum(axis=1))
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def _moments(truth: Vector, predicted: Vector, group: Labels) -> Vector:
    """Per group: number, sums of both, of both squared, and of the product, (groups, 6)."""
    columns = (np.ones(len(truth)), truth, predicted, truth**2, predicted**2, truth * predicted)
    return np.array([np.bincount(group, column) for column in columns]).T


def _ccc(sums: Vector) -> Vector:
    n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    covariance = ab / n - a * b / n**2
    spread = aa / n - (a / n) ** 2 + bb / n - (b / n) ** 2 + ((a - b) / n) ** 2
    return np.asarray(2.0 * covariance / np.maximum(spread, 1e-12))

"""Choose a bundle's operating points: bias per label and threshold, for few false labels."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Vector = NDArray[np.float64]

MAX_FALSE = {"low": 2.5, "medium": 5.0, "high": 10.0}
"""Most emotional labels of 100 neutral utterances, the mean over the deciding corpora."""
ALL_FACTOR = 2.0
"""The mean over all corpora may be so many times as high."""
BIASES = {"neutral": np.arange(0.0, 2.05, 0.1), "sad": np.arange(-1.2, 0.05, 0.3)}
"""Constants that are tried: for neutral, and for sad, the label that calm speech is taken for."""
THRESHOLDS = np.arange(0.26, 0.90, 0.02)


@dataclasses.dataclass(frozen=True)
class Utterances:
    """Held-out utterances of one corpus.

    Attributes:
        probabilities: calibrated, (utterances, labels).
        truth: label index, (utterances,).
    """

    probabilities: Vector
    truth: Index


@dataclasses.dataclass(frozen=True)
class Point:
    """An operating point: bias per label, and the lowest confidence of a label."""

    bias: tuple[float, ...]
    threshold: float


def chosen_labels(probabilities: Vector, bias: Sequence[float]) -> Index:
    """The label that a decision with this bias gives, (utterances,)."""
    scores = np.log(np.maximum(probabilities, 1e-12))
    if any(bias):
        scores = scores + np.array(bias)
    return np.asarray(scores.argmax(axis=1), np.int64)


def label_rates(
    truth: Index, top: Index, sure: NDArray[np.bool_], neutral: int
) -> dict[str, float]:
    """Of 100 neutral utterances, those with another label; of 100 others, those labelled correctly.

    Args:
        truth, top: label indices, true and given, (utterances,).
        sure: the utterance is not `uncertain`, (utterances,).
        neutral: index of the label neutral.
    """
    calm = truth == neutral
    given = sure & (top != neutral)
    return {
        "false_per_100": 100 * float(given[calm].mean()) if calm.any() else 0.0,
        "found_per_100": 100 * float((sure & (top == truth))[~calm].mean()) if any(~calm) else 0.0,
    }


def rates(corpora: Mapping[str, Utterances], point: Point, neutral: int) -> dict[str, Any]:
    """`label_rates` and coverage per corpus at an operating point, and their means.

    The speech thresholds do not count: they reject much speech of unknown rooms.
    """
    each = {}
    for name, part in corpora.items():
        top = chosen_labels(part.probabilities, point.bias)
        confidence = part.probabilities[np.arange(len(top)), top]
        sure = confidence >= point.threshold
        each[name] = {
            "coverage": float(sure.mean()),
            **label_rates(part.truth, top, sure, neutral),
        }
    keys = ("coverage", "false_per_100", "found_per_100")
    return {"corpora": each, **{k: float(np.mean([e[k] for e in each.values()])) for k in keys}}


def search(
    corpora: Mapping[str, Utterances], deciding: Sequence[str], labels: Sequence[str], most: float
) -> Point:
    """The point that finds most, the mean over all corpora, with few false labels.

    Args:
        deciding: corpora whose mean of false labels may be at most `most`; the mean over all
            corpora may be `ALL_FACTOR` times as high.
        labels: in the order of the probabilities; one is `neutral`.
        most: false labels of 100 neutral utterances.
    """
    neutral = labels.index("neutral")
    inside = np.array([name in deciding for name in corpora])
    known = [(labels.index(name), values) for name, values in BIASES.items() if name in labels]
    best, point = -1.0, Point((0.0,) * len(labels), 1.0)
    for values in itertools.product(*(v for _, v in known)):
        bias = np.zeros(len(labels))
        bias[[at for at, _ in known]] = values
        false, found = [], []
        for part in corpora.values():
            top = chosen_labels(part.probabilities, bias.tolist())
            confidence = part.probabilities[np.arange(len(top)), top]
            calm = part.truth == neutral
            wrong = np.sort(confidence[calm & (top != neutral)])
            right = np.sort(confidence[~calm & (top == part.truth)])
            below = np.searchsorted(wrong, THRESHOLDS), np.searchsorted(right, THRESHOLDS)
            false.append((len(wrong) - below[0]) / (int(calm.sum()) or 1))
            found.append((len(right) - below[1]) / (int((~calm).sum()) or 1))
        few = 100 * np.mean(np.array(false)[inside], axis=0) <= most
        few &= 100 * np.mean(false, axis=0) <= ALL_FACTOR * most
        if not few.any():
            continue
        value = np.where(few, np.mean(found, axis=0), -1.0)
        at = int(value.argmax())
        if value[at] > best:
            best = float(value[at])
            point = Point(tuple(np.round(bias, 2).tolist()), round(float(THRESHOLDS[at]), 4))
    return point


def frontier(
    corpora: Mapping[str, Utterances],
    deciding: Sequence[str],
    labels: Sequence[str],
    limits: Sequence[float],
) -> list[dict[str, Any]]:
    """The best point per limit of false labels, with its rates on the deciding and all corpora."""
    rows = []
    for most in limits:
        point = search(corpora, deciding, labels, most)
        neutral = labels.index("neutral")
        few = {name: part for name, part in corpora.items() if name in deciding}
        rows.append(
            {
                "most": most,
                "bias": point.bias,
                "threshold": point.threshold,
                "deciding": rates(few, point, neutral),
                "all": rates(corpora, point, neutral),
            }
        )
    return rows


def nested(
    corpora: Mapping[str, Utterances], deciding: Sequence[str], labels: Sequence[str], most: float
) -> dict[str, Any]:
    """Rates of every corpus at the point that the other corpora choose, and their means."""
    each = {}
    for name, part in corpora.items():
        others = {n: p for n, p in corpora.items() if n != name}
        point = search(others, [n for n in deciding if n != name], labels, most)
        each[name] = rates({name: part}, point, labels.index("neutral"))["corpora"][name]
    keys = ("coverage", "false_per_100", "found_per_100")
    return {"corpora": each, **{k: float(np.mean([e[k] for e in each.values()])) for k in keys}}

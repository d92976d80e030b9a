"""The choice of operating points: few false labels, and most found."""

from __future__ import annotations

import numpy as np
import pytest

from speech_emotion.train.evaluation.operating_points import (
    ALL_FACTOR,
    Point,
    Utterances,
    chosen_labels,
    frontier,
    label_rates,
    nested,
    rates,
    search,
)

LABELS = ("angry", "happy", "neutral", "sad")
NEUTRAL = 2


def corpus(seed: int, calm_as_sad: float = 0.0) -> Utterances:
    """400 utterances; angry is half hidden in neutral, and some calm speech sounds sad."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=400)
    scores = rng.normal(0.0, 0.5, (400, 4))
    scores[np.arange(400), truth] += 1.5
    scores[truth == 0, NEUTRAL] += 1.0
    lost = (truth == NEUTRAL) & (rng.random(400) < calm_as_sad)
    scores[lost, 3] += 2.0
    raised = np.exp(scores)
    return Utterances(raised / raised.sum(axis=1, keepdims=True), truth)


def test_false_labels_and_found_emotions() -> None:
    truth = np.array([2, 2, 2, 2, 0, 0, 1, 3])
    top = np.array([2, 0, 1, 2, 0, 0, 0, 3])
    sure = np.array([True, True, False, True, True, False, True, True])
    found = label_rates(truth, top, sure, NEUTRAL)
    assert found == {"false_per_100": 25.0, "found_per_100": 50.0}


def test_the_bias_changes_the_label() -> None:
    p = np.array([[0.4, 0.1, 0.3, 0.2], [0.7, 0.1, 0.1, 0.1]])
    assert chosen_labels(p, ()).tolist() == [0, 0]
    assert chosen_labels(p, (0.0, 0.0, 1.0, 0.0)).tolist() == [2, 0]


@pytest.mark.parametrize("most", [2.5, 5.0, 10.0])
def test_the_point_keeps_both_limits_and_finds_more_than_a_threshold_alone(most: float) -> None:
    corpora = {"A": corpus(0), "B": corpus(1), "C": corpus(2, calm_as_sad=0.6)}
    point = search(corpora, ("A", "B"), LABELS, most)
    both = {name: corpora[name] for name in ("A", "B")}
    assert rates(both, point, NEUTRAL)["false_per_100"] <= most
    assert rates(corpora, point, NEUTRAL)["false_per_100"] <= ALL_FACTOR * most
    alone = [Point((0.0,) * 4, t) for t in np.arange(0.26, 0.9, 0.02)]
    found = [
        rates(corpora, p, NEUTRAL)["found_per_100"]
        for p in alone
        if rates(both, p, NEUTRAL)["false_per_100"] <= most
        and rates(corpora, p, NEUTRAL)["false_per_100"] <= ALL_FACTOR * most
    ]
    assert rates(corpora, point, NEUTRAL)["found_per_100"] >= max(found)


def test_no_point_means_no_label() -> None:
    sure = Utterances(np.array([[0.97, 0.01, 0.01, 0.01]] * 4), np.full(4, NEUTRAL))
    point = search({"A": sure}, ("A",), LABELS, 5.0)
    assert point.threshold == 1.0
    assert rates({"A": sure}, point, NEUTRAL)["false_per_100"] == 0.0


def test_more_false_labels_find_more() -> None:
    corpora = {"A": corpus(0), "B": corpus(1)}
    rows = frontier(corpora, ("A", "B"), LABELS, (1.0, 5.0, 20.0))
    found = [row["all"]["found_per_100"] for row in rows]
    assert found == sorted(found)
    assert [row["most"] for row in rows] == [1.0, 5.0, 20.0]


def test_a_corpus_is_judged_at_the_point_of_the_others() -> None:
    corpora = {"A": corpus(0), "B": corpus(1), "C": corpus(2)}
    found = nested(corpora, tuple(corpora), LABELS, 5.0)
    point = search({n: corpora[n] for n in ("B", "C")}, ("B", "C"), LABELS, 5.0)
    assert found["corpora"]["A"] == rates({"A": corpora["A"]}, point, NEUTRAL)["corpora"]["A"]

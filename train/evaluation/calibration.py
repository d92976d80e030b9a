"""Temperatures and abstention thresholds, from speakers that the model has not heard."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.train.evaluation.metrics import threshold_at
from speech_emotion.train.evaluation.offline_decisions import Heard, Judged, judge

COVERAGE = 0.8
"""Share of windows, and of utterances, that shall get a label."""

LOST = 0.01
"""Share of windows, and of utterances, of speech that may be taken for something else."""
MOST_SPEECH = 0.7
"""No threshold is higher: rooms and voices are not all as clear as those it is fitted on."""

Vector = NDArray[np.float64]


def nll(
    probabilities: Vector, truth: NDArray[np.int64], weight: Vector, temperature: float
) -> float:
    """Weighted negative log-likelihood of probabilities (n, labels) at a temperature."""
    scores = np.log(np.maximum(probabilities, 1e-12)) / temperature
    scores -= scores.max(axis=1, keepdims=True)
    chosen = scores[np.arange(len(truth)), truth] - np.log(np.exp(scores).sum(axis=1))
    return float(-np.average(chosen, weights=weight))


def fit_temperature(probabilities: Vector, truth: NDArray[np.int64], weight: Vector) -> float:
    """The temperature of least likelihood loss (Guo et al., 2017), 0.2 to 10."""
    found = minimize_scalar(
        lambda log_t: nll(probabilities, truth, weight, float(np.exp(log_t))),
        bounds=(np.log(0.2), np.log(10.0)),
        method="bounded",
    )
    return round(float(np.exp(found.x)), 4)


def weights(corpora: NDArray[np.str_]) -> Vector:
    """Weights that let a corpus count as the root of its size.

    Between all corpora alike, which makes the many clips of a large and difficult one too
    sure, and all clips alike, which makes the others too unsure.
    """
    _, index, counts = np.unique(corpora, return_inverse=True, return_counts=True)
    weight = 1 / np.sqrt(counts[index])
    return np.asarray(weight / weight.mean())


def calibrated(
    bundle: Bundle,
    heard: Sequence[Heard],
    outputs: Sequence[NDArray[np.float32]],
    truth: NDArray[np.int64],
    corpora: NDArray[np.str_],
    coverage: float = COVERAGE,
) -> Bundle:
    """The bundle with temperatures and thresholds for these clips.

    First the temperature of single windows, then with it those of the smoothed windows and of
    the utterances, then the thresholds. See `weights` for how much a corpus counts.

    Args:
        outputs: raw model outputs per clip, (speech windows, bundle.outputs), probabilities.
        truth: label index per clip.
        corpora: corpus name per clip.
    """
    sizes = [len(o) for o in outputs]
    window_truth = np.repeat(truth, sizes)
    window_weight = np.repeat(weights(corpora) / np.maximum(sizes, 1), sizes)
    stacked = np.concatenate(outputs)[:, : len(bundle.labels)].astype(np.float64)
    bundle = _with(bundle, temperature=fit_temperature(stacked, window_truth, window_weight))
    judged = _judge(bundle, heard, outputs)
    smoothed = np.concatenate([j.smoothed for j in judged])
    said = np.array([j.probabilities for j in judged])
    bundle = _with(
        bundle,
        smoothed_temperature=fit_temperature(smoothed, window_truth, window_weight),
        utterance_temperature=fit_temperature(said, truth, weights(corpora)),
    )
    judged = _judge(bundle, heard, outputs)
    smoothed = np.concatenate([j.smoothed for j in judged])
    said = np.array([j.probabilities for j in judged])
    decision = dataclasses.replace(
        bundle.decision,
        min_confidence=_threshold(smoothed, window_truth, coverage),
        min_utterance_confidence=_threshold(said, truth, coverage),
    )
    if bundle.speech_output:
        voiced = [float(o[:, -1].mean()) for o in outputs if len(o)]
        decision = dataclasses.replace(
            decision,
            min_speech=_rejects(np.concatenate([j.speech for j in judged])),
            min_utterance_speech=_rejects(np.array(voiced)),
        )
    return dataclasses.replace(bundle, decision=decision)


def _rejects(speech: Vector) -> float:
    """The probability of speech that all but a few reach."""
    return round(min(MOST_SPEECH, float(np.quantile(speech, LOST))), 4)


def _threshold(probabilities: Vector, truth: NDArray[np.int64], coverage: float) -> float:
    right = probabilities.argmax(axis=1) == truth
    return round(threshold_at(right, probabilities.max(axis=1), coverage), 4)


def _with(bundle: Bundle, **values: float) -> Bundle:
    return dataclasses.replace(
        bundle, calibration=dataclasses.replace(bundle.calibration, **values)
    )


def _judge(
    bundle: Bundle, heard: Sequence[Heard], outputs: Sequence[NDArray[np.float32]]
) -> list[Judged]:
    return [judge(h, o, bundle) for h, o in zip(heard, outputs, strict=True)]

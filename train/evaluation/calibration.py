"""Fit temperatures and abstention thresholds on clips of speakers that the model has not seen."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.train.data.stream_features import ClipFeatures
from speech_emotion.train.evaluation.metrics import threshold_at
from speech_emotion.train.evaluation.offline_decisions import ClipDecisions, decide_clip
from speech_emotion.train.model.whisper.discriminant import softmax

COVERAGE = 0.8
"""Share of the windows, and of the utterances, that get a label."""

SPEECH_LOST = 0.01
"""Share of the windows, and of the utterances, of speech that may be rejected as not speech."""
MAX_SPEECH_THRESHOLD = 0.7
"""Upper limit of the speech thresholds: rooms and voices in use differ from the fitting clips."""

TEMPERATURES = (2.0 ** np.arange(-2.0, 2.01, 0.125)).tolist()
GROWTHS = (2.0 ** np.arange(-3.0, 4.01, 0.5)).tolist()
"""Temperatures, and their growths with the distance, that are tried."""

Vector = NDArray[np.float64]


def nll(
    probabilities: Vector, truth: NDArray[np.int64], weight: Vector, temperature: float
) -> float:
    """Weighted mean negative log-likelihood of probabilities (n, labels) at a temperature.

    Args:
        truth: label index per item, (n,).
        weight: per item, (n,).
    """
    scores = np.log(np.maximum(probabilities, 1e-12)) / temperature
    scores -= scores.max(axis=1, keepdims=True)
    chosen = scores[np.arange(len(truth)), truth] - np.log(np.exp(scores).sum(axis=1))
    return float(-np.average(chosen, weights=weight))


def fit_temperature(probabilities: Vector, truth: NDArray[np.int64], weight: Vector) -> float:
    """The temperature, 0.2 to 10, with the smallest `nll` (Guo et al., 2017)."""
    minimum = minimize_scalar(
        lambda log_t: nll(probabilities, truth, weight, float(np.exp(log_t))),
        bounds=(np.log(0.2), np.log(10.0)),
        method="bounded",
    )
    return round(float(np.exp(minimum.x)), 4)


def confidence_gap(
    probabilities: Vector, truth: NDArray[np.int64], weight: Vector, corpora: NDArray[np.str_]
) -> float:
    """Mean over the corpora of the difference between mean confidence and accuracy.

    Args:
        probabilities: (n, labels).
        truth, weight, corpora: per item, (n,).
    """
    excess = probabilities.max(axis=1) - (probabilities.argmax(axis=1) == truth)
    return float(
        np.mean(
            [
                abs(np.average(excess[corpora == name], weights=weight[corpora == name]))
                for name in np.unique(corpora)
            ]
        )
    )


def fit_distance(
    probabilities: Vector,
    distance: Vector,
    truth: NDArray[np.int64],
    weight: Vector,
    corpora: NDArray[np.str_],
) -> tuple[float, float]:
    """The temperature and its growth with the distance, `Calibration`'s, of the smallest gap.

    Every corpus counts the same, see `confidence_gap`: on corpora left out this gives a smaller
    ECE than the smallest `nll`, by which the corpus with most overconfident errors decides.

    Args:
        distance: per item, (n,).
        probabilities, truth, weight, corpora: see `confidence_gap`.
    """
    scores = np.log(np.maximum(probabilities, 1e-12))

    def gap(temperature: float, growth: float) -> float:
        factors = (1.0 + growth * np.maximum(distance, 0.0)) / (1.0 + growth)
        grown = scores / (temperature * factors)[:, np.newaxis]
        return confidence_gap(softmax(grown), truth, weight, corpora)

    chosen = min(itertools.product(TEMPERATURES, GROWTHS), key=lambda pair: gap(*pair))
    return round(chosen[0], 4), round(chosen[1], 4)


def fit_gap(
    probabilities: Vector, truth: NDArray[np.int64], weight: Vector, corpora: NDArray[np.str_]
) -> float:
    """The temperature of the smallest gap, see `confidence_gap`."""
    scores = np.log(np.maximum(probabilities, 1e-12))
    found = min(
        TEMPERATURES,
        key=lambda t: confidence_gap(softmax(scores / t), truth, weight, corpora),
    )
    return round(float(found), 4)


def corpus_weights(corpora: NDArray[np.str_]) -> Vector:
    """Weights (clips,) by which a corpus of n clips counts as the square root of n.

    Equal weights of all corpora make the clips of a large and difficult corpus overconfident;
    equal weights of all clips make the other corpora underconfident.
    """
    _, index, counts = np.unique(corpora, return_inverse=True, return_counts=True)
    weight = 1 / np.sqrt(counts[index])
    return np.asarray(weight / weight.mean())


def calibrate_bundle(
    bundle: Bundle,
    features: Sequence[ClipFeatures],
    outputs: Sequence[NDArray[np.float32]],
    truth: NDArray[np.int64],
    corpora: NDArray[np.str_],
    coverage: float = COVERAGE,
) -> Bundle:
    """The bundle with temperatures and thresholds fitted on these clips.

    First the temperature of single windows, then those of the smoothed windows and of the
    utterances, then the thresholds. See `corpus_weights` for the weight of a corpus.

    Args:
        features: per clip.
        outputs: raw model outputs per clip, (speech windows, bundle.outputs), probabilities.
        truth: label index per clip, (clips,).
        corpora: corpus name per clip, (clips,).
        coverage: share of the windows, and of the utterances, that get a label.
    """
    sizes = [len(o) for o in outputs]
    window_truth = np.repeat(truth, sizes)
    window_weight = np.repeat(corpus_weights(corpora) / np.maximum(sizes, 1), sizes)
    stacked = np.concatenate(outputs)[:, : len(bundle.labels)].astype(np.float64)
    window_corpora = np.repeat(corpora, sizes)
    if bundle.distance_output:
        distance = np.concatenate(outputs)[:, bundle.distance_at].astype(np.float64)
        fitted = fit_distance(stacked, distance, window_truth, window_weight, window_corpora)
        bundle = _with(bundle, temperature=fitted[0], distance=fitted[1])
    else:
        bundle = _with(bundle, temperature=fit_temperature(stacked, window_truth, window_weight))
    decisions = _decide(bundle, features, outputs)
    smoothed = np.concatenate([d.smoothed for d in decisions])
    utterances = np.array([d.probabilities for d in decisions])
    if bundle.distance_output:
        bundle = _with(
            bundle,
            smoothed_temperature=fit_gap(smoothed, window_truth, window_weight, window_corpora),
            utterance_temperature=fit_gap(utterances, truth, corpus_weights(corpora), corpora),
        )
    else:
        bundle = _with(
            bundle,
            smoothed_temperature=fit_temperature(smoothed, window_truth, window_weight),
            utterance_temperature=fit_temperature(utterances, truth, corpus_weights(corpora)),
        )
    decisions = _decide(bundle, features, outputs)
    smoothed = np.concatenate([d.smoothed for d in decisions])
    utterances = np.array([d.probabilities for d in decisions])
    decision = dataclasses.replace(
        bundle.decision,
        min_confidence=_confidence_threshold(smoothed, window_truth, coverage),
        min_utterance_confidence=_confidence_threshold(utterances, truth, coverage),
    )
    if bundle.speech_output:
        utterance_speech = [float(o[:, len(bundle.labels)].mean()) for o in outputs if len(o)]
        decision = dataclasses.replace(
            decision,
            min_speech=_speech_threshold(np.concatenate([d.speech for d in decisions])),
            min_utterance_speech=_speech_threshold(np.array(utterance_speech)),
        )
    return dataclasses.replace(bundle, decision=decision)


def _speech_threshold(speech: Vector) -> float:
    """The probability of speech that all but the share `SPEECH_LOST` reach, at most the limit."""
    return round(min(MAX_SPEECH_THRESHOLD, float(np.quantile(speech, SPEECH_LOST))), 4)


def _confidence_threshold(
    probabilities: Vector, truth: NDArray[np.int64], coverage: float
) -> float:
    """The confidence that the share `coverage` of the items reaches."""
    right = probabilities.argmax(axis=1) == truth
    return round(threshold_at(right, probabilities.max(axis=1), coverage), 4)


def _with(bundle: Bundle, **values: float) -> Bundle:
    return dataclasses.replace(
        bundle, calibration=dataclasses.replace(bundle.calibration, **values)
    )


def _decide(
    bundle: Bundle, features: Sequence[ClipFeatures], outputs: Sequence[NDArray[np.float32]]
) -> list[ClipDecisions]:
    return [decide_clip(f, o, bundle) for f, o in zip(features, outputs, strict=True)]

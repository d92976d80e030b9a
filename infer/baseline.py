"""The baseline of a stream: what its room and its voices usually sound like.

A bundle with `[baseline]` has a relative score r for each label, which is linear in the model's
embedding. So the usual sound of a stream is a mean of r: one number per label. The scores of a
window are then

    (1 - w) * cold scores + w * (r - mean + bias)

w grows from 0, at the start, to `trust`. At w = 0 the cold scores are used, bit for bit.

Only past utterances count: an utterance is added when it ends, so that it is not compared with
itself. In a stream that is mostly one emotion, that emotion is the usual sound and would be
subtracted away. Therefore w falls to 0 as the stream's one-sidedness grows from `mixed` to
`one_sided`:

    share of the most frequent emotion - variety * ln(spread + 0.1)

The share is by the cold probabilities; neutral is no emotion, as most speech is neutral. `spread`
is the variance of r between utterances, summed over the labels: one emotion alone spreads little.

Pure: `observe` and `blend` are functions of a state of plain values, which is part of the
stream's checkpoint and does not grow.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.baseline import Baseline

Vector = NDArray[np.float64]

SMALL_SPREAD = 0.1
"""Added to the spread, so that its logarithm is finite."""


@dataclasses.dataclass(frozen=True)
class BaselineState:
    """The speech of a stream so far. Older speech counts less, so all sums are bounded.

    Attributes:
        seconds: of speech in past utterances.
        total: sum of their relative scores, times seconds; one per label.
        cold: sum of their probabilities without a baseline, times seconds; one per label.
        square: sum of the squared length of each utterance's mean of r, times seconds.
        open_seconds, open_total, open_cold: the same for the utterance in progress.
    """

    seconds: float
    total: list[float]
    cold: list[float]
    square: float
    open_seconds: float
    open_total: list[float]
    open_cold: list[float]

    @classmethod
    def empty(cls, labels: int) -> BaselineState:
        """Before any speech."""
        nothing = [0.0] * labels
        return cls(0.0, nothing, nothing, 0.0, 0.0, nothing, nothing)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Speech that counts for the baseline.

    Attributes:
        relative: its relative scores, (labels,).
        cold: its probabilities without a baseline, (labels,).
        seconds: its length; of a window that is the hop.
    """

    relative: Vector
    cold: Vector
    seconds: float


def observe(
    state: BaselineState, heard: Evidence | None, to: Baseline, *, ended: bool
) -> BaselineState:
    """The state after a window.

    Args:
        heard: None for a window that is no evidence.
        to: the bundle's parameters.
        ended: no utterance is in progress after the window.
    """
    seconds, total, cold = state.open_seconds, state.open_total, state.open_cold
    if heard is not None:
        seconds += heard.seconds
        total = _add(total, 1.0, heard.relative.tolist(), heard.seconds)
        cold = _add(cold, 1.0, heard.cold.tolist(), heard.seconds)
    if not ended or seconds == 0.0:
        return dataclasses.replace(state, open_seconds=seconds, open_total=total, open_cold=cold)
    kept, nothing = math.exp(-seconds / to.memory_s), [0.0] * len(total)
    return BaselineState(
        seconds=kept * state.seconds + seconds,
        total=_add(state.total, kept, total, 1.0),
        cold=_add(state.cold, kept, cold, 1.0),
        square=kept * state.square + sum(x * x for x in total) / seconds,
        open_seconds=0.0,
        open_total=nothing,
        open_cold=nothing,
    )


def _add(a: list[float], times_a: float, b: list[float], times_b: float) -> list[float]:
    return [times_a * x + times_b * y for x, y in zip(a, b, strict=True)]


def one_sidedness(state: BaselineState, to: Baseline, neutral: int | None) -> float:
    """How much past speech is of one emotion; see the head of this file. Needs some speech.

    Args:
        neutral: index of the label neutral; None without one.
    """
    most = max(cold for label, cold in enumerate(state.cold) if label != neutral) / state.seconds
    mean = sum((x / state.seconds) ** 2 for x in state.total)
    spread = max(0.0, state.square / state.seconds - mean)
    return most - to.variety * math.log(spread + SMALL_SPREAD)


@dataclasses.dataclass(frozen=True)
class Trust:
    """How the next windows use their relative scores.

    Attributes:
        weight: w.
        share: w as a share of the bundle's `trust`, 0 to 1.
        offset: added to the relative scores, bias - mean, (labels,).
    """

    weight: float
    share: float
    offset: Vector


def trust_in(state: BaselineState, to: Baseline, neutral: int | None) -> Trust:
    """The trust that past speech has earned.

    Args:
        to: the bundle's parameters.
        neutral: index of the label neutral; None without one.
    """
    prior, bias = np.array(to.prior), np.array(to.bias)
    if state.seconds == 0.0:
        return Trust(0.0, 0.0, bias - prior)
    share = state.seconds / (state.seconds + to.evidence_s)
    left = to.one_sided - one_sidedness(state, to, neutral)
    share *= min(1.0, max(0.0, left / (to.one_sided - to.mixed)))
    mean = (np.array(state.total) + to.prior_s * prior) / (state.seconds + to.prior_s)
    return Trust(to.trust * share, share, bias - mean)


def blend(
    cold: Vector, relative: Vector, temperature: float, trust: Trust, to: Baseline
) -> tuple[Vector, float]:
    """Scores of a window, and their temperature, with the stream's baseline.

    Args:
        cold: scores or log probabilities without a baseline, (labels,).
        relative: relative scores, (labels,).
        temperature: of the cold scores.
        to: the bundle's parameters.
    """
    if trust.weight == 0.0:
        return cold, temperature
    scores = (1.0 - trust.weight) * cold + trust.weight * (relative + trust.offset)
    return scores, temperature + trust.share * (to.temperature - temperature)

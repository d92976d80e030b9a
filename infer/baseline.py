"""The baseline of a stream: what its room and its voices usually sound like.

A bundle with `[baseline]` has a relative score r for each label, which is linear in the model's
embedding. So the usual sound of a stream is a mean of r: one number per label. The scores of a
window are then

    (1 - w) * cold scores + w * (r - mean + bias)

w grows from 0, at the start, to `trust`. At w = 0 the cold scores are used, bit for bit.

Only past utterances count: an utterance is added when it ends, so that it is not compared with
itself. Pure: `observe` and `blend` are functions of a state of plain values, which is part of the
stream's checkpoint and does not grow.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.parameters import Baseline

Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class BaselineState:
    """The speech of a stream so far.

    Attributes:
        total: sum of the relative scores of past utterances, times seconds; one per label.
        seconds: of speech in them; older speech counts less, so both are bounded.
        open_total, open_seconds: the same for the utterance in progress.
    """

    total: list[float]
    seconds: float
    open_total: list[float]
    open_seconds: float

    @classmethod
    def empty(cls, labels: int) -> BaselineState:
        """Before any speech."""
        return cls([0.0] * labels, 0.0, [0.0] * labels, 0.0)


def observe(
    state: BaselineState, relative: Vector | None, seconds: float, ended: bool, to: Baseline
) -> BaselineState:
    """The state after a window.

    Args:
        relative: relative scores of a window with speech, (labels,); None for any other window.
        seconds: of new speech in a window, that is the hop.
        ended: no utterance is in progress after the window.
        to: the bundle's parameters.
    """
    total, length = state.open_total, state.open_seconds
    if relative is not None:
        total = [old + seconds * new for old, new in zip(total, relative.tolist(), strict=True)]
        length += seconds
    if not ended or length == 0.0:
        return dataclasses.replace(state, open_total=total, open_seconds=length)
    kept = math.exp(-length / to.memory_s)
    return BaselineState(
        total=[kept * old + new for old, new in zip(state.total, total, strict=True)],
        seconds=kept * state.seconds + length,
        open_total=[0.0] * len(total),
        open_seconds=0.0,
    )


def blend(
    cold: Vector, relative: Vector, temperature: float, state: BaselineState, to: Baseline
) -> tuple[Vector, float]:
    """Scores of a window, and their temperature, with the stream's baseline.

    Args:
        cold: scores or log probabilities without a baseline, (labels,).
        relative: relative scores, (labels,).
        temperature: of the cold scores.
        to: the bundle's parameters.
    """
    share = state.seconds / (state.seconds + to.evidence_s)
    weight = to.trust * share
    if weight == 0.0:
        return cold, temperature
    prior = np.array(to.prior)
    mean = (np.array(state.total) + to.prior_s * prior) / (state.seconds + to.prior_s)
    scores = (1.0 - weight) * cold + weight * (relative - mean + np.array(to.bias))
    return scores, temperature + share * (to.temperature - temperature)

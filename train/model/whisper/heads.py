"""Linear heads on window statistics: training set, recipe and fit."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from speech_emotion.train.data.clips import LABEL_SETS, Clip, mapping
from speech_emotion.train.data.soft_targets import Votes, cell_weights, soft_targets
from speech_emotion.train.model.whisper.discriminant import (
    Matrix,
    moments,
    solve,
    standard,
)
from speech_emotion.train.model.whisper.graph import Head, blocks
from speech_emotion.train.model.whisper.window_statistics import WindowStatistics

log = logging.getLogger("train")

LABELS = LABEL_SETS["four"]
NEUTRAL = LABELS.index("neutral")
SPEECH_RIDGE = 1e-3
SPEECH_SHARE = 0.5
"""Weight of the windows without speech in the speech head's loss."""

Index = NDArray[np.int64]
Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class HeadRecipe:
    """How a head is trained: a recipe file for `train whisper`.

    Attributes:
        statistics: names, see `graph.blocks`.
        smoothing, trust: of the targets, see `targets.soft_targets`.
        spread, ridge: of the discriminant, see `discriminant.solve`.
        scale: divisor of the scores; makes the probabilities roughly calibrated before the
            bundle's temperatures.
        copies: number of simulated recordings of every clip, in addition to the clean one.
        corpora: names of the corpora to train on; empty for all.
    """

    statistics: tuple[str, ...] = ("mean2", "mean3", "hidden3")
    smoothing: float = 0.0
    trust: float = 0.5
    spread: float = 1.0
    ridge: float = 1.0
    scale: float = 2.0
    copies: int = 1
    corpora: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class HeadTrainingSet:
    """Labelled clips and the statistics of their windows.

    Attributes:
        clips: all have an emotion that is, or counts as, a label.
        renderings: statistics per rendering, the clean one first.
        noise: statistics of windows without speech, (windows, columns).
        votes: clip name → raters' votes.
    """

    clips: Sequence[Clip]
    renderings: Sequence[WindowStatistics]
    noise: NDArray[np.float16]
    votes: Mapping[str, Votes]

    @property
    def truth(self) -> Index:
        """Label index per clip, (clips,)."""
        mapped = mapping(LABELS)
        return np.array([LABELS.index(mapped[c.emotion]) for c in self.clips])

    @property
    def corpus(self) -> NDArray[np.str_]:
        """Corpus name per clip, (clips,)."""
        return np.array([c.corpus for c in self.clips])

    @property
    def speaker(self) -> NDArray[np.str_]:
        """Speaker per clip, (clips,)."""
        return np.array([c.speaker for c in self.clips])


def labelled(clips: Sequence[Clip]) -> list[Clip]:
    """Clips whose emotion is, or counts as, one of `LABELS`."""
    known = mapping(LABELS)
    return [c for c in clips if c.emotion in known]


def fit_head(training_set: HeadTrainingSet, train: Index, recipe: HeadRecipe) -> Head:
    """A head trained on the clips with the indices `train` only."""
    spans = [blocks()[name] for name in recipe.statistics]
    columns = np.concatenate([np.arange(b.start, b.stop) for b in spans])
    inside = np.zeros(len(training_set.clips), bool)
    inside[train] = True
    if recipe.corpora:
        inside &= np.isin(training_set.corpus, recipe.corpora)
    parts, owners = [], []
    for rendering in training_set.renderings[: recipe.copies + 1]:
        rows = np.flatnonzero(inside[rendering.clip])
        parts.append(rendering.x[rows][:, columns].astype(np.float32))
        owners.append(rendering.clip[rows])
    x, clip = np.concatenate(parts), np.concatenate(owners)
    truth, corpus = training_set.truth[clip], training_set.corpus[clip]
    mean, std = standard(x, cell_weights(corpus, truth))
    x -= mean
    x /= std
    targets = soft_targets(
        training_set.clips,
        training_set.truth,
        LABELS,
        training_set.votes,
        smoothing=recipe.smoothing,
        trust=recipe.trust,
    )[clip]
    names = np.unique(corpus)
    found = [moments(x[r], targets[r], truth[r]) for r in (corpus == name for name in names)]
    solved = solve(found, spread=recipe.spread, ridge=recipe.ridge)
    noise = (training_set.noise[:, columns].astype(np.float32) - mean) / std
    speech_weight, speech_bias = fit_speech(x, noise, cell_weights(corpus, np.zeros_like(truth)))
    return Head(
        names=recipe.statistics,
        mean=mean,
        std=std,
        weight=solved.weight / recipe.scale,
        bias=solved.bias / recipe.scale,
        speech_weight=speech_weight,
        speech_bias=speech_bias,
    )


def fit_speech(speech: Matrix, noise: Matrix, weight: Vector) -> tuple[Matrix, float]:
    """Weight and bias of a logistic regression that separates speech from other windows.

    Args:
        speech, noise: standardized statistics, (windows, columns).
        weight: per speech window.
    """
    columns = speech.shape[1]
    if not len(noise):
        return np.zeros(columns, np.float32), 20.0
    x = np.concatenate([speech, noise])
    sign = np.concatenate([np.ones(len(speech)), -np.ones(len(noise))]).astype(np.float32)
    share = np.concatenate(
        [
            (1 - SPEECH_SHARE) * weight / weight.sum(),
            np.full(len(noise), SPEECH_SHARE / len(noise)),
        ]
    ).astype(np.float32)

    def loss(parameters: Vector) -> tuple[float, Vector]:
        w, b = parameters[:-1].astype(np.float32), np.float32(parameters[-1])
        margin = sign * (x @ w + b)
        value = float(share @ np.logaddexp(0.0, -margin)) + 0.5 * SPEECH_RIDGE * float(w @ w)
        slope = -sign * share / (1.0 + np.exp(np.minimum(margin, 50.0)))
        gradient = np.append(slope @ x + SPEECH_RIDGE * w, slope.sum())
        return value, gradient.astype(np.float64)

    found = minimize(
        loss, np.zeros(columns + 1), jac=True, method="L-BFGS-B", options={"maxiter": 60}
    )
    return found.x[:-1].astype(np.float32), float(found.x[-1])


def columns_of(head: Head, x: NDArray[np.float16]) -> Matrix:
    """The columns that a head uses, of stored rows."""
    spans = [blocks()[name] for name in head.names]
    return np.concatenate([x[:, b.start : b.stop] for b in spans], axis=1).astype(np.float32)

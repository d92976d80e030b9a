"""Linear heads on window statistics: training set, recipe and fit."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from speech_emotion.train.data.clips import LABEL_SETS, Clip, mapping
from speech_emotion.train.data.soft_targets import Votes, cell_weights, soft_targets
from speech_emotion.train.model.whisper.discriminant import (
    Discriminant,
    Matrix,
    Moments,
    Sums,
    add_up,
    label_weights,
    moments_of,
    solve,
    speaker_folds,
    standard,
)
from speech_emotion.train.model.whisper.graph import Head, Relative, blocks
from speech_emotion.train.model.whisper.relative import PRIOR_NEUTRAL, subtract_usual_sounds
from speech_emotion.train.model.whisper.window_statistics import CROP, WindowStatistics

log = logging.getLogger("train")

LABELS = LABEL_SETS["four"]
NEUTRAL = LABELS.index("neutral")
LEAST_CORPORA = 2
"""Fewest corpora that one head of an average is trained on."""
SPEECH_RIDGE = 1e-3
SPEECH_STATISTIC = "rest3"
"""Statistic of the speech output if the recipe has it; otherwise all its statistics."""
SPEECH_SHARE = 0.5
"""Weight of the windows without speech in the loss of the speech output."""

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
        average: use the mean of the heads that leave one corpus each out of training, where that
            leaves at least two.
        relative: add relative scores, see `relative`.
        copies: number of simulated recordings of every clip, in addition to the clean one.
        recordings: weight of a label's simulated recordings against that of its clean windows, in
            each corpus; None: every window counts the same.
        crops: the same for crops of a word or two, one of every clip; 0: without.
        corpora: names of the corpora to train on; empty for all. The other selected corpora are
            for evaluation only.
    """

    statistics: tuple[str, ...] = ("mean2", "rest3", "hidden3")
    smoothing: float = 0.0
    trust: float = 0.5
    spread: float = 1.0
    ridge: float = 1.0
    scale: float = 2.0
    average: bool = False
    relative: bool = False
    copies: int = 1
    recordings: float | None = None
    crops: float = 0.0
    corpora: tuple[str, ...] = ()

    @property
    def renderings(self) -> tuple[int | str, ...]:
        """Names of the renderings, see `window_statistics.extract`, the clean one first."""
        return (*range(self.copies + 1), *((CROP,) if self.crops else ()))


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


def split_corpora(
    training_set: HeadTrainingSet, corpora: Sequence[str]
) -> tuple[HeadTrainingSet, HeadTrainingSet | None]:
    """The clips of the named corpora, and those of all others if there are any.

    Args:
        corpora: empty for all.
    """
    inside = np.isin(training_set.corpus, list(corpora))
    if not corpora or inside.all():
        return training_set, None
    return _part(training_set, inside), _part(training_set, ~inside)


def _part(training_set: HeadTrainingSet, inside: NDArray[np.bool_]) -> HeadTrainingSet:
    number = (np.cumsum(inside) - 1).astype(np.int32)
    renderings = []
    for rendering in training_set.renderings:
        rows = np.flatnonzero(inside[rendering.clip])
        renderings.append(
            WindowStatistics(
                rendering.x[rows], number[rendering.clip[rows]], rendering.speech[rows]
            )
        )
    clips = [c for c, i in zip(training_set.clips, inside, strict=True) if i]
    return dataclasses.replace(training_set, clips=clips, renderings=renderings)


def labelled(clips: Sequence[Clip]) -> list[Clip]:
    """Clips whose emotion is, or counts as, one of `LABELS`."""
    known = mapping(LABELS)
    return [c for c in clips if c.emotion in known]


@dataclasses.dataclass(frozen=True)
class WindowSums:
    """Sums of a training set, from which a head for any corpora and folds is solved quickly.

    Attributes:
        training_set: clips and window statistics.
        recipe: of the heads.
        sums: (corpus, fold) → sums of (x - shift) / scale.
        relative_sums: the same of x relative to the speaker's usual sound; empty without.
        shift, scale: per column, (columns,), for numerical accuracy only.
        fold: fold index per clip, (clips,).
    """

    training_set: HeadTrainingSet
    recipe: HeadRecipe
    sums: Mapping[tuple[str, int], Sums]
    shift: Matrix
    scale: Matrix
    fold: Index
    relative_sums: Mapping[tuple[str, int], Sums] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> Index:
        """Stored columns that the recipe uses, (columns,)."""
        return columns_of(self.recipe.statistics)


def columns_of(names: Sequence[str]) -> Index:
    """Stored columns of the named statistics, (columns,)."""
    spans = [blocks()[name] for name in names]
    return np.concatenate([np.arange(b.start, b.stop) for b in spans])


def sum_windows(
    training_set: HeadTrainingSet,
    recipe: HeadRecipe,
    folds: int,
    seed: int,
    fold: Index | None = None,
) -> WindowSums:
    """Sum the windows of each corpus and fold.

    Args:
        folds: number of groups of speakers.
        seed: of the groups, and of the draws of the relative head.
        fold: group per clip, (clips,); drawn without it.
    """
    columns = columns_of(recipe.statistics)
    renderings = training_set.renderings[: len(recipe.renderings)]
    corpus, truth = training_set.corpus, training_set.truth
    if fold is None:
        fold = speaker_folds(corpus, training_set.speaker, folds, seed)
    targets = soft_targets(
        training_set.clips,
        truth,
        LABELS,
        training_set.votes,
        smoothing=recipe.smoothing,
        trust=recipe.trust,
    )
    clean = renderings[0].x[:, columns].astype(np.float32)
    shift, scale = clean.mean(axis=0), clean.std(axis=0) + 1e-4
    sums: dict[tuple[str, int], Sums] = {}
    relative_sums: dict[tuple[str, int], Sums] = {}
    rng = np.random.default_rng(seed)
    for name in np.unique(corpus):
        rows = [np.flatnonzero(corpus[r.clip] == name) for r in renderings]
        clip = np.concatenate([r.clip[k] for r, k in zip(renderings, rows, strict=True)])
        x = np.concatenate(
            [
                r.x[np.ix_(k, columns)].astype(np.float32)
                for r, k in zip(renderings, rows, strict=True)
            ]
        )
        x -= shift
        x /= scale
        soft = targets[clip] * np.isin(np.arange(len(LABELS)), truth[corpus == name])
        soft = weighted_targets(soft, [len(k) for k in rows], recipe)
        weight = label_weights(soft)
        for k in range(folds):
            inside = fold[clip] == k
            sums[str(name), k] = add_up(x[inside], soft[inside], weight[inside])
        if recipe.relative:
            ends = np.cumsum([0, *(len(k) for k in rows)])
            for start, stop in itertools.pairwise(ends):
                subtract_usual_sounds(
                    x[start:stop], clip[start:stop], training_set.speaker, truth == NEUTRAL, rng
                )
            for k in range(folds):
                inside = fold[clip] == k
                relative_sums[str(name), k] = add_up(x[inside], soft[inside], weight[inside])
        log.info("summed up %s: %d windows", name, len(clip))
    return WindowSums(training_set, recipe, sums, shift, scale, fold, relative_sums)


def weighted_targets(soft: Matrix, sizes: Sequence[int], recipe: HeadRecipe) -> Matrix:
    """Targets of a corpus, those of simulated recordings and crops scaled to their weights.

    Args:
        soft: targets, rendering by rendering, the clean one first, (windows, labels).
        sizes: number of windows of each rendering.
    """
    clean, *others = np.split(soft, np.cumsum(sizes)[:-1])
    recorded, cropped = others[: recipe.copies], others[recipe.copies :]
    found = [clean]
    for parts, weight in ((recorded, recipe.recordings), (cropped, recipe.crops)):
        total = np.sum([part.sum(axis=0) for part in parts], axis=0)
        scale = 1.0 if weight is None else weight * clean.sum(axis=0) / np.maximum(total, 1e-6)
        found += [part * scale for part in parts]
    return np.asarray(np.concatenate(found), np.float32)


def fit_head(window_sums: WindowSums, corpora: Sequence[str], folds: Sequence[int]) -> Head:
    """A head trained on some folds of some corpora."""
    training_set, recipe = window_sums.training_set, window_sums.recipe
    parts = [_moments(window_sums.sums, name, folds) for name in corpora]
    mean, std = standard(parts)
    solved = _solved(parts, recipe)
    head = Head(
        names=recipe.statistics,
        mean=window_sums.shift + mean * window_sums.scale,
        std=std * window_sums.scale,
        weight=solved.weight * std[:, np.newaxis],
        bias=solved.bias + mean @ solved.weight,
        speech_weight=np.zeros(len(mean), np.float32),
        speech_bias=20.0,
        relative=_relative(window_sums, corpora, folds, parts) if recipe.relative else None,
    )
    if not len(training_set.noise):
        return head
    inside = np.isin(training_set.corpus, corpora) & np.isin(window_sums.fold, folds)
    return _with_speech(head, window_sums, inside)


def _moments(sums: Mapping[tuple[str, int], Sums], corpus: str, folds: Sequence[int]) -> Moments:
    whole = sums[corpus, folds[0]]
    for k in folds[1:]:
        whole = whole + sums[corpus, k]
    return moments_of(whole)


def _solved(parts: Sequence[Moments], recipe: HeadRecipe, *, centred: bool = True) -> Discriminant:
    """The recipe's discriminant of the corpora's moments, in their own columns, divided by scale.

    Args:
        centred: subtract the mean of the columns before; relative statistics have a zero already.
    """
    chosen = [list(parts)]
    if recipe.average and len(parts) > LEAST_CORPORA:
        chosen = [[p for p in parts if p is not left_out] for left_out in parts]
    found = []
    for group in chosen:
        mean, std = standard(group)
        centre = mean if centred else np.zeros_like(mean)
        found.append(
            solve(group, spread=recipe.spread, ridge=recipe.ridge, deviation=std, centre=centre)
        )
    weight = np.mean([d.weight for d in found], axis=0) / recipe.scale
    bias = np.mean([d.bias for d in found], axis=0) / recipe.scale
    return Discriminant(weight.astype(np.float32), bias.astype(np.float32))


def _relative(
    window_sums: WindowSums, corpora: Sequence[str], folds: Sequence[int], cold: Sequence[Moments]
) -> Relative:
    """Relative scores on the standardized columns of the cold head.

    Args:
        cold: moments of the corpora without a speaker's usual sound subtracted.
    """
    parts = [_moments(window_sums.relative_sums, name, folds) for name in corpora]
    solved = _solved(parts, window_sums.recipe, centred=False)
    mean, std = standard(cold)
    weight = solved.weight * std[:, np.newaxis]
    usual = []
    for part in cold:
        share = np.where(np.arange(len(LABELS)) == NEUTRAL, PRIOR_NEUTRAL, 0.0)
        others = part.present & (np.arange(len(LABELS)) != NEUTRAL)
        share[others] = (1.0 - PRIOR_NEUTRAL) / (int(np.count_nonzero(others)) or 1)
        share *= part.present
        usual.append((share / share.sum()) @ ((part.means - mean) / std))
    return Relative(weight, solved.bias, np.asarray(np.mean(usual, axis=0) @ weight, np.float32))


def _with_speech(head: Head, window_sums: WindowSums, inside: NDArray[np.bool_]) -> Head:
    """The head with its speech output, fitted on `SPEECH_STATISTIC`."""
    training_set, recipe = window_sums.training_set, window_sums.recipe
    at = np.concatenate(
        [np.full(blocks()[n].stop - blocks()[n].start, n == SPEECH_STATISTIC) for n in head.names]
    )
    if not at.any():
        at[:] = True
    columns = window_sums.columns[at]
    speech, clip = [], []
    for rendering in training_set.renderings[: len(recipe.renderings)]:
        rows = np.flatnonzero(inside[rendering.clip])
        speech.append(rendering.x[np.ix_(rows, columns)].astype(np.float32))
        clip.append(rendering.clip[rows])
    owner = training_set.corpus[np.concatenate(clip)]
    weight, bias = fit_speech(
        (np.concatenate(speech) - head.mean[at]) / head.std[at],
        (training_set.noise[:, columns].astype(np.float32) - head.mean[at]) / head.std[at],
        cell_weights(owner, np.zeros(len(owner), np.int64)),
    )
    spread = np.zeros(len(head.mean), np.float32)
    spread[at] = weight
    return dataclasses.replace(head, speech_weight=spread, speech_bias=bias)


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

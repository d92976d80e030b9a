"""Draw the windows of a training batch, and vary them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.data.augment import (
    overlay_spectrogram,
    tilt_spectrogram,
    warp_spectrogram,
)
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.data.feature_statistics import FeatureStatistics
from speech_emotion.train.model.recipe import Recipe
from speech_emotion.train.model.training_set import Index, TrainingSet

OTHER_EMOTIONS = 3
"""Divisor of the weight of clips outside the label set, which train only the other heads."""

Draw = Callable[[np.random.Generator], tuple[NDArray[np.float32], Index]]
"""Random generator → features (batch, frames, dims) and clip indices (batch,); -1: no speech."""


def make_sampler(
    training_set: TrainingSet, inside: NDArray[np.bool_], truth: Index, recipe: Recipe
) -> tuple[Draw, Samples, Samples]:
    """A function that draws a batch; the mean and standard deviation of the features, (dims,).

    Within a corpus every label has the same probability, and within a label every clip.

    Args:
        inside: clips to train on, (clips,).
        truth: label index per clip, (clips,); -1 for an emotion outside the label set.
    """
    renderings = training_set.examples[: recipe.copies + 1]
    parts = [np.flatnonzero(inside[e.clip]) for e in renderings]
    if not recipe.emotion_head and not recipe.teacher:
        parts = [p[truth[e.clip[p]] >= 0] for p, e in zip(parts, renderings, strict=True)]
    clip = np.concatenate([e.clip[p] for p, e in zip(parts, renderings, strict=True)])
    rendering = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    row = np.concatenate(parts)

    statistics = FeatureStatistics(training_set.spec.dims)
    for part, examples in zip(parts, renderings, strict=True):
        for chunk in np.array_split(part, max(1, len(part) // 2000)):
            statistics.add(examples.x[chunk])
    mean, std = statistics.result()

    weight = _clip_weights(training_set, inside, truth, recipe)
    windows = np.bincount(clip, minlength=len(weight))
    odds = weight[clip] / windows[clip]
    cumulative = np.cumsum(odds / odds.sum())
    cumulative[-1] = 1.0
    noise = training_set.noise
    n_noise = 0 if noise is None else round(recipe.noise * recipe.batch)

    def draw(rng: np.random.Generator) -> tuple[NDArray[np.float32], Index]:
        chosen = np.searchsorted(cumulative, rng.random(recipe.batch - n_noise), side="right")
        x = np.empty((recipe.batch, training_set.spec.n_frames, training_set.spec.dims), np.float32)
        for slot, i in enumerate(chosen):
            x[slot] = renderings[rendering[i]].x[row[i]]
        if n_noise and noise is not None:
            x[len(chosen) :] = noise[rng.integers(len(noise), size=n_noise)]
        return x, np.concatenate([clip[chosen], np.full(n_noise, -1)])

    return draw, mean, std


def _clip_weights(
    training_set: TrainingSet, inside: NDArray[np.bool_], truth: Index, recipe: Recipe
) -> NDArray[np.float64]:
    """Relative probability of drawing each clip, (clips,)."""
    corpus = np.array([c.corpus for c in training_set.clips])
    names = training_set.label_names(recipe)
    kind_of = np.array(
        [names[t] if t >= 0 else c.emotion for t, c in zip(truth, training_set.clips, strict=True)]
    )
    weight = np.zeros(len(training_set.clips))
    for name in sorted(set(corpus[inside])):
        in_corpus = inside & (corpus == name)
        kinds = sorted(set(kind_of[in_corpus]))
        for kind in kinds:
            chosen = in_corpus & (kind_of == kind)
            weight[chosen] = in_corpus.sum() ** recipe.balance / len(kinds) / chosen.sum()
    weight[truth < 0] /= OTHER_EMOTIONS
    return weight


def vary(
    x: NDArray[np.float32],
    clip: Index,
    training_set: TrainingSet,
    recipe: Recipe,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Apply the recipe's warp, overlay and tilt to log-mel windows (batch, frames, dims).

    Args:
        clip: clip index per window, (batch,); -1 for a window without speech.
    """
    relative = training_set.spec.mel == "db_max"
    if recipe.warp:
        x = warp_spectrogram(x, recipe.warp, rng)
    if recipe.overlay and training_set.noise is not None:
        hit = np.flatnonzero((clip >= 0) & (rng.random(len(x)) < recipe.overlay))
        under = training_set.noise[rng.integers(len(training_set.noise), size=len(hit))]
        x[hit] = overlay_spectrogram(x[hit], under.astype(np.float32), rng, relative=relative)
    if recipe.tilt:
        x = tilt_spectrogram(x, recipe.tilt, rng, relative=relative)
    return x

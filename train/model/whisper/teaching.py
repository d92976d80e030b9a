"""Heads on Whisper's layers as the teacher of a small network: probabilities per clip.

Every clip of a split's training clips gets the mean probabilities of its clean windows from a head
that was trained on the split's training clips of other speakers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from speech_emotion.common.errors import UserError
from speech_emotion.train.data.splits import Split, leave_corpus_out, speaker_folds
from speech_emotion.train.model.whisper.discriminant import Matrix, per_clip
from speech_emotion.train.model.whisper.graph import Head
from speech_emotion.train.model.whisper.heads import (
    LABELS,
    HeadRecipe,
    HeadTrainingSet,
    columns_of,
    fit_head,
    sum_windows,
)

log = logging.getLogger("train")

LEAST_FOLDS = 3


def teach(
    training_set: HeadTrainingSet, recipe: HeadRecipe, folds: int, seed: int
) -> dict[str, Matrix]:
    """Name of a split → probabilities (clips, labels); NaN outside its training clips.

    The splits are those of `speaker_folds`, those of `leave_corpus_out`, and `all`.

    Args:
        folds: number of groups of speakers.
        seed: of the draws of the relative head, if the recipe has one.

    Raises:
        UserError: fewer than three groups.
    """
    clips = training_set.clips
    groups = speaker_folds(clips, folds)
    if len(groups) < LEAST_FOLDS:
        raise UserError(
            f"--folds must be at least {LEAST_FOLDS}: without one group of speakers, a teacher of "
            "another group is trained on a third one"
        )
    fold = np.zeros(len(clips), np.int64)
    for k, group in enumerate(groups):
        fold[group.test] = k
    window_sums = sum_windows(training_set, recipe, len(groups), seed, fold)
    everything = Split("all", np.arange(len(clips)), np.zeros(0, np.int64))
    corpus, clean = training_set.corpus, training_set.renderings[0]
    columns = columns_of(recipe.statistics)
    heads: dict[tuple[tuple[str, ...], tuple[int, ...]], Head] = {}

    def head(corpora: Sequence[str], seen: Sequence[int]) -> Head:
        key = tuple(corpora), tuple(seen)
        if key not in heads:
            heads[key] = fit_head(window_sums, corpora, seen)
        return heads[key]

    found = {}
    for split in [*groups, *leave_corpus_out(clips), everything]:
        inside = np.zeros(len(clips), bool)
        inside[split.train] = True
        corpora = sorted(set(corpus[inside].tolist()))
        used = sorted(set(fold[inside].tolist()))
        probabilities = np.full((len(clips), len(LABELS)), np.nan, np.float32)
        for k in used:
            rows = np.flatnonzero((inside & (fold == k))[clean.clip])
            outputs = head(corpora, [f for f in used if f != k]).outputs(
                clean.x[np.ix_(rows, columns)]
            )
            mean = per_clip(outputs[:, : len(LABELS)], clean.clip[rows], len(clips))
            known = np.isfinite(mean).all(axis=1)
            probabilities[known] = mean[known]
        found[split.name] = probabilities
        log.info("taught %s: %d clips", split.name, np.isfinite(probabilities[:, 0]).sum())
    return found

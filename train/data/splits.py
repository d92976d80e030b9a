"""Splits into training and test clips that keep every speaker on one side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.data.clips import Clip, check_split

FOLDS = 5

Index = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices of the clips to train on and to test on.

    Attributes:
        name: `fold0` …, `without-EMODB` … or `random0` ….
        train, test: clip indices.
    """

    name: str
    train: Index
    test: Index


def _checked(name: str, clips: Sequence[Clip], test: NDArray[np.bool_]) -> Split:
    split = Split(name, np.flatnonzero(~test), np.flatnonzero(test))
    check_split((clips[i] for i in split.train), (clips[i] for i in split.test))
    return split


def speaker_folds(clips: Sequence[Clip], folds: int = FOLDS, seed: int = 0) -> list[Split]:
    """Speaker-independent folds: the speakers of every corpus in `folds` parts of even gender.

    The clips of part k are the test clips of fold k.
    """
    rng = np.random.default_rng(seed)
    part: dict[str, int] = {}
    for corpus in sorted({c.corpus for c in clips}):
        genders = {c.speaker: c.gender for c in clips if c.corpus == corpus}
        speakers = sorted(genders)
        rng.shuffle(speakers)
        speakers.sort(key=genders.__getitem__)
        part |= {speaker: i % folds for i, speaker in enumerate(speakers)}
    fold = np.array([part[c.speaker] for c in clips])
    return [_checked(f"fold{k}", clips, fold == k) for k in range(folds) if (fold == k).any()]


def leave_corpus_out(clips: Sequence[Clip]) -> list[Split]:
    """One split per corpus: test on it, train on the others; none for a single corpus."""
    corpus = np.array([c.corpus for c in clips])
    names = sorted(set(corpus.tolist()))
    return [_checked(f"without-{n}", clips, corpus == n) for n in names] if len(names) > 1 else []


def random_folds(clips: Sequence[Clip], folds: int = FOLDS, seed: int = 0) -> list[Split]:
    """Folds of random clips, with the same speakers on both sides; only to show the leak."""
    fold = np.random.default_rng(seed).permutation(len(clips)) % folds
    return [
        Split(f"random{k}", np.flatnonzero(fold != k), np.flatnonzero(fold == k))
        for k in range(folds)
    ]

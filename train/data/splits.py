"""Splits that keep every speaker, and so every clip, on one side."""

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
    """Clips to train on and to test on, as indices; `name` is `fold0` … or `without-EMODB`."""

    name: str
    train: Index
    test: Index


def _checked(name: str, clips: Sequence[Clip], test: NDArray[np.bool_]) -> Split:
    split = Split(name, np.flatnonzero(~test), np.flatnonzero(test))
    check_split((clips[i] for i in split.train), (clips[i] for i in split.test))
    return split


def speaker_folds(clips: Sequence[Clip], folds: int = FOLDS, seed: int = 0) -> list[Split]:
    """Every corpus's speakers in `folds` parts, genders spread evenly; part k tests fold k."""
    rng = np.random.default_rng(seed)
    part: dict[str, int] = {}
    for corpus in sorted({c.corpus for c in clips}):
        genders = {c.speaker: c.gender for c in clips if c.corpus == corpus}
        speakers = sorted(genders)
        rng.shuffle(speakers)
        speakers.sort(key=genders.__getitem__)
        part |= {speaker: i % folds for i, speaker in enumerate(speakers)}
    of = np.array([part[c.speaker] for c in clips])
    return [_checked(f"fold{k}", clips, of == k) for k in range(folds) if (of == k).any()]


def leave_corpus_out(clips: Sequence[Clip]) -> list[Split]:
    """One split per corpus: train on the others."""
    of = np.array([c.corpus for c in clips])
    names = sorted(set(of.tolist()))
    return [_checked(f"without-{n}", clips, of == n) for n in names] if len(names) > 1 else []


def random_folds(clips: Sequence[Clip], folds: int = FOLDS, seed: int = 0) -> list[Split]:
    """What others do: clips at random, speakers on both sides. Only to show the leak."""
    of = np.random.default_rng(seed).permutation(len(clips)) % folds
    return [
        Split(f"random{k}", np.flatnonzero(of != k), np.flatnonzero(of == k)) for k in range(folds)
    ]

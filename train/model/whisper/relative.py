"""Window statistics relative to a speaker's usual sound, on which relative scores are trained.

In use the usual sound is the mean over a stream's past speech, which is mostly neutral. In
training it is the mean over a random draw of the speaker's utterances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.model.whisper.discriminant import Matrix

DRAWS = 6
"""Number of usual sounds of a speaker; each window is compared with one of them."""
UTTERANCES = (5, 30)
"""Number of utterances in a draw."""
NEUTRAL_SHARE = (0.4, 0.9)
"""Probability that an utterance of a draw is a neutral one."""
PRIOR_NEUTRAL = 0.65
"""Share of neutral speech in the usual sound of the training corpora, before any speech."""

Index = NDArray[np.int64]


def usual_sounds(
    sums: Matrix,
    windows: NDArray[np.floating],
    neutral: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Matrix:
    """Means over random draws of a speaker's utterances, (DRAWS, columns).

    Args:
        sums: of the windows of each utterance, (utterances, columns).
        windows: number of windows of each utterance, (utterances,).
        neutral: the utterance is neutral, (utterances,).
    """
    calm, moved = np.flatnonzero(neutral), np.flatnonzero(~neutral)
    found = []
    for _ in range(DRAWS):
        size = int(rng.integers(UTTERANCES[0], UTTERANCES[1] + 1))
        count = int(rng.binomial(size, rng.uniform(*NEUTRAL_SHARE)))
        parts = [
            rng.choice(pool, number)
            for pool, number in ((calm, count), (moved, size - count))
            if len(pool) and number
        ]
        drawn = np.concatenate(parts or [rng.choice(len(neutral), size)])
        found.append(sums[drawn].sum(axis=0) / windows[drawn].sum())
    return np.array(found, np.float32)


def subtract_usual_sounds(
    x: Matrix,
    clip: Index,
    speaker: NDArray[np.str_],
    neutral: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    """Subtract from every window a usual sound of its speaker, in place.

    Args:
        x: statistics of one rendering of one corpus, (windows, columns).
        clip: clip index per window, (windows,).
        speaker, neutral: per clip, (clips,).
    """
    used, owner = np.unique(clip, return_inverse=True)
    sums = np.zeros((len(used), x.shape[1]), np.float32)
    np.add.at(sums, owner, x)
    windows = np.bincount(owner).astype(np.float32)
    for name in np.unique(speaker[used]):
        utterances = np.flatnonzero(speaker[used] == name)
        usual = usual_sounds(sums[utterances], windows[utterances], neutral[used][utterances], rng)
        rows = np.flatnonzero(speaker[clip] == name)
        x[rows] -= usual[rng.integers(DRAWS, size=len(rows))]

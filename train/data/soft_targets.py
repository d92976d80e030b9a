"""Soft targets of clips: smoothed acted labels, mixed with the votes of raters."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError
from speech_emotion.train.data.clips import Clip

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad")
PRIOR = 0.25
"""Votes added to every label, so that a few equal votes do not give a probability of 1."""


@dataclasses.dataclass(frozen=True)
class Votes:
    """The raters' votes for one clip.

    Attributes:
        counts: emotion → votes.
        raters: number of raters.
        intensity: mean rated intensity, 0 to 100.
    """

    counts: Mapping[str, float]
    raters: int
    intensity: float


def read_votes(path: Path) -> dict[str, Votes]:
    """Clip name without suffix → votes, from a CSV `clip, raters, EMOTION…, mean_intensity`.

    Raises:
        UserError: the file is missing, has not all columns, or has a value that is not a number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                row["clip"]: Votes(
                    {e: float(row[e]) for e in EMOTIONS},
                    int(row["raters"]),
                    float(row["mean_intensity"]),
                )
                for row in csv.DictReader(file)
            }
    except KeyError as error:
        raise UserError(f"{path}: has no column {error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is not a table of votes ({error})") from None


def soft_targets(
    clips: Sequence[Clip],
    truth: NDArray[np.int64],
    labels: Sequence[str],
    votes: Mapping[str, Votes],
    *,
    smoothing: float,
    trust: float,
) -> NDArray[np.float32]:
    """Probabilities of the labels per clip, (clips, labels).

    Args:
        truth: label index per clip, (clips,); -1 without one: its row is uniform.
        smoothing: of the acted labels (Szegedy et al., 2016).
        trust: weight of the raters' votes for clips that have votes, 0 to 1.
    """
    n = len(labels)
    targets = np.full((len(clips), n), smoothing / n)
    known = np.flatnonzero(truth >= 0)
    targets[known, truth[known]] += 1.0 - smoothing
    targets[truth < 0] = 1.0 / n
    for i in known.tolist():
        if (found := votes.get(clips[i].path.stem)) is not None:
            counts = np.array([found.counts.get(label, 0.0) for label in labels]) + PRIOR
            targets[i] = (1.0 - trust) * targets[i] + trust * counts / counts.sum()
    return targets.astype(np.float32)


def cell_weights(corpus: NDArray[np.str_], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights (items,), mean 1: equal sums per corpus, and per label within a corpus."""
    keys = np.char.add(np.char.add(corpus.astype(str), "/"), truth.astype(str))
    names, cell, counts = np.unique(keys, return_inverse=True, return_counts=True)
    owner = np.array([name.rsplit("/", 1)[0] for name in names])
    labels = np.array([np.count_nonzero(owner == o) for o in owner])
    weight = 1.0 / (counts * labels)[cell]
    return np.asarray(weight / weight.mean(), np.float64)

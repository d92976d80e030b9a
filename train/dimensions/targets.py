"""Arousal of clips from intensity levels and ratings; never from the acted labels.

RAVDESS: the level in the file name. CREMA-D: its raters, who heard the voice only, chose an
emotion and rated how intense it was. A rater who chose neutral heard no emotion, however clear it
was, so the target is the mean rating times the share of raters who heard an emotion. Where the
file name has a level, the target is the mean of both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.data.clips import Clip
from speech_emotion.train.data.soft_targets import Votes

LEVEL_PART = 3
"""Index of the level among the parts of a file name, in both corpora."""
LEVELS = {
    "RAVDESS": {"01": 1 / 3, "02": 2 / 3},
    "CREMAD": {"LO": 1 / 3, "MD": 1 / 2, "HI": 2 / 3},
}
"""Corpus → level in the file name → value: thirds of the range, chosen before any training.

RAVDESS: normal and strong. CREMA-D: low, medium, high; `XX` is no level."""
CALM = "calm"
"""RAVDESS's strong calm is calmer, not more aroused: its level says nothing here."""


@dataclasses.dataclass(frozen=True)
class Targets:
    """Clips of the corpora in `LEVELS`.

    Attributes:
        clips: all of them.
        value: arousal, 0 to 1, NaN for a clip without target, (clips,).
        level: the value of its level, NaN without one, (clips,).
        corpus, speaker, emotion: of each clip, (clips,).
    """

    clips: list[Clip]
    value: NDArray[np.float64]
    level: NDArray[np.float64]
    corpus: NDArray[np.str_]
    speaker: NDArray[np.str_]
    emotion: NDArray[np.str_]


def targets(clips: Sequence[Clip], votes: Mapping[str, Votes]) -> Targets:
    """The targets of clips.

    Args:
        votes: clip name without suffix → votes.
    """
    kept = [clip for clip in clips if clip.corpus in LEVELS]
    level = np.array([_level(clip) for clip in kept], np.float64)
    heard = np.array([_heard(votes.get(clip.path.stem)) for clip in kept], np.float64)
    value = np.where(np.isnan(level), heard, np.where(np.isnan(heard), level, (level + heard) / 2))
    return Targets(
        kept,
        value,
        level,
        np.array([clip.corpus for clip in kept]),
        np.array([clip.speaker for clip in kept]),
        np.array([clip.emotion for clip in kept]),
    )


def _level(clip: Clip) -> float:
    parts = clip.path.stem.replace("-", "_").split("_")
    if clip.emotion == CALM or len(parts) <= LEVEL_PART:
        return np.nan
    return LEVELS[clip.corpus].get(parts[LEVEL_PART], np.nan)


def _heard(votes: Votes | None) -> float:
    """Mean intensity of emotion over the raters, 0 to 1; NaN without raters."""
    if votes is None or not votes.raters:
        return np.nan
    return votes.intensity / 100.0 * (1.0 - votes.counts["neutral"] / votes.raters)

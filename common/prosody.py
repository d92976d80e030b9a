"""Prosody frames: what features finds every 10 ms of speech, and infer sums up per utterance."""

from __future__ import annotations

import numpy as np

from speech_emotion.common.levels import SILENCE_DBFS

STEP_S = 0.01
"""About the time from one frame to the next; a whole number of frames makes a hop."""
FLOOR_HZ = 75.0
CEILING_HZ = 600.0
"""Range of F0, Praat's for voices of unknown pitch."""
FRAME_S = 3.0 / FLOOR_HZ
"""Length of a frame: three periods of the lowest F0."""
CANDIDATES = 3
FRAME = np.dtype([("f0", "<u2", CANDIDATES), ("strength", "u1", CANDIDATES), ("level", "u1")])
"""One frame: candidates for F0 in 1/`F0_STEPS` Hz (0: none), their periodicity in 1/255, and the
level in half decibels above `SILENCE_DBFS`. Its bits depend on the samples of the frame alone."""
F0_STEPS = 10.0
LEVEL_STEP_DB = 0.5


def frames_per_hop(hop: int, rate: int) -> int:
    """Number of frames between two windows that are `hop` samples apart."""
    return max(1, round(hop / (STEP_S * rate)))


def levels_db(
    frames: np.ndarray[tuple[int], np.dtype[np.void]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Levels of frames in dBFS."""
    return SILENCE_DBFS + LEVEL_STEP_DB * frames["level"].astype(np.float64)

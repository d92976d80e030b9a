"""Level and clipping of a block of samples, in dBFS: a full-scale square wave is 0."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SILENCE_DBFS = -100.0
"""Lowest level. Digital silence has this level, not 0 or -inf."""
CLIPPED = 0.999
"""Magnitude from which a sample counts as clipped; s16 full scale is 0.99997."""


def rms_dbfs(samples: NDArray[np.float32]) -> float:
    """RMS level of `samples` (any length, full scale 1.0) in dBFS, at least `SILENCE_DBFS`.

    The sum runs in float64 over a new array and without BLAS, so its bits depend on the
    samples alone, not on their address or on threads.
    """
    if samples.size == 0:
        return SILENCE_DBFS
    # np.mean has the same bits and takes 2 µs more.
    power = float(np.add.reduce(np.square(samples, dtype=np.float64), axis=None)) / samples.size
    return max(SILENCE_DBFS, 10.0 * math.log10(power)) if power > 0.0 else SILENCE_DBFS


def clipped_fraction(samples: NDArray[np.float32]) -> float:
    """Share, 0 to 1, of samples with a magnitude of at least `CLIPPED`."""
    if samples.size == 0 or max(float(samples.max()), -float(samples.min())) < CLIPPED:
        return 0.0  # the usual case
    return float(np.mean(np.abs(samples) >= CLIPPED))

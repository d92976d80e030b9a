"""librosa.power_to_db in place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AMIN = 1e-10
"""Smallest power; less counts as this much."""
TOP_DB = 80.0
"""Range below the maximum in dB; values below it are raised to its lower end."""


def to_db(power: NDArray[np.float32]) -> None:
    """dB relative to 1.0, without the limit to `TOP_DB`."""
    np.maximum(AMIN, power, out=power)
    np.log10(power, out=power)
    power *= 10.0


def power_to_db(power: NDArray[np.float32], *, relative: bool = False) -> None:
    """dB relative to 1.0, or to the largest power, limited to `TOP_DB` below the maximum."""
    largest = power.max()
    to_db(power)
    if relative:
        power -= 10.0 * np.log10(np.maximum(AMIN, largest))
    np.maximum(power, power.max() - TOP_DB, out=power)

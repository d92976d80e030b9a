"""Quality of a recording: level, peak, clipping, distance of the sound from the noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.levels import CLIPPED, SILENCE_DBFS

FRAME_S = 0.02
LOUD, NOISE = 0.95, 0.10
"""Quantiles of the levels of 20 ms frames that count as sound and as noise."""


class Quality:
    """Measures samples block by block, in constant memory. Levels are in dBFS.

    Args:
        rate: sample rate in Hz.

    Attributes:
        samples: samples taken.
    """

    def __init__(self, rate: int) -> None:
        self._frame = round(FRAME_S * rate)
        self._rest = np.zeros(0, np.float32)
        self._power = 0.0
        self.samples = 0
        self._clipped = 0
        self._peak = 0.0
        # Number of frames by level, in steps of 1 dB up from `SILENCE_DBFS`.
        self._levels = np.zeros(1 - round(SILENCE_DBFS), np.int64)

    def add(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples, (any,)."""
        if not len(samples):
            return
        self.samples += len(samples)
        self._power += float(np.sum(np.square(samples, dtype=np.float64)))
        peak = max(float(samples.max()), -float(samples.min()))
        self._peak = max(self._peak, peak)
        if peak >= CLIPPED:
            self._clipped += int(np.count_nonzero(np.abs(samples) >= CLIPPED))
        held = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(held) // self._frame * self._frame
        frames = held[:whole].reshape(-1, self._frame)
        self._rest = held[whole:].copy()
        power = np.mean(np.square(frames, dtype=np.float64), axis=1)
        level = 10.0 * np.log10(np.maximum(power, 10.0 ** (SILENCE_DBFS / 10.0)))
        step = np.clip(np.floor(level - SILENCE_DBFS), 0, len(self._levels) - 1).astype(np.int64)
        self._levels += np.bincount(step, minlength=len(self._levels))

    @property
    def rms_db(self) -> float:
        """Level of all samples."""
        return _decibel(self._power / self.samples) if self.samples else SILENCE_DBFS

    @property
    def peak_db(self) -> float:
        """Level of the largest sample."""
        return _decibel(self._peak**2)

    @property
    def clipped(self) -> float:
        """Share of clipped samples, 0 to 1."""
        return self._clipped / self.samples if self.samples else 0.0

    @property
    def snr_db(self) -> float | None:
        """Level of the loud frames over that of the quiet ones; None without any frame.

        An estimate: in a recording without a pause the quiet frames are no noise.
        """
        count = int(self._levels.sum())
        if not count:
            return None
        total = np.cumsum(self._levels)
        loud, noise = (int(np.searchsorted(total, share * count)) for share in (LOUD, NOISE))
        return float(loud - noise)


def _decibel(power: float) -> float:
    return max(SILENCE_DBFS, 10.0 * math.log10(power)) if power > 0.0 else SILENCE_DBFS

"""Suspects a wrong sample format: samples of another format sound like noise at full scale."""

from __future__ import annotations

import numpy as np

from speech_emotion.capture.samples import Samples
from speech_emotion.common.levels import CLIPPED

MEASURE_S = 1.0
"""Seconds of samples that are judged at once."""
CONFIRMED = 2
"""Loud measurements in a row that make a suspicion."""
CLEARED = 10
"""Measurements in a row without noise that end a suspicion; a loud one ends it at once."""
LOUD = 0.25
"""Least RMS of full scale (-12 dBFS) of samples in a wrong format."""
UNCORRELATED = 0.4
"""Greatest correlation at most of the distances; that of neighbours in sound is near 1."""
MOST = 6
TONE = 0.7
"""Correlation at any distance that means a tone or other sound, not noise."""
LAGS = range(1, 9)
"""Distances in samples. Equal channels make every second value equal: one distance says little."""
SATURATED = 0.9
"""Mean magnitude that means unsigned 8-bit samples: they lie around -1 as 16-bit ones. Clipped
sound, which has it too, lies at full scale exactly."""


class NoiseMonitor:
    """Judges the samples of a pipe.

    Args:
        rate: sample rate in Hz.

    Attributes:
        suspected: the format is probably wrong.
    """

    def __init__(self, rate: int) -> None:
        self.suspected = False
        self._limit = round(MEASURE_S * rate)
        self._blocks: list[Samples] = []
        self._frames = 0
        self._noisy = self._clean = 0

    def add(self, block: Samples) -> None:
        """Judge a block (frames, channels)."""
        self._blocks.append(block)
        self._frames += len(block)
        if self._frames >= self._limit:
            self._judge(np.concatenate(self._blocks))
            self._blocks, self._frames = [], 0

    def _judge(self, samples: Samples) -> None:
        if is_noise(samples):
            self._noisy, self._clean = self._noisy + 1, 0
        else:
            loud = float(np.mean(np.square(samples))) >= LOUD**2
            self._clean = CLEARED if loud else self._clean + 1
        if self._clean >= CLEARED:
            self._noisy = 0
        self.suspected = self._noisy >= CONFIRMED


def is_noise(samples: Samples) -> bool:
    """Whether samples (frames, channels) are noise at full scale in a channel.

    One is enough: 32-bit samples read as 16-bit stereo are noise in one and sound in the other.
    """
    with np.errstate(all="ignore"):
        return any(_is_noise(samples[:, channel]) for channel in range(samples.shape[1]))


def _is_noise(samples: Samples) -> bool:
    if len(samples) < 100:
        return False
    magnitude = np.abs(samples)
    if float(np.mean(magnitude)) > SATURATED and float(np.mean(magnitude >= CLIPPED)) < 0.5:
        return True
    centred = samples - np.mean(samples)
    power = float(np.vdot(centred, centred))
    if not power >= LOUD**2 * len(samples):
        return False

    correlations = [abs(float(np.vdot(centred[lag:], centred[:-lag]))) / power for lag in LAGS]
    return max(correlations) < TONE and sum(c < UNCORRELATED for c in correlations) >= MOST

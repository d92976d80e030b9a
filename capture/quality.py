"""Quality of the sound of a stream, as figures: why a room is `uncertain`.

Measured on the samples of the ring, so that every kind of source has the same figures.
"""

from __future__ import annotations

import functools
from collections import deque

import numpy as np
from numpy.typing import NDArray

from speech_emotion.capture.samples import Samples

FRAME_S = 0.02
SPAN_S = 30.0
"""Seconds over which noise and signal are compared: a speaker pauses within them."""
LEAST_S = 3.0
"""Seconds of sound before there is a figure."""
NOISE_SHARE, SIGNAL_SHARE = 0.1, 0.95
"""Shares of the frames below the level of the noise, and below that of the signal."""
FLOOR_DB = -100.0
BAND_HZ = 250.0
BAND_DB = -60.0
"""Level of the highest band that counts, relative to the loudest band."""
LOUD_SHARE = 0.2
"""Share of the frames whose spectrum is measured: the loudest, which are speech if there is any."""
HOLE_S = (0.004, 0.5)
"""Shortest and longest run of exact zeros within sound that is a dropout. Longer ones are pauses of
a source that mutes itself."""
DROPOUT_SPAN_S = 60.0


class QualityMeter:
    """Measures the samples of a stream, second by second, when its figures are asked for.

    They are asked for twice a second: of a file at full speed only the last minute is measured.

    Args:
        rate: sample rate in Hz.
    """

    def __init__(self, rate: int) -> None:
        self._figures: dict[str, float] = {}
        self._rate = rate
        self._second: list[Samples] = []
        self._waiting: deque[tuple[Samples, int]] = deque(maxlen=round(DROPOUT_SPAN_S))
        self._collected = 0
        self._levels: deque[NDArray[np.float32]] = deque(maxlen=round(SPAN_S))
        self._spectra: deque[NDArray[np.float64]] = deque(maxlen=round(SPAN_S))
        self._means: deque[float] = deque(maxlen=round(SPAN_S))
        self._dropouts: deque[int] = deque(maxlen=round(DROPOUT_SPAN_S))
        self._gaps = 0
        self._zeros = 0
        self._sounded = False

    def add(self, samples: Samples) -> None:
        """Take samples (any,)."""
        self._second.append(samples)
        self._collected += len(samples)
        while self._collected >= self._rate:
            joined = np.concatenate(self._second)
            self._waiting.append((joined[: self._rate], self._gaps))
            self._gaps = 0
            self._second = [joined[self._rate :]]
            self._collected = len(self._second[0])

    def gap(self) -> None:
        """Count a declared gap."""
        self._gaps += 1

    @property
    def figures(self) -> dict[str, float]:
        """`snr_db`, `bandwidth_hz`, `dc` (share of full scale) and `dropouts_per_min`; empty before
        there is enough sound.
        """
        if self._waiting:
            while self._waiting:
                self._measure(*self._waiting.popleft())
            if len(self._levels) >= LEAST_S:
                self._figures = self._compute()
        return self._figures

    def _measure(self, second: Samples, gaps: int) -> None:
        frames = framed(second, round(FRAME_S * self._rate))
        levels = frame_levels(frames)
        holes, self._zeros, self._sounded = count_holes(
            second, self._rate, self._zeros, self._sounded
        )
        self._levels.append(levels)
        self._means.append(float(np.mean(second)))
        self._dropouts.append(gaps + holes)
        loud = np.argsort(levels)[-max(1, round(LOUD_SHARE * len(levels))) :]
        self._spectra.append(power_spectrum(frames[loud]))

    def _compute(self) -> dict[str, float]:
        minutes = len(self._dropouts) / 60.0
        bandwidth = bandwidth_hz(np.sum(self._spectra, axis=0), self._rate)
        return {
            "snr_db": round(snr_db(np.concatenate(self._levels)), 1),
            "bandwidth_hz": float(round(bandwidth)),
            "dc": round(float(np.mean(self._means)), 4),
            "dropouts_per_min": round(sum(self._dropouts) / minutes, 1),
        }


def framed(samples: Samples, length: int) -> Samples:
    """Whole frames of samples (any,): (frames, length)."""
    count = len(samples) // length
    return samples[: count * length].reshape(count, length)


def frame_levels(frames: Samples) -> NDArray[np.float32]:
    """Level of each frame (frames, length) in dBFS, without its mean, at least `FLOOR_DB`."""
    power = np.var(frames, axis=1, dtype=np.float64)
    levels: NDArray[np.float32] = (10.0 * np.log10(power + 10.0 ** (FLOOR_DB / 10.0))).astype(
        np.float32
    )
    return levels


def snr_db(levels: NDArray[np.float32]) -> float:
    """Distance in dB between the loud frames, speech if there is any, and the quiet ones, noise."""
    noise, signal = np.quantile(levels, [NOISE_SHARE, SIGNAL_SHARE])
    return float(signal - noise)


def power_spectrum(frames: Samples) -> NDArray[np.float64]:
    """Summed power spectrum of frames (frames, length), with a Hann window: (length // 2 + 1,)."""
    window = _hann(frames.shape[1])
    spectrum = np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * window, axis=1)
    power: NDArray[np.float64] = np.sum(np.abs(spectrum) ** 2, axis=0, dtype=np.float64)
    return power


@functools.lru_cache(maxsize=4)
def _hann(length: int) -> Samples:
    return np.hanning(length).astype(np.float32)


def bandwidth_hz(spectrum: NDArray[np.float64], rate: int) -> float:
    """Upper end of the highest band of 250 Hz within 60 dB of the loudest one; 0.0 in silence.

    A telephone and G.711 give 3500 to 4000 Hz, a camera with AAC 7000 Hz or more.
    """
    per_bin = rate / 2 / (len(spectrum) - 1)
    size = max(1, round(BAND_HZ / per_bin))
    bands = np.add.reduceat(spectrum, np.arange(0, len(spectrum) - 1, size))
    loudest = float(np.max(bands))
    if loudest <= 0.0:
        return 0.0
    heard = np.flatnonzero(bands >= loudest * 10.0 ** (BAND_DB / 10.0))
    return min((int(heard[-1]) + 1) * size * per_bin, rate / 2)


def count_holes(
    samples: Samples, rate: int, zeros: int = 0, sounded: bool = False
) -> tuple[int, int, bool]:
    """Runs of exact zeros within sound that are dropouts.

    Args:
        zeros: zeros at the end of the samples before these.
        sounded: whether sound preceded those zeros.

    Returns:
        Their number, the zeros at the end of these samples, whether sound precedes them.
    """
    shortest, longest = (bound * rate for bound in HOLE_S)
    present, piece = samples != 0.0, max(1, int(shortest) // 3)
    if not zeros and len(samples) > shortest and present[0] and present[-1]:
        # The usual case: no third of the shortest hole is silent. It takes a quarter of the time.
        pieces = present[: len(present) // piece * piece].reshape(-1, piece)
        if pieces.any(axis=1).all():
            return 0, 0, True
    sound = np.flatnonzero(present)
    if not len(sound):
        return 0, zeros + len(samples), sounded
    runs = np.diff(sound) - 1
    first = int(sound[0]) + zeros
    holes = int(np.count_nonzero((runs >= shortest) & (runs <= longest)))
    holes += sounded and shortest <= first <= longest
    return holes, len(samples) - 1 - int(sound[-1]), True

"""Candidates for F0 and the level of every frame of a window: pure.

Boersma: Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise
ratio of a sampled sound, 1993: the autocorrelation of a frame, divided by that of the frame's
window. The choice among the candidates needs the whole utterance and is infer's
(`infer/prosody.py`).

Frames lie at fixed distances before the end of a window, a whole number of them in a hop, so the
next window has the same frames. A frame needs only samples of its window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.levels import SILENCE_DBFS
from speech_emotion.common.prosody import (
    CANDIDATES,
    CEILING_HZ,
    F0_STEPS,
    FLOOR_HZ,
    FRAME,
    FRAME_S,
    LEVEL_STEP_DB,
    frames_per_hop,
)

Samples = NDArray[np.float32]
Frames = NDArray[np.void]

BAND_HZ = 8000.0
"""Higher frequencies hold no periodicity of a voice."""
LEAST_STRENGTH = 0.2
"""Weaker peaks of the autocorrelation are no candidates."""
OCTAVE_COST = 0.01
"""Preference per octave for the higher of two equally strong candidates."""


class ProsodyAnalyzer:
    """Prosody frames of the windows of one stream.

    Args:
        spec: its window, hop and sample rate are used.

    Attributes:
        count: frames of a window.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        rate = spec.sample_rate
        length = 2 * round(FRAME_S * rate / 2)
        self._new = frames_per_hop(spec.hop, rate)
        # Distance from the end of the window to the centre of each frame; n frames are one hop.
        number = np.arange(spec.window)
        before = length // 2 + ((2 * number + 1) * spec.hop) // (2 * self._new)
        starts = spec.window - before - length // 2
        self._starts = np.ascontiguousarray(starts[starts >= 0][::-1])
        self.count = len(self._starts)
        self._new = min(self._new, self.count)
        self._hop = spec.hop
        self._taper = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)
        self._power = float(np.sum(np.square(self._taper)))
        self._size = 1 << int(np.ceil(np.log2(1.5 * length)))
        self._bins = 1 + min(self._size // 2, int(BAND_HZ * self._size / rate))
        self._lag_size = 2 * round(BAND_HZ * self._size / rate)
        self._lag_rate = rate * self._lag_size / self._size
        own = self._correlation(self._taper[np.newaxis])[0]
        first = int(self._lag_rate / CEILING_HZ)
        last = int(self._lag_rate / FLOOR_HZ) + 2
        self._lags = slice(first - 1, last + 1)
        self._taper_correlation = own[self._lags] / own[0]
        self._first = first
        self._octave_cost = OCTAVE_COST * np.log2(
            np.arange(first, last) * (CEILING_HZ / self._lag_rate)
        )
        self._samples = np.zeros(0, np.int32)  # bits of those that the next window has, too
        self._frames: Frames = np.zeros(0, FRAME)

    def frames(self, window: Samples) -> Frames:
        """The frames of a window of finite samples, (spec.window,): dtype `FRAME`, (count,).

        Frames that the previous window has, too, are not computed again, if its samples agree.
        """
        shared = window[: len(window) - self._hop]
        if len(self._samples) and np.array_equal(shared.view(np.int32), self._samples):
            new = self._compute(window, self._starts[self.count - self._new :])
            frames = np.concatenate([self._frames[self._new :], new])
        else:
            frames = self._compute(window, self._starts)
        self._samples = window[self._hop :].view(np.int32).copy()
        self._frames = frames
        return frames

    def _compute(self, window: Samples, starts: NDArray[np.int64]) -> Frames:
        length = len(self._taper)
        framed = window[starts[:, np.newaxis] + np.arange(length)].astype(np.float64)
        framed -= np.add.reduce(framed, axis=1, keepdims=True) / length
        framed *= self._taper
        power = np.add.reduce(np.square(framed), axis=1) / self._power
        found = np.zeros(len(starts), FRAME)
        level = 10.0 * np.log10(np.maximum(power, 10.0 ** (SILENCE_DBFS / 10.0)))
        found["level"] = np.rint((level - SILENCE_DBFS) / LEVEL_STEP_DB)
        whole = self._correlation(framed)
        zero = np.maximum(whole[:, :1], 1e-300)
        correlation = whole[:, self._lags] / zero / self._taper_correlation
        self._peaks(correlation, found)
        return found

    def _correlation(self, framed: NDArray[np.float64]) -> NDArray[np.float64]:
        """Autocorrelation of frames (n, length) below `BAND_HZ`, (n, lags)."""
        spectrum = np.fft.rfft(framed, self._size)[:, : self._bins]
        squares = np.square(spectrum.real) + np.square(spectrum.imag)
        return np.fft.irfft(squares, self._lag_size)

    def _peaks(self, correlation: NDArray[np.float64], found: Frames) -> None:
        """Write the strongest peaks, (frames, lags with one more on either side), to `found`."""
        before, here, after = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
        peak = (here > before) & (here >= after) & (here > LEAST_STRENGTH)
        # Vertex of the parabola through each peak and its neighbours.
        slope = before - after
        curve = np.where(peak, before - 2.0 * here + after, -1.0)
        shift = 0.5 * slope / curve
        height = here - 0.25 * slope * shift
        score = np.where(peak, height - self._octave_cost, -1.0)
        rows = np.arange(len(score))
        for number in range(CANDIDATES):
            best = np.argmax(score, axis=1)
            f0 = self._lag_rate / (self._first + best + shift[rows, best])
            valid = (score[rows, best] > -1.0) & (f0 >= FLOOR_HZ) & (f0 <= CEILING_HZ)
            strength = height[rows, best]
            # A window that is short for the period can give more than 1.
            strength = np.where(strength > 1.0, 1.0 / np.maximum(strength, 1.0), strength)
            found["f0"][:, number] = np.where(valid, np.rint(f0 * F0_STEPS), 0.0)
            found["strength"][:, number] = np.where(valid, np.rint(255.0 * strength), 0.0)
            score[rows, best] = -1.0

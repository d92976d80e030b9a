"""Tuning estimate of a power spectrum, equal to librosa.estimate_tuning bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import N_CHROMA, FeatureSpec

TUNING_EDGES = np.linspace(-0.5, 0.5, 101)
"""Histogram edges of librosa.pitch_tuning. An estimated tuning is the lower edge of a bin."""
ZERO_TUNING_BIN = 50
"""Histogram bin of tuning 0, the result for a window without any pitch."""
PITCH_HZ = (150.0, 4000.0)
"""Frequency range in which librosa.piptrack searches spectral peaks."""
PITCH_THRESHOLD = 0.1
"""librosa.piptrack ignores peaks below this share of the frame's maximum."""


class TuningEstimator:
    """librosa.estimate_tuning of a power spectrum. The result is one of 100 values.

    librosa interpolates every bin of every frame; this class interpolates only the spectral
    peaks.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        searched = searched_bins(spec)
        bins = 1 + spec.n_fft // 2
        self._rate, self._n_fft = float(spec.sample_rate), spec.n_fft
        self._start, self._stop = int(searched[0]), int(searched[-1]) + 1
        self._peak = np.zeros((spec.natural_frames, bins), bool)
        self._rises = np.empty((spec.natural_frames, len(searched)), bool)

    def estimate(self, power: NDArray[np.float32]) -> int:
        """Index into `TUNING_EDGES` of the tuning of a power spectrum (frames, bins)."""
        start, stop = self._start, self._stop
        centre, peak, rises = power[:, start:stop], self._peak[:, start:stop], self._rises
        np.greater(centre, PITCH_THRESHOLD * power.max(axis=1, keepdims=True), out=peak)
        np.greater(centre, power[:, start - 1 : stop - 1], out=rises)
        peak &= rises
        np.greater_equal(centre, power[:, start + 1 : stop + 1], out=rises)
        peak &= rises
        index = np.flatnonzero(self._peak)
        if len(index) == 0:
            return ZERO_TUNING_BIN
        flat = power.ravel()
        below, here, above = flat[index - 1], flat[index], flat[index + 1]
        # Parabola through three bins. numba promotes to float64 where it multiplies by 2.
        slope = above - below
        half = slope.astype(np.float64) / 2
        curve = (above + below) - 2.0 * here.astype(np.float64)
        inside = np.abs(half) < np.abs(curve)
        shift = np.divide(-half, curve, out=np.zeros(len(index)), where=inside).astype(np.float32)
        height = here + 0.5 * (slope / 2) * shift
        pitch = (index % power.shape[1] + shift) * self._rate / self._n_fft
        ordered = np.sort(height)
        median = (ordered[(len(index) - 1) // 2] + ordered[len(index) // 2]) / 2
        strong = pitch[height >= median].astype(np.float32)
        residual = np.mod(N_CHROMA * np.log2(strong / (440.0 / 16)), 1.0)
        residual -= residual >= 0.5
        edge = TUNING_EDGES.searchsorted(residual, side="right") - 1
        return int(np.bincount(edge, minlength=1).argmax())


def searched_bins(spec: FeatureSpec) -> NDArray[np.intp]:
    """Spectrum bins in which librosa.piptrack searches peaks."""
    low, high = PITCH_HZ
    hertz = np.fft.rfftfreq(spec.n_fft, d=1.0 / spec.sample_rate)
    return np.flatnonzero((low <= hertz) & (hertz < min(high, spec.sample_rate / 2)))

"""Mean and standard deviation of features, computed in one pass over any number of windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.data.clips import Samples


class FeatureStatistics:
    """Streaming mean and standard deviation per feature, in float64 (Chan et al., 1979)."""

    def __init__(self, dims: int) -> None:
        self._n = 0
        self._mean = np.zeros(dims)
        self._squares = np.zeros(dims)

    def add(self, x: NDArray[np.floating]) -> None:
        """Add features (…, dims)."""
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        if len(rows) == 0:
            return
        mean = rows.mean(axis=0)
        delta, total = mean - self._mean, self._n + len(rows)
        self._squares += ((rows - mean) ** 2).sum(axis=0) + delta**2 * self._n * len(rows) / total
        self._mean += delta * len(rows) / total
        self._n = total

    def result(self) -> tuple[Samples, Samples]:
        """Mean and standard deviation, float32, (dims,) each; zeros before the first row."""
        deviation = np.sqrt(self._squares / max(self._n, 1))
        return self._mean.astype(np.float32), deviation.astype(np.float32)

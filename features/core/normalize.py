"""Two normalizations: chroma frames to their maximum, feature matrices to zero mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class ChromaNormalizer:
    """librosa.util.normalize of every frame by its largest value, in place."""

    def __init__(self, frames: int) -> None:
        self._largest = np.empty((frames, 1), np.float32)
        self._is_zero = np.empty((frames, 1), np.bool_)

    def __call__(self, chroma: Samples) -> None:
        """`chroma` has shape (frames, 12)."""
        np.max(chroma, axis=1, keepdims=True, out=self._largest)
        # A frame of zeros, or nearly so, is divided by about one.
        np.less(self._largest, np.finfo(np.float32).tiny, out=self._is_zero)
        np.add(self._largest, self._is_zero, out=self._largest)
        chroma /= self._largest


def normalize(
    features: Samples, mean: Samples, std: Samples, eps: float, out: Samples | None = None
) -> Samples:
    """Standardize features (frames, dims) with statistics (dims,) or (frames, dims).

    Args:
        out: array for the result, may be `features`. None allocates one.
    """
    centred: Samples = np.subtract(features, mean, out=out)
    np.divide(centred, std + eps, out=centred)
    return centred

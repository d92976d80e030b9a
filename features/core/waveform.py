"""`WaveformCore`: the samples of a window, for models that take sound instead of features."""

from __future__ import annotations

import numpy as np

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core.layout import Samples


class WaveformCore:
    """Copies the samples, bit for bit, to a matrix of one value per frame."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec

    def extract(self, window: Samples, out: Samples | None = None) -> Samples:
        if out is None:
            out = np.empty((self._spec.n_frames, self._spec.dims), np.float32)
        out[:, 0] = window
        return out

    def stream(self) -> WaveformCore:
        return self

"""`LibrosaCore`: the reference features, computed by librosa itself."""

from __future__ import annotations

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core.layout import Samples, output_matrix


class LibrosaCore:
    """Fallback for the few specs that the other cores do not cover. Slow; imports librosa."""

    def __init__(self, spec: FeatureSpec) -> None:
        from speech_emotion.features.reference import reference_features

        self._spec = spec
        self._reference = reference_features

    def extract(self, window: Samples, out: Samples | None = None) -> Samples:
        out = output_matrix(self._spec, out)
        features = self._reference(window, self._spec)
        out[: len(features)] = features[: len(out)]
        return out

    def stream(self) -> LibrosaCore:
        return self

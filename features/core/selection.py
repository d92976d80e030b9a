"""The interface of a feature core, and the choice of one for a spec."""

from __future__ import annotations

from typing import Protocol

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core.banks import Banks
from speech_emotion.features.core.exact import ExactCore
from speech_emotion.features.core.fast import FastCore
from speech_emotion.features.core.layout import Samples
from speech_emotion.features.core.librosa_core import LibrosaCore
from speech_emotion.features.core.tuning import searched_bins
from speech_emotion.features.core.waveform import WaveformCore


class Core(Protocol):
    """Features of one window. The same window gives the same bits after any other window."""

    def extract(self, window: Samples, out: Samples | None = None) -> Samples:
        """Features of finite samples (spec.window,): float32, (spec.n_frames, spec.dims).

        Args:
            out: array for the result, C order. None allocates one.
        """
        ...

    def stream(self) -> Core:
        """A core for the windows of one more stream; shares all buffers that can be shared."""
        ...


def make_core(spec: FeatureSpec, banks: Banks) -> Core:
    """The fastest core that covers a spec.
    A tuning estimated per window is the largest of a hundred histogram counts, which float32
    errors may change: `ExactCore`. All other specs use `FastCore`. librosa computes the few
    that neither covers: an odd `n_fft`, and an estimated tuning where rounding puts the
    Nyquist bin below half the sample rate, so that librosa searches a peak at the last bin
    of the spectrum (8 kHz with an `n_fft` that is no power of two).
    """
    if spec.waveform:
        return WaveformCore(spec)
    if spec.n_fft % 2:
        return LibrosaCore(spec)
    if not spec.chroma or spec.chroma_tuning != "estimate":
        return FastCore(spec, banks)
    searches_last_bin = spec.n_fft // 2 in searched_bins(spec)
    return LibrosaCore(spec) if searches_last_bin else ExactCore(spec, banks)

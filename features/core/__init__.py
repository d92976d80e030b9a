"""The feature core: MFCC, chroma and mel of a window, equal to librosa's, several times faster.

One STFT serves all three parts, and the filter banks come from the bundle, so neither librosa
nor numba is imported. `make_core` selects a core for a spec:

- `ExactCore`: librosa's arithmetic in librosa's order and precision (float64 FFT, then
  float32). Its features equal those of `features.reference` bit for bit.
- `FastCore`: within 1e-4 of them. Uses a float32 FFT where the spec has no MFCC, and computes
  only the frames that the previous window lacks.
- `LibrosaCore`: calls librosa, for the few specs that the other two do not cover.
- `WaveformCore`: the samples themselves, for models that take sound.

tests/unit/features/test_core.py checks these promises.
"""

from __future__ import annotations

from speech_emotion.features.core.banks import MFCC_MELS, Banks
from speech_emotion.features.core.exact import ExactCore
from speech_emotion.features.core.fast import FastCore
from speech_emotion.features.core.layout import Samples
from speech_emotion.features.core.librosa_core import LibrosaCore
from speech_emotion.features.core.normalize import normalize
from speech_emotion.features.core.selection import Core, make_core
from speech_emotion.features.core.tuning import TUNING_EDGES, TuningEstimator
from speech_emotion.features.core.waveform import WaveformCore

__all__ = [
    "MFCC_MELS",
    "TUNING_EDGES",
    "Banks",
    "Core",
    "ExactCore",
    "FastCore",
    "LibrosaCore",
    "Samples",
    "TuningEstimator",
    "WaveformCore",
    "make_core",
    "normalize",
]

"""The reference: librosa's definition of the features. `features.core` computes the same faster.

Importing this module imports librosa and numba, which costs seconds and hundreds of megabytes
on an edge box. The live path does not import it.
"""

from __future__ import annotations

import librosa
import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec


def reference_features(window: NDArray[np.float32], spec: FeatureSpec) -> NDArray[np.float32]:
    """The original engine's features of a window, before `spec.frames` and normalization.

    Args:
        window: finite samples, float32, shape (spec.window,).

    Returns:
        Columns of MFCC, chroma and mel, float32, shape (frames of librosa's centred STFT,
        spec.dims).
    """
    grid = {"n_fft": spec.n_fft, "hop_length": spec.hop_length}
    parts = []
    if spec.n_mfcc:
        parts.append(
            librosa.feature.mfcc(y=window, sr=spec.sample_rate, n_mfcc=spec.n_mfcc, **grid)
        )
    if spec.chroma:
        tuning = None if spec.chroma_tuning == "estimate" else spec.chroma_tuning
        parts.append(
            librosa.feature.chroma_stft(y=window, sr=spec.sample_rate, tuning=tuning, **grid)
        )
    if spec.n_mels:
        mel = librosa.feature.melspectrogram(
            y=window, sr=spec.sample_rate, n_mels=spec.n_mels, **grid
        )
        if spec.mel == "db":
            mel = librosa.power_to_db(mel)
        elif spec.mel == "db_max":
            mel = librosa.power_to_db(mel, ref=np.max)
        parts.append(mel)
    return np.concatenate([part.T for part in parts], axis=1)

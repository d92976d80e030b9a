"""Memory layout of one window: centred STFT frames in, columns of the feature matrix out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import N_CHROMA, FeatureSpec

Samples = NDArray[np.float32]


def centred_frames(spec: FeatureSpec) -> tuple[Samples, Samples]:
    """A buffer for a window's samples, (spec.window,), and a view of its frames (frames, n_fft).

    librosa's STFT is centred: half a frame of zeros precedes and follows the window. The zeros
    are written once, here.
    """
    padded = np.zeros(spec.window + spec.n_fft, np.float32)
    framed = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop_length]
    return padded[spec.n_fft // 2 :][: spec.window], framed


def output_matrix(spec: FeatureSpec, out: Samples | None) -> Samples:
    """The array for a window's features, with zeros in rows after the natural frames."""
    if out is None:
        out = np.empty((spec.n_frames, spec.dims), np.float32)
    out[spec.natural_frames :] = 0.0
    return out


def feature_columns(spec: FeatureSpec, features: Samples) -> tuple[Samples, Samples, Samples]:
    """Views of the MFCC, chroma and mel columns of a matrix (any, dims)."""
    chroma = spec.n_mfcc + (N_CHROMA if spec.chroma else 0)
    return features[:, : spec.n_mfcc], features[:, spec.n_mfcc : chroma], features[:, chroma:]

"""`ExactCore`: the reference features bit for bit."""

from __future__ import annotations

import numpy as np

from speech_emotion.common.bundle.spec import N_CHROMA, FeatureSpec
from speech_emotion.features.core import pocketfft
from speech_emotion.features.core.banks import MFCC_MELS, Banks
from speech_emotion.features.core.decibel import power_to_db
from speech_emotion.features.core.layout import (
    Samples,
    centred_frames,
    feature_columns,
    output_matrix,
)
from speech_emotion.features.core.normalize import ChromaNormalizer
from speech_emotion.features.core.tuning import TuningEstimator


class ExactCore:
    """librosa's arithmetic in librosa's order and precision.

    One float64 STFT serves all parts, in buffers allocated once. Only the tuning estimate
    allocates memory per window, because the number of its peaks is not known in advance.
    """

    def __init__(self, spec: FeatureSpec, banks: Banks) -> None:
        self._spec = spec
        self._banks = banks
        frames, bins = spec.natural_frames, 1 + spec.n_fft // 2
        self._samples, self._framed = centred_frames(spec)
        self._windowed = np.empty((frames, spec.n_fft))
        self._transformed = np.empty((frames, bins), np.complex128)
        self._spectrum = np.empty((frames, bins), np.complex64)
        self._power = np.empty((frames, bins), np.float32)
        self._mfcc_mels = np.empty((MFCC_MELS, frames), np.float32)
        self._cepstra = np.empty((MFCC_MELS, frames), np.float32)
        self._chroma = np.empty((frames, N_CHROMA), np.float32)
        self._normalize_chroma = ChromaNormalizer(frames)
        self._mels = np.empty((spec.n_mels, frames), np.float32)
        self._tuning = TuningEstimator(spec) if len(banks.chroma) > 1 else None

    def extract(self, window: Samples, out: Samples | None = None) -> Samples:
        spec, banks = self._spec, self._banks
        out = output_matrix(spec, out)
        self._stft(window)
        rows = min(len(out), len(self._power))
        mfcc, chroma, mel = (part[:rows] for part in feature_columns(spec, out))
        # The factors keep the order of librosa's einsum: the order decides the last bits.
        if spec.n_mfcc:
            np.matmul(banks.mfcc_mel, self._power.T, out=self._mfcc_mels)
            power_to_db(self._mfcc_mels)
            pocketfft.dct(self._mfcc_mels, 0, self._cepstra)
            mfcc[...] = self._cepstra[: spec.n_mfcc].T[:rows]
        if spec.chroma:
            tuning = self._tuning.estimate(self._power) if self._tuning else 0
            np.matmul(self._power, banks.chroma[tuning].T, out=self._chroma)
            self._normalize_chroma(self._chroma)
            chroma[...] = self._chroma[:rows]
        if spec.n_mels:
            np.matmul(banks.mel, self._power.T, out=self._mels)
            if spec.mel != "power":
                power_to_db(self._mels, relative=spec.mel == "db_max")
            mel[...] = self._mels.T[:rows]
        return out

    def stream(self) -> ExactCore:
        return self

    def _stft(self, window: Samples) -> None:
        """Fill `_power`, (frames, bins)."""
        self._samples[...] = window
        np.multiply(self._framed, self._banks.window, out=self._windowed)
        pocketfft.rfft(self._windowed, self._transformed)
        self._spectrum[...] = self._transformed
        np.abs(self._spectrum, out=self._power)
        np.square(self._power, out=self._power)

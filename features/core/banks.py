"""STFT window and filter banks of a feature spec, as librosa computes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import N_CHROMA, FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.features.core.tuning import TUNING_EDGES

MFCC_MELS = 128
"""Mel bands from which librosa.feature.mfcc computes its cepstra, independent of `n_mels`."""

Samples = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Banks:
    """librosa's STFT window and filter banks for a spec. A part that the spec omits has no rows.

    A waveform has no banks: all parts are empty.

    Attributes:
        window: float64, (n_fft,).
        mfcc_mel: mel bank for the MFCC, float32, (128 or 0, bins).
        mel: float32, (n_mels, bins).
        chroma: float32, (tunings, 12, bins). One tuning if the spec fixes it; one for each of
            `TUNING_EDGES[:-1]` if it is estimated per window.
    """

    window: NDArray[np.float64]
    mfcc_mel: Samples
    mel: Samples
    chroma: Samples

    @classmethod
    def from_librosa(cls, spec: FeatureSpec) -> Self:
        """Compute the banks with librosa. Imports it: for training and for `--spec` only."""
        if spec.waveform:
            return cls.empty()
        import librosa.filters as filters

        fft = {"sr": spec.sample_rate, "n_fft": spec.n_fft}
        shapes = _shapes(spec)

        def mel(name: str) -> Samples:
            n_mels, bins = shapes[name]
            if n_mels == 0:
                return np.zeros((0, bins), np.float32)
            return np.asarray(filters.mel(n_mels=n_mels, **fft), np.float32)

        chroma = np.zeros(shapes["chroma"], np.float32)
        for bank, tuning in zip(chroma, _tunings(spec), strict=True):
            bank[...] = filters.chroma(n_chroma=N_CHROMA, tuning=tuning, **fft)
        window = filters.get_window("hann", spec.n_fft, fftbins=True)
        return cls(window, mel("mfcc_mel"), mel("mel"), chroma)

    @classmethod
    def empty(cls) -> Self:
        """The banks of a waveform."""
        none = np.zeros((0, 0), np.float32)
        return cls(np.zeros(0), none, none, np.zeros((0, 0, 0), np.float32))

    @classmethod
    def from_arrays(cls, spec: FeatureSpec, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Banks from the arrays that `to_arrays` returned, checked against the spec.

        Raises:
            UserError: an array is missing, or its shape, type or values do not match the spec.
        """
        for name, shape in _shapes(spec).items():
            dtype = np.float64 if name == "window" else np.float32
            if name not in arrays:
                raise UserError(f"banks.npz: has no {name}; rebuild the bundle")
            array = arrays[name]
            if array.shape != shape or array.dtype != dtype:
                raise UserError(
                    f"banks.npz: {name} is {array.dtype}{array.shape}, the feature spec needs "
                    f"{np.dtype(dtype)}{shape}; rebuild the bundle"
                )
            if not np.isfinite(array).all():
                raise UserError(
                    f"banks.npz: {name} has values that are not finite; rebuild the bundle"
                )
        return cls(**{name: np.ascontiguousarray(arrays[name]) for name in _shapes(spec)})

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of the bundle's banks.npz."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _shapes(spec: FeatureSpec) -> dict[str, tuple[int, ...]]:
    bins = 1 + spec.n_fft // 2
    return {
        "window": (spec.n_fft,),
        "mfcc_mel": (MFCC_MELS if spec.n_mfcc else 0, bins),
        "mel": (spec.n_mels, bins),
        "chroma": (len(_tunings(spec)), N_CHROMA, bins),
    }


def _tunings(spec: FeatureSpec) -> list[float]:
    if not spec.chroma:
        return []
    if spec.chroma_tuning == "estimate":
        return [float(tuning) for tuning in TUNING_EDGES[:-1]]
    return [float(spec.chroma_tuning)]

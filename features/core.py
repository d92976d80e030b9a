"""The feature core: librosa's MFCC, chroma and mel of a window, several times faster.

One STFT serves all three, the filter banks come ready from the bundle, and neither librosa
nor numba is imported. Every step does librosa's arithmetic in librosa's order and precision
(float64 FFT, then float32), so the features are those of `features.definition` bit for bit;
`tests/test_core.py` holds it to that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, Self

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from common.errors import UserError
from common.spec import N_CHROMA, FeatureSpec

MFCC_MELS = 128
"""librosa.feature.mfcc makes its cepstra of 128 mels, whatever other mels are asked for."""
AMIN, TOP_DB = 1e-10, 80.0
"""librosa.power_to_db: the smallest power, and the range below the maximum in dB."""
TUNING_EDGES = np.linspace(-0.5, 0.5, 101)
"""librosa.pitch_tuning's histogram; an estimated tuning is the lower edge of one of its bins."""
IN_TUNE = 50
"""The bin of tuning 0, which a window without any pitch gets."""
PITCH_HZ = (150.0, 4000.0)
PITCH_THRESHOLD = 0.1
"""librosa.piptrack: where it looks for peaks, and how far below a frame's maximum."""

Samples = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Banks:
    """librosa's STFT window and filter banks for a spec; a part the spec leaves out has no rows.

    Attributes:
        window: float64, (n_fft,).
        mfcc_mel: mel bank the MFCC are made of, float32, (128 or 0, bins).
        mel: float32, (n_mels, bins).
        chroma: float32, (tunings, 12, bins); one tuning if the spec fixes it, one for each of
            `TUNING_EDGES[:-1]` if it is estimated per window.
    """

    window: NDArray[np.float64]
    mfcc_mel: Samples
    mel: Samples
    chroma: Samples

    @classmethod
    def from_librosa(cls, spec: FeatureSpec) -> Self:
        """Have librosa make the banks (imports it; for training and for a spec without bundle)."""
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
    def from_arrays(cls, spec: FeatureSpec, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The banks that `to_arrays` gave, checked against the spec.

        Raises:
            UserError: an array is missing, or its shape, type or values do not fit.
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


class Core(Protocol):
    """Features of one window; the same window gives the same bits, whatever came before."""

    def extract(self, window: Samples) -> Samples:
        """Features of finite samples (spec.window,): float32, (spec.n_frames, spec.dims)."""
        ...


def make_core(spec: FeatureSpec, banks: Banks) -> Core:
    """The fast core, or librosa itself for the few specs that the fast core does not cover.

    These are an odd `n_fft`, and an estimated tuning where rounding puts the Nyquist bin below
    half the sample rate, so that librosa looks for a peak at the very end of the spectrum
    (8 kHz with an `n_fft` that is no power of two).
    """
    even = spec.n_fft % 2 == 0
    at_end = spec.chroma and spec.chroma_tuning == "estimate" and spec.n_fft // 2 in _searched(spec)
    return FastCore(spec, banks) if even and not at_end else LibrosaCore(spec)


class LibrosaCore:
    """The definition itself: slow, and it imports librosa."""

    def __init__(self, spec: FeatureSpec) -> None:
        from features.definition import definition

        self._spec = spec
        self._definition = definition

    def extract(self, window: Samples) -> Samples:
        return _fit(self._definition(window, self._spec), self._spec.n_frames)


class FastCore:
    """The definition on one shared STFT, in buffers made once.

    Per window only what scipy.fft and the small matrix products return is allocated; the
    allocator hands the same memory out again.
    """

    def __init__(self, spec: FeatureSpec, banks: Banks) -> None:
        self._spec = spec
        self._banks = banks
        frames, bins = spec.natural_frames, 1 + spec.n_fft // 2
        # librosa's STFT is centred: half a frame of zeros before and behind, written once.
        padded = np.zeros(spec.window + spec.n_fft, np.float32)
        self._samples = padded[spec.n_fft // 2 :][: spec.window]
        framed = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)
        self._framed = framed[:: spec.hop_length]
        self._windowed = np.empty((frames, spec.n_fft))
        self._spectrum = np.empty((frames, bins), np.complex64)
        self._power = np.empty((frames, bins), np.float32)
        self._tuning = TuningEstimator(spec) if len(banks.chroma) > 1 else None

    def extract(self, window: Samples) -> Samples:
        self._stft(window)
        parts = []
        if self._spec.n_mfcc:
            parts.append(self._mfcc())
        if self._spec.chroma:
            parts.append(self._chroma())
        if self._spec.n_mels:
            parts.append(self._mel())
        return _fit(np.concatenate(parts).T, self._spec.n_frames)

    # The order of the factors below is that of librosa's einsum: it decides the last bits.

    def _stft(self, window: Samples) -> None:
        """Fill `_power`, (frames, bins)."""
        self._samples[...] = window
        np.multiply(self._framed, self._banks.window, out=self._windowed)
        self._spectrum[...] = scipy.fft.rfft(self._windowed, axis=1)
        np.abs(self._spectrum, out=self._power)
        np.square(self._power, out=self._power)

    def _mfcc(self) -> Samples:
        """(n_mfcc, frames)"""
        mels = _power_to_db(self._banks.mfcc_mel @ self._power.T)
        cepstra: Samples = scipy.fft.dct(mels, type=2, norm="ortho", axis=0)
        return cepstra[: self._spec.n_mfcc]

    def _chroma(self) -> Samples:
        """Over the frame's largest, (12, frames)."""
        tuning = self._tuning.estimate(self._power) if self._tuning else 0
        raw: Samples = self._power @ self._banks.chroma[tuning].T
        largest = raw.max(axis=1, keepdims=True)
        largest[largest < np.finfo(np.float32).tiny] = 1.0
        raw /= largest
        return raw.T

    def _mel(self) -> Samples:
        """(n_mels, frames)"""
        mels = self._banks.mel @ self._power.T
        if self._spec.mel == "power":
            return mels
        return _power_to_db(mels, relative=self._spec.mel == "db_max")


class TuningEstimator:
    """librosa.estimate_tuning of a power spectrum; it can take only 100 values.

    librosa interpolates every bin of every frame, this only the spectral peaks.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        searched = _searched(spec)
        bins = 1 + spec.n_fft // 2
        self._rate, self._n_fft = float(spec.sample_rate), spec.n_fft
        self._first, self._behind = int(searched[0]), int(searched[-1]) + 1
        self._peak = np.zeros((spec.natural_frames, bins), bool)
        self._rises = np.empty((spec.natural_frames, len(searched)), bool)

    def estimate(self, power: Samples) -> int:
        """Index into `TUNING_EDGES` of the tuning of a power spectrum (frames, bins)."""
        first, behind = self._first, self._behind
        centre, peak, rises = power[:, first:behind], self._peak[:, first:behind], self._rises
        np.greater(centre, PITCH_THRESHOLD * power.max(axis=1, keepdims=True), out=peak)
        np.greater(centre, power[:, first - 1 : behind - 1], out=rises)
        peak &= rises
        np.greater_equal(centre, power[:, first + 1 : behind + 1], out=rises)
        peak &= rises
        index = np.flatnonzero(self._peak)
        if len(index) == 0:
            return IN_TUNE
        flat = power.ravel()
        below, here, above = flat[index - 1], flat[index], flat[index + 1]
        # The parabola through three bins; numba makes it float64 where it multiplies by 2.
        slope = above - below
        half = slope.astype(np.float64) / 2
        curve = (above + below) - 2.0 * here.astype(np.float64)
        inside = np.abs(half) < np.abs(curve)
        shift = np.divide(-half, curve, out=np.zeros(len(index)), where=inside).astype(np.float32)
        height = here + 0.5 * (slope / 2) * shift
        pitch = (index % power.shape[1] + shift) * self._rate / self._n_fft
        ordered = np.sort(height)
        median = (ordered[(len(index) - 1) // 2] + ordered[len(index) // 2]) / 2
        strong = pitch[height >= median].astype(np.float32)
        residual = np.mod(N_CHROMA * np.log2(strong / (440.0 / 16)), 1.0)
        residual -= residual >= 0.5
        edge = TUNING_EDGES.searchsorted(residual, side="right") - 1
        return int(np.bincount(edge, minlength=1).argmax())


def _searched(spec: FeatureSpec) -> NDArray[np.intp]:
    """The bins in which librosa.piptrack looks for peaks."""
    low, high = PITCH_HZ
    hertz = np.fft.rfftfreq(spec.n_fft, d=1.0 / spec.sample_rate)
    return np.flatnonzero((low <= hertz) & (hertz < min(high, spec.sample_rate / 2)))


def _power_to_db(power: Samples, *, relative: bool = False) -> Samples:
    """librosa.power_to_db in place, relative to 1.0 or to the largest power."""
    largest = power.max()
    np.maximum(AMIN, power, out=power)
    np.log10(power, out=power)
    power *= 10.0
    if relative:
        power -= 10.0 * np.log10(np.maximum(AMIN, largest))
    np.maximum(power, power.max() - TOP_DB, out=power)
    return power


def _fit(features: Samples, frames: int) -> Samples:
    """Trim at the end, or fill with zeros, to `frames` rows."""
    fitted = np.zeros((frames, features.shape[1]), np.float32)
    fitted[: len(features)] = features[:frames]
    return fitted


def normalize(features: Samples, mean: Samples, std: Samples, eps: float) -> Samples:
    """Standardize features (frames, dims) with statistics (dims,) or (frames, dims)."""
    return ((features - mean) / (std + eps)).astype(np.float32, copy=False)

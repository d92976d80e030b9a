"""The feature core: librosa's MFCC, chroma and mel of a window, several times faster.

One STFT serves all three, the filter banks come ready from the bundle, and neither librosa
nor numba is imported. The spec decides which core computes it. `ExactCore` does librosa's
arithmetic in librosa's order and precision (float64 FFT, then float32), so the features are
those of `features.reference_features` bit for bit. `FastCore` is within 1e-4 of them: a float32 FFT
where there are no MFCC, and only those frames that the window before has not.
`tests/unit/features/test_core.py` holds it to that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import N_CHROMA, FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.features import pocketfft

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

    def extract(self, window: Samples, out: Samples | None = None) -> Samples:
        """Features of finite samples (spec.window,): float32, (spec.n_frames, spec.dims).

        Args:
            out: takes them, C order; None: a new array does.
        """
        ...

    def stream(self) -> Core:
        """A core for the windows of one more stream, sharing all that can be shared."""
        ...


def make_core(spec: FeatureSpec, banks: Banks) -> Core:
    """The core for a spec.

    A tuning estimated per window takes the largest of a hundred counts, which float32 may
    tip over: `ExactCore`. Everything else is `FastCore`'s. librosa itself serves the few specs
    that neither covers: an odd `n_fft`, and an estimated tuning where rounding puts the
    Nyquist bin below half the sample rate, so that librosa looks for a peak at the very end
    of the spectrum (8 kHz with an `n_fft` that is no power of two).
    """
    if spec.n_fft % 2:
        return LibrosaCore(spec)
    if not spec.chroma or spec.chroma_tuning != "estimate":
        return FastCore(spec, banks)
    at_end = spec.n_fft // 2 in _searched(spec)
    return LibrosaCore(spec) if at_end else ExactCore(spec, banks)


class LibrosaCore:
    """The definition itself: slow, and it imports librosa."""

    def __init__(self, spec: FeatureSpec) -> None:
        from speech_emotion.features.reference import reference_features

        self._spec = spec
        self._definition = reference_features

    def extract(self, window: Samples, out: Samples | None = None) -> Samples:
        out = _output(self._spec, out)
        features = self._definition(window, self._spec)
        out[: len(features)] = features[: len(out)]
        return out

    def stream(self) -> LibrosaCore:
        return self


class ExactCore:
    """The definition bit for bit: librosa's arithmetic in its order and precision.

    One float64 STFT serves all parts, in buffers made once. Only the tuning estimate, whose
    peaks nobody can count beforehand, takes memory per window.
    """

    def __init__(self, spec: FeatureSpec, banks: Banks) -> None:
        self._spec = spec
        self._banks = banks
        frames, bins = spec.natural_frames, 1 + spec.n_fft // 2
        self._samples, self._framed = _centred(spec)
        self._windowed = np.empty((frames, spec.n_fft))
        self._transformed = np.empty((frames, bins), np.complex128)
        self._spectrum = np.empty((frames, bins), np.complex64)
        self._power = np.empty((frames, bins), np.float32)
        self._mfcc_mels = np.empty((MFCC_MELS, frames), np.float32)
        self._cepstra = np.empty((MFCC_MELS, frames), np.float32)
        self._chroma = np.empty((frames, N_CHROMA), np.float32)
        self._normalize = _Normalizer(frames)
        self._mels = np.empty((spec.n_mels, frames), np.float32)
        self._tuning = TuningEstimator(spec) if len(banks.chroma) > 1 else None

    def extract(self, window: Samples, out: Samples | None = None) -> Samples:
        spec, banks = self._spec, self._banks
        out = _output(spec, out)
        self._stft(window)
        rows = min(len(out), len(self._power))
        mfcc, chroma, mel = (part[:rows] for part in _parts(spec, out))
        # The order of the factors is that of librosa's einsum: it decides the last bits.
        if spec.n_mfcc:
            np.matmul(banks.mfcc_mel, self._power.T, out=self._mfcc_mels)
            _power_to_db(self._mfcc_mels)
            pocketfft.dct(self._mfcc_mels, 0, self._cepstra)
            mfcc[...] = self._cepstra[: spec.n_mfcc].T[:rows]
        if spec.chroma:
            tuning = self._tuning.estimate(self._power) if self._tuning else 0
            np.matmul(self._power, banks.chroma[tuning].T, out=self._chroma)
            self._normalize(self._chroma)
            chroma[...] = self._chroma[:rows]
        if spec.n_mels:
            np.matmul(banks.mel, self._power.T, out=self._mels)
            if spec.mel != "power":
                _power_to_db(self._mels, relative=spec.mel == "db_max")
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


class FastCore:
    """The definition within 1e-4, with new frames only where windows share them.

    A frame that lies inside its window with all its samples is a frame of the stream: where
    the distance of frames divides that of windows, the next window has it too, and its values
    are kept (`power` and mel in dB, before anything that depends on the whole window). Frames
    at the window's edges, half of them zeros, are its own.

    So that a frame's bits are those of its samples alone, everything is computed in batches of
    one shape, and a frame has the same row in whatever batch it is computed: rows never mix,
    but BLAS and SIMD may treat them differently. Values are reused only after a look at the
    very samples they were made of; a restart, a jump or another stream needs no word.

    No array is allocated per window but the one returned, if `out` is not given.
    """

    def __init__(self, spec: FeatureSpec, banks: Banks, workshop: _Workshop | None = None) -> None:
        self._spec = spec
        self._banks = banks
        self._workshop = workshop or _Workshop(spec, banks)
        if not self._workshop.new:
            return
        self._values, self._older = (_Values.of(spec, spec.natural_frames) for _ in range(2))
        # What the window before has in common with the next one.
        shared = spec.window - spec.hop
        self._common = np.empty(shared, np.float32)
        self._same = np.empty(shared, np.bool_)
        self._filled = False

    @property
    def keeps_frames(self) -> bool:
        """Whether neighbouring windows share frames, as the spec decides."""
        return self._workshop.new > 0

    def extract(self, window: Samples, out: Samples | None = None) -> Samples:
        out = _output(self._spec, out)
        shop = self._workshop
        shop.samples[...] = window
        if shop.new:
            self._advance(window)
            shop.finish(self._values, out)
        else:
            shop.compute(0, 0, self._spec.natural_frames)
            shop.finish(shop.values, out)
        return out

    def stream(self) -> FastCore:
        return FastCore(self._spec, self._banks, self._workshop)

    def _advance(self, window: Samples) -> None:
        """Fill `_values` for the next window: what is known, what is not, the edges."""
        shop, frames, new = self._workshop, self._spec.natural_frames, self._workshop.new
        self._values, self._older = self._older, self._values
        values, (first, behind) = self._values, shop.inside
        known = behind - new
        if self._filled and self._continues(window):
            values.take(first, self._older, first + new, known - first)
        else:
            # As the windows before would have done it, without their edges.
            for start in range(known - new, first - new, -new):
                begin = max(start, first)
                row, count = first + begin - start, start + new - begin
                shop.compute(begin, row, count)
                values.take(begin, shop.values, row, count)
        shop.place(0, 0, first)
        shop.compute(known, first, frames - known)
        values.take(0, shop.values, 0, first)
        values.take(known, shop.values, first, frames - known)
        np.copyto(self._common, window[self._spec.hop :])
        self._filled = True

    def _continues(self, window: Samples) -> bool:
        common = self._common.view(np.int32)
        np.equal(window[: len(common)].view(np.int32), common, out=self._same)
        return bool(self._same.all())


@dataclasses.dataclass(frozen=True)
class _Values:
    """What frames have that no other frame changes; a part the spec leaves out has no columns.

    Attributes:
        mfcc: mels of which the MFCC are made, in dB, float32, (frames, 128 or 0).
        chroma: over the frame's largest, (frames, 12 or 0).
        mel: in dB, or as it is if the spec wants power, (frames, n_mels).
    """

    mfcc: Samples
    chroma: Samples
    mel: Samples

    @classmethod
    def of(cls, spec: FeatureSpec, frames: int) -> Self:
        widths = MFCC_MELS if spec.n_mfcc else 0, N_CHROMA if spec.chroma else 0, spec.n_mels
        return cls(*(np.empty((frames, width), np.float32) for width in widths))

    def take(self, at: int, other: _Values, start: int, count: int) -> None:
        """Copy `count` frames of another, from `start` on, to `at`."""
        self.mfcc[at : at + count] = other.mfcc[start : start + count]
        self.chroma[at : at + count] = other.chroma[start : start + count]
        self.mel[at : at + count] = other.mel[start : start + count]


class _Workshop:
    """The buffers of `FastCore`, of use to one window at a time, whatever its stream.

    Attributes:
        samples: where the window goes, (spec.window,).
        inside: the first frame whose samples all lie in the window, and that behind the last.
        new: frames inside a window that the one before it has not; 0: none are kept.
        values: of the batch of frames last computed.
    """

    def __init__(self, spec: FeatureSpec, banks: Banks) -> None:
        frames, half, bins = spec.natural_frames, spec.n_fft // 2, 1 + spec.n_fft // 2
        self._spec = spec
        self.samples, self._framed = _centred(spec)
        self.inside = -(-half // spec.hop_length), 1 + (spec.window - half) // spec.hop_length
        first, behind = self.inside
        new = spec.hop // spec.hop_length
        kept = spec.hop % spec.hop_length == 0 and 0 < new < behind - first
        self.new = new if kept else 0
        rows = first + new + frames - behind if kept else frames
        # Cepstra sum what float32 gets wrong in the quiet bands of 128 into values near zero.
        precise = spec.n_mfcc > 0
        # In full, one row a frame: numpy takes memory for what it has to repeat or convert.
        shape = rows, spec.n_fft
        self._window = np.empty(shape, np.float64 if precise else np.float32)
        self._window[...] = banks.window
        self._windowed = np.zeros_like(self._window)
        self._spectrum = np.empty((rows, bins), np.complex64)
        self._transformed = np.empty((rows, bins), np.complex128) if precise else self._spectrum
        self._power = np.empty((rows, bins), np.float32)
        self.values = _Values.of(spec, rows)
        self._products = [
            *_products(self._power, banks.mfcc_mel, self.values.mfcc),
            *_products(self._power, banks.mel, self.values.mel),
        ]
        for bank in banks.chroma:
            self._products.append((self._power, np.ascontiguousarray(bank.T), self.values.chroma))
        self._normalize = _Normalizer(rows)
        self._mels = np.empty((frames, MFCC_MELS if spec.n_mfcc else 0), np.float32)
        self._cepstra = np.empty_like(self._mels)
        self._scaled = np.empty((frames, spec.n_mels), np.float32)

    def place(self, frame: int, row: int, count: int) -> None:
        """Window `count` frames of `samples` into the rows of the batch from `row` on."""
        rows = self._windowed[row : row + count]
        np.copyto(rows, self._framed[frame : frame + count])
        np.multiply(rows, self._window[:count], out=rows)

    def compute(self, frame: int, row: int, count: int) -> None:
        """Place some frames, and fill `values` for the whole batch."""
        self.place(frame, row, count)
        pocketfft.rfft(self._windowed, self._transformed)
        if self._transformed is not self._spectrum:
            np.copyto(self._spectrum, self._transformed, casting="same_kind")
        np.abs(self._spectrum, out=self._power)
        np.square(self._power, out=self._power)
        for power, bank, values in self._products:
            np.matmul(power, bank, out=values)
        if self._spec.n_mfcc:
            _to_db(self.values.mfcc)
        if self._spec.chroma:
            self._normalize(self.values.chroma)
        if self._spec.n_mels and self._spec.mel != "power":
            _to_db(self.values.mel)

    def finish(self, values: _Values, out: Samples) -> None:
        """A window's features of its frames' values: what depends on all of them."""
        spec = self._spec
        rows = min(len(out), spec.natural_frames)
        mfcc, chroma, mel = (part[:rows] for part in _parts(spec, out))
        if spec.n_mfcc:
            np.maximum(values.mfcc, values.mfcc.max() - TOP_DB, out=self._mels)
            pocketfft.dct(self._mels, 1, self._cepstra)
            mfcc[...] = self._cepstra[:rows, : spec.n_mfcc]
        if spec.chroma:
            chroma[...] = values.chroma[:rows]
        if spec.n_mels:
            scaled = values.mel
            if spec.mel != "power":
                largest = values.mel.max()
                scaled = np.maximum(values.mel, largest - TOP_DB, out=self._scaled)
                if spec.mel == "db_max":
                    scaled -= largest
            mel[...] = scaled[:rows]


BANDS = 16
"""A mel bank is mostly zeros. So many of its bands are multiplied at once, with the bins of any
of them."""


def _products(
    power: Samples, bank: Samples, values: Samples
) -> list[tuple[Samples, Samples, Samples]]:
    """`values = power @ bank.T` as products of columns of `power` and parts of the bank.

    Args:
        power: (rows, bins).
        bank: mel bank, (any, bins).
        values: (rows, any).

    Returns:
        What to multiply with what, and the columns of `values` it gives.
    """
    products = []
    for start in range(0, len(bank), BANDS):
        part = bank[start : start + BANDS]
        used = np.flatnonzero(part.any(axis=0))
        # A band narrower than a bin has none; zero times one bin is zero as well.
        low, high = (used[0], used[-1] + 1) if len(used) else (0, 1)
        products.append(
            (
                power[:, low:high],
                np.ascontiguousarray(part[:, low:high].T),
                values[:, start : start + len(part)],
            )
        )
    return products


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


def _centred(spec: FeatureSpec) -> tuple[Samples, Samples]:
    """A buffer for a window's samples, (spec.window,), and its frames, (frames, n_fft).

    librosa's STFT is centred: half a frame of zeros before and behind, written once.
    """
    padded = np.zeros(spec.window + spec.n_fft, np.float32)
    framed = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop_length]
    return padded[spec.n_fft // 2 :][: spec.window], framed


def _output(spec: FeatureSpec, out: Samples | None) -> Samples:
    """Where a window's features go, zeros below its natural frames."""
    if out is None:
        out = np.empty((spec.n_frames, spec.dims), np.float32)
    out[spec.natural_frames :] = 0.0
    return out


def _parts(spec: FeatureSpec, out: Samples) -> tuple[Samples, Samples, Samples]:
    """The columns of MFCC, chroma and mel, of features (any, dims)."""
    chroma = spec.n_mfcc + (N_CHROMA if spec.chroma else 0)
    return out[:, : spec.n_mfcc], out[:, spec.n_mfcc : chroma], out[:, chroma:]


def _to_db(power: Samples) -> None:
    """librosa.power_to_db in place, relative to 1.0, without its limit to a range."""
    np.maximum(AMIN, power, out=power)
    np.log10(power, out=power)
    power *= 10.0


def _power_to_db(power: Samples, *, relative: bool = False) -> None:
    """librosa.power_to_db in place, relative to 1.0 or to the largest power."""
    largest = power.max()
    _to_db(power)
    if relative:
        power -= 10.0 * np.log10(np.maximum(AMIN, largest))
    np.maximum(power, power.max() - TOP_DB, out=power)


class _Normalizer:
    """librosa.util.normalize of every frame to its largest value, in place."""

    def __init__(self, frames: int) -> None:
        self._largest = np.empty((frames, 1), np.float32)
        self._none = np.empty((frames, 1), np.bool_)

    def __call__(self, chroma: Samples) -> None:
        """`chroma` has shape (frames, 12)."""
        np.max(chroma, axis=1, keepdims=True, out=self._largest)
        # What is all but zero is divided by one.
        np.less(self._largest, np.finfo(np.float32).tiny, out=self._none)
        np.add(self._largest, self._none, out=self._largest)
        chroma /= self._largest


def normalize(
    features: Samples, mean: Samples, std: Samples, eps: float, out: Samples | None = None
) -> Samples:
    """Standardize features (frames, dims) with statistics (dims,) or (frames, dims).

    Args:
        out: takes them, and may be `features`; None: a new array does.
    """
    centred: Samples = np.subtract(features, mean, out=out)
    np.divide(centred, std + eps, out=centred)
    return centred

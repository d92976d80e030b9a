"""A batch of STFT frames and their values, in buffers that all streams share."""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np

from speech_emotion.common.bundle.spec import N_CHROMA, FeatureSpec
from speech_emotion.features.core import pocketfft
from speech_emotion.features.core.banks import MFCC_MELS, Banks
from speech_emotion.features.core.decibel import TOP_DB, to_db
from speech_emotion.features.core.layout import Samples, centred_frames, feature_columns
from speech_emotion.features.core.normalize import ChromaNormalizer

BANDS = 16
"""Bands of a mel bank per matrix product. The bank is mostly zeros, so each product takes only
the spectrum bins that its bands use."""


@dataclasses.dataclass(frozen=True)
class FrameValues:
    """The values of frames that depend on no other frame. A part that the spec omits is empty.

    Attributes:
        mfcc: mel bands from which the MFCC are computed, in dB, float32, (frames, 128 or 0).
        chroma: divided by the frame's maximum, (frames, 12 or 0).
        mel: in dB, or power if the spec asks for power, (frames, n_mels).
    """

    mfcc: Samples
    chroma: Samples
    mel: Samples

    @classmethod
    def empty(cls, spec: FeatureSpec, frames: int) -> Self:
        widths = MFCC_MELS if spec.n_mfcc else 0, N_CHROMA if spec.chroma else 0, spec.n_mels
        return cls(*(np.empty((frames, width), np.float32) for width in widths))

    def copy_from(self, row: int, source: FrameValues, start: int, count: int) -> None:
        """Copy `count` frames of `source`, from `start` on, to the rows from `row` on."""
        self.mfcc[row : row + count] = source.mfcc[start : start + count]
        self.chroma[row : row + count] = source.chroma[start : start + count]
        self.mel[row : row + count] = source.mel[start : start + count]


class FrameBatch:
    """Buffers of `FastCore` for one window at a time, of any stream.

    Attributes:
        samples: buffer for the window, (spec.window,).
        inner: range (start, stop) of the frames whose samples all lie in the window.
        new: inner frames of a window that the previous window does not have. 0: windows share
            no frames.
        values: of the batch that was computed last.
    """

    def __init__(self, spec: FeatureSpec, banks: Banks) -> None:
        frames, half, bins = spec.natural_frames, spec.n_fft // 2, 1 + spec.n_fft // 2
        self._spec = spec
        self.samples, self._framed = centred_frames(spec)
        self.inner = -(-half // spec.hop_length), 1 + (spec.window - half) // spec.hop_length
        start, stop = self.inner
        new = spec.hop // spec.hop_length
        shared = spec.hop % spec.hop_length == 0 and 0 < new < stop - start
        self.new = new if shared else 0
        rows = start + new + frames - stop if shared else frames
        # The cepstra add up float32 errors in the quiet ones of 128 bands: use float64 there.
        precise = spec.n_mfcc > 0
        # One row per frame: numpy would allocate memory to broadcast or to convert.
        shape = rows, spec.n_fft
        self._window = np.empty(shape, np.float64 if precise else np.float32)
        self._window[...] = banks.window
        self._windowed = np.zeros_like(self._window)
        self._spectrum = np.empty((rows, bins), np.complex64)
        self._transformed = np.empty((rows, bins), np.complex128) if precise else self._spectrum
        self._power = np.empty((rows, bins), np.float32)
        self.values = FrameValues.empty(spec, rows)
        self._products = [
            *_band_products(self._power, banks.mfcc_mel, self.values.mfcc),
            *_band_products(self._power, banks.mel, self.values.mel),
        ]
        for bank in banks.chroma:
            self._products.append((self._power, np.ascontiguousarray(bank.T), self.values.chroma))
        self._normalize_chroma = ChromaNormalizer(rows)
        self._mels = np.empty((frames, MFCC_MELS if spec.n_mfcc else 0), np.float32)
        self._cepstra = np.empty_like(self._mels)
        self._scaled = np.empty((frames, spec.n_mels), np.float32)

    def place(self, frame: int, row: int, count: int) -> None:
        """Window `count` frames of `samples` into the rows of the batch from `row` on."""
        rows = self._windowed[row : row + count]
        np.copyto(rows, self._framed[frame : frame + count])
        np.multiply(rows, self._window[:count], out=rows)

    def compute(self, frame: int, row: int, count: int) -> None:
        """Place frames as `place` does, then fill `values` for the whole batch."""
        self.place(frame, row, count)
        pocketfft.rfft(self._windowed, self._transformed)
        if self._transformed is not self._spectrum:
            np.copyto(self._spectrum, self._transformed, casting="same_kind")
        np.abs(self._spectrum, out=self._power)
        np.square(self._power, out=self._power)
        for power, bank, values in self._products:
            np.matmul(power, bank, out=values)
        if self._spec.n_mfcc:
            to_db(self.values.mfcc)
        if self._spec.chroma:
            self._normalize_chroma(self.values.chroma)
        if self._spec.n_mels and self._spec.mel != "power":
            to_db(self.values.mel)

    def assemble(self, values: FrameValues, out: Samples) -> None:
        """Write a window's features to `out`: the steps that depend on all its frames."""
        spec = self._spec
        rows = min(len(out), spec.natural_frames)
        mfcc, chroma, mel = (part[:rows] for part in feature_columns(spec, out))
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


def _band_products(
    power: Samples, bank: Samples, values: Samples
) -> list[tuple[Samples, Samples, Samples]]:
    """`values = power @ bank.T` as products of `BANDS` bands each.

    Args:
        power: (rows, bins).
        bank: mel bank, (any, bins).
        values: (rows, any).

    Returns:
        For each product the columns of `power`, the part of the bank, the columns of `values`.
    """
    products = []
    for start in range(0, len(bank), BANDS):
        part = bank[start : start + BANDS]
        used = np.flatnonzero(part.any(axis=0))
        # Bands narrower than a bin may use no bin at all: multiply one bin by zero.
        low, high = (used[0], used[-1] + 1) if len(used) else (0, 1)
        products.append(
            (
                power[:, low:high],
                np.ascontiguousarray(part[:, low:high].T),
                values[:, start : start + len(part)],
            )
        )
    return products

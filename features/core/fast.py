"""`FastCore`: the reference features within 1e-4, with a cache of the frames that windows share."""

from __future__ import annotations

import numpy as np

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core.banks import Banks
from speech_emotion.features.core.frame_batch import FrameBatch, FrameValues
from speech_emotion.features.core.layout import Samples, output_matrix


class FastCore:
    """The reference within 1e-4. Computes only the frames that the previous window lacks.

    An inner frame, all of whose samples lie in its window, is a frame of the stream. Where the
    hop of frames divides the hop of windows, the next window has the same frame, and its values
    are cached (power and mel in dB, before any step that depends on the whole window). The
    frames at the edges of the window, half of them zeros, belong to one window only.

    The bits of a frame depend on its samples alone. To guarantee this, every batch has the same
    shape, and a frame has the same row in every batch that computes it: rows never mix, but
    BLAS and SIMD may treat them differently. The cache is used only after its samples were
    compared with the new window's, so a restart, a jump or another stream needs no reset.

    `extract` allocates no array except the result, if `out` is not given.
    """

    def __init__(self, spec: FeatureSpec, banks: Banks, batch: FrameBatch | None = None) -> None:
        self._spec = spec
        self._banks = banks
        self._batch = batch or FrameBatch(spec, banks)
        if not self._batch.new:
            return
        self._values, self._previous = (
            FrameValues.empty(spec, spec.natural_frames) for _ in range(2)
        )
        # The samples that the previous window shares with the next one.
        shared = spec.window - spec.hop
        self._common = np.empty(shared, np.float32)
        self._equal = np.empty(shared, np.bool_)
        self._filled = False

    @property
    def keeps_frames(self) -> bool:
        """Whether consecutive windows share frames; the spec decides."""
        return self._batch.new > 0

    def extract(self, window: Samples, out: Samples | None = None) -> Samples:
        out = output_matrix(self._spec, out)
        batch = self._batch
        batch.samples[...] = window
        if batch.new:
            self._advance(window)
            batch.assemble(self._values, out)
        else:
            batch.compute(0, 0, self._spec.natural_frames)
            batch.assemble(batch.values, out)
        return out

    def stream(self) -> FastCore:
        return FastCore(self._spec, self._banks, self._batch)

    def _advance(self, window: Samples) -> None:
        """Fill `_values` for the next window: cached frames, new frames, edges."""
        batch, frames, new = self._batch, self._spec.natural_frames, self._batch.new
        self._values, self._previous = self._previous, self._values
        values, (start, stop) = self._values, batch.inner
        known = stop - new
        if self._filled and self._continues(window):
            values.copy_from(start, self._previous, start + new, known - start)
        else:
            # In the batches of the previous windows, without their edges.
            for batch_start in range(known - new, start - new, -new):
                begin = max(batch_start, start)
                row, count = start + begin - batch_start, batch_start + new - begin
                batch.compute(begin, row, count)
                values.copy_from(begin, batch.values, row, count)
        batch.place(0, 0, start)
        batch.compute(known, start, frames - known)
        values.copy_from(0, batch.values, 0, start)
        values.copy_from(known, batch.values, start, frames - known)
        np.copyto(self._common, window[self._spec.hop :])
        self._filled = True

    def _continues(self, window: Samples) -> bool:
        common = self._common.view(np.int32)
        np.equal(window[: len(common)].view(np.int32), common, out=self._equal)
        return bool(self._equal.all())

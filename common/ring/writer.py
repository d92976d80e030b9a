"""The writer of a ring."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity
from speech_emotion.common.ring.attached import AttachedRing
from speech_emotion.common.ring.layout import (
    ANCHOR_IN_USE,
    ANCHORS,
    FOLDER,
    GENERATION,
    INDEX,
    MAX_GAPS,
    TABLES,
    WRITER_PID,
    WRITER_STARTED,
)

if TYPE_CHECKING:
    from speech_emotion.common.ring.attached import Samples


class RingWriter(AttachedRing):
    """The one writer of a ring. A later writer continues where this one ends or was killed.

    Attributes:
        lost: samples declared missing so far, by earlier writers too.
    """

    def __init__(self, name: str) -> None:
        import numpy as np

        super().__init__(name)
        try:
            with open(FOLDER / name, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # admits one of two writers that start at once
                self._become_writer()
        except (OSError, UserError):
            super().close()
            raise
        # Most samples that are written before the index is stored.
        self._chunk = self._margin // 2
        self._silence: Samples = np.zeros(self._chunk, np.float32)
        self._table, self.lost, self._gaps = self._read_table()
        # Invalidate a table that a killed writer left half written.
        self._words[TABLES[1 - self._table]] = -1

    def _become_writer(self) -> None:
        words = self._words
        writer = ProcessIdentity(words[WRITER_PID], words[WRITER_STARTED])
        if writer.alive():
            raise UserError(f"ring {self.name}: process {writer.pid} writes to it; stop it first")
        current = ProcessIdentity.current()
        words[WRITER_PID], words[WRITER_STARTED] = current.pid, current.started
        words[GENERATION] += 1

    def close(self) -> None:
        """Detach, so that another writer can attach."""
        if not self._closed:
            self._words[WRITER_PID] = self._words[WRITER_STARTED] = 0
        super().close()

    def set_anchor(self, index: int, monotonic: float, unix: float) -> None:
        """Tie a sample index to both clocks."""
        other = 1 - self._words[ANCHOR_IN_USE]
        at = ANCHORS[other]
        self._words[at], self._times[at + 1], self._times[at + 2] = index, monotonic, unix
        self._words[ANCHOR_IN_USE] = other

    def write(self, samples: Samples) -> None:
        """Append samples, float32 of shape (any,)."""
        if samples.ndim != 1 or samples.dtype != self._dtype:
            raise ValueError(f"samples must be float32 (n,), not {samples.dtype} {samples.shape}")
        n, words = len(samples), self._words
        index = words[INDEX]
        slot = index % self.capacity
        if n <= self._chunk and slot + n <= self.capacity:  # the usual case
            self._samples[slot : slot + n] = samples
            words[INDEX] = index + n
            return
        for at in range(0, n, self._chunk):
            block = samples[at : at + self._chunk]
            self._put(block)
            words[INDEX] += len(block)

    def gap(self, n: int) -> None:
        """Append `n` missing samples: zeros, and a span in `gaps()`."""
        zeros = min(n, self.capacity)
        for at in range(0, zeros, self._chunk):
            block = self._silence[: zeros - at]
            self._put(block)
            self._declare(len(block))
        if n > zeros:  # the whole ring is zeros
            self._declare(n - zeros)

    def gaps(self) -> list[tuple[int, int]]:
        """Spans [a, b) of missing samples that the ring still holds at least in part, in order.

        A span is complete even if its beginning is overwritten. Of more than 64 spans, the two
        with the smallest distance were merged.
        """
        oldest = self.index - self.capacity
        return [(a, b) for a, b in self._gaps if b > oldest]

    def _put(self, block: Samples) -> None:
        """Store samples after the write index, at most a chunk, without moving the index."""
        slot = self.index % self.capacity
        first = min(len(block), self.capacity - slot)
        self._samples[slot : slot + first] = block[:first]
        self._samples[: len(block) - first] = block[first:]

    def _declare(self, n: int) -> None:
        """Enter the `n` samples after the write index as missing, and move the index."""
        start, end = self.index, self.index + n
        self._gaps = add_span(self.gaps(), start, end)
        self.lost += n
        self._table = 1 - self._table
        until = TABLES[self._table]
        bounds = [bound for span in self._gaps for bound in span]
        for at, value in enumerate((self.lost, len(self._gaps), *bounds), until + 1):
            self._words[at] = value
        self._words[until] = end
        self._words[INDEX] = end


def add_span(spans: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """Append [start, end) to `spans`, which are in order and disjoint; at most `MAX_GAPS`."""
    if spans and spans[-1][1] == start:
        return [*spans[:-1], (spans[-1][0], end)]
    spans = [*spans, (start, end)]
    if len(spans) > MAX_GAPS:
        i = min(range(MAX_GAPS), key=lambda i: spans[i + 1][0] - spans[i][1])
        spans[i : i + 2] = [(spans[i][0], spans[i + 1][1])]
    return spans

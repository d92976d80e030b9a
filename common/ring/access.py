"""Write and read a ring."""

from __future__ import annotations

import fcntl
from types import TracebackType
from typing import TYPE_CHECKING, Self

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]
from speech_emotion.common.ring.layout import (
    _ANCHOR_IN_USE,
    _ANCHORS,
    _GENERATION,
    _HEADER_BYTES,
    _INDEX,
    _NAME,
    _TABLES,
    _WRITER_PID,
    _WRITER_STARTED,
    FOLDER,
    MAX_GAPS,
    _buffer,
    _header,
    _read_fixed,
    _shared_memory,
)


class _Ring:
    """An attached ring: what writer and reader have in common.

    Attributes:
        name, run: the segment's name and the run id.
        sample_rate, capacity: Hz, samples.
    """

    _closed = True

    def __init__(self, name: str) -> None:
        import numpy as np

        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} is not the name of a ring")
        try:
            segment = _shared_memory(name)
        except FileNotFoundError:
            raise UserError(f"ring {name}: is not there; has its owner ended?") from None
        except (OSError, ValueError) as error:
            raise UserError(f"ring {name}: cannot be attached ({error})") from None
        try:
            rate, capacity, run = _read_fixed(name, segment)
        except UserError:
            segment.close()
            raise
        self.name = name
        self.run = run
        self.sample_rate = rate
        self.capacity = capacity
        self._margin = rate // 2
        self._segment = segment
        self._words = _header(segment).cast("q")
        self._times = _header(segment).cast("d")
        self._samples: Samples = np.frombuffer(
            _buffer(segment), "<f4", count=capacity, offset=_HEADER_BYTES
        )
        self._dtype = self._samples.dtype
        self._closed = False

    @classmethod
    def attach(cls, name: str) -> Self:
        """Attach a ring by its name.

        Raises:
            UserError: there is none, it is not of our layout or of this boot, or, for a
                writer, it has one that lives.
        """
        return cls(name)

    @property
    def generation(self) -> int:
        """How many writers this ring has had."""
        return self._words[_GENERATION]

    @property
    def index(self) -> int:
        """Absolute index behind the last sample written."""
        return self._words[_INDEX]

    @property
    def anchor(self) -> tuple[int, float, float]:
        """Sample index, CLOCK_MONOTONIC and unix time of one moment; times 0.0 if never set."""
        at = _ANCHORS[self._words[_ANCHOR_IN_USE]]
        return self._words[at], self._times[at + 1], self._times[at + 2]

    def _read_table(self) -> tuple[int, int, list[tuple[int, int]]]:
        """Which gap table holds, the lost samples and the spans in it."""
        ends = [self._words[until] for until in _TABLES]
        table = max((0, 1), key=lambda i: -1 if ends[i] > self.index else ends[i])
        _, lost, count, *bounds = self._words[_TABLES[table] : _TABLES[table] + 3 + 2 * MAX_GAPS]
        bounds = bounds[: 2 * count]
        return table, lost, list(zip(bounds[::2], bounds[1::2], strict=True))

    def close(self) -> None:
        """Detach; does nothing the second time."""
        if not self._closed:
            self._closed = True
            del self._samples  # memory with a view of it cannot be unmapped
            self._words.release()
            self._times.release()
            self._segment.close()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class RingWriter(_Ring):
    """The one writer of a ring; a later one goes on where this one ends or was killed.

    Attributes:
        lost: samples ever declared missing, by earlier writers too.
    """

    def __init__(self, name: str) -> None:
        import numpy as np

        super().__init__(name)
        try:
            with open(FOLDER / name, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # of two at once, one gets in
                self._become_writer()
        except (OSError, UserError):
            super().close()
            raise
        # While the index stands still, no more than this is written.
        self._chunk = self._margin // 2
        self._silence: Samples = np.zeros(self._chunk, np.float32)
        self._table, self.lost, self._gaps = self._read_table()
        # One that a killed writer left must not hold later.
        self._words[_TABLES[1 - self._table]] = -1

    def _become_writer(self) -> None:
        words = self._words
        writer = ProcessIdentity(words[_WRITER_PID], words[_WRITER_STARTED])
        if writer.alive():
            raise UserError(f"ring {self.name}: process {writer.pid} writes to it; stop it first")
        us = ProcessIdentity.current()
        words[_WRITER_PID], words[_WRITER_STARTED] = us.pid, us.started
        words[_GENERATION] += 1

    def close(self) -> None:
        """Detach, and let another writer in."""
        if not self._closed:
            self._words[_WRITER_PID] = self._words[_WRITER_STARTED] = 0
        super().close()

    def set_anchor(self, index: int, monotonic: float, unix: float) -> None:
        """Tie a sample index to both clocks."""
        other = 1 - self._words[_ANCHOR_IN_USE]
        at = _ANCHORS[other]
        self._words[at], self._times[at + 1], self._times[at + 2] = index, monotonic, unix
        self._words[_ANCHOR_IN_USE] = other

    def write(self, samples: Samples) -> None:
        """Append samples, float32 of shape (any,)."""
        if samples.ndim != 1 or samples.dtype != self._dtype:
            raise ValueError(f"samples must be float32 (n,), not {samples.dtype} {samples.shape}")
        n, words = len(samples), self._words
        index = words[_INDEX]
        slot = index % self.capacity
        if n <= self._chunk and slot + n <= self.capacity:  # as nearly always
            self._samples[slot : slot + n] = samples
            words[_INDEX] = index + n
            return
        for at in range(0, n, self._chunk):
            block = samples[at : at + self._chunk]
            self._put(block)
            words[_INDEX] += len(block)

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
        """Spans [a, b) of missing samples of which the ring still holds any, in order.

        A span is whole even where its beginning is overwritten. Of more than 64, those
        closest to each other have become one.
        """
        oldest = self.index - self.capacity
        return [(a, b) for a, b in self._gaps if b > oldest]

    def _put(self, block: Samples) -> None:
        """Store samples behind the write index, at most a chunk, and leave the index."""
        slot = self.index % self.capacity
        first = min(len(block), self.capacity - slot)
        self._samples[slot : slot + first] = block[:first]
        self._samples[: len(block) - first] = block[first:]

    def _declare(self, n: int) -> None:
        """Enter the `n` samples behind the write index as missing, and move the index."""
        start, end = self.index, self.index + n
        self._gaps = add_span(self.gaps(), start, end)
        self.lost += n
        self._table = 1 - self._table
        until = _TABLES[self._table]
        bounds = [bound for span in self._gaps for bound in span]
        for at, value in enumerate((self.lost, len(self._gaps), *bounds), until + 1):
            self._words[at] = value
        self._words[until] = end
        self._words[_INDEX] = end


class RingReader(_Ring):
    """A reader of a ring; the writer does not know of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._samples.flags.writeable = False

    def read(self, start: int, out: Samples, announced: int) -> bool:
        """Copy samples [start, start + len(out)) to `out`, float32 of shape (any,).

        Args:
            announced: a position up to which a message says that samples are there; the
                span may not go beyond it.

        Returns:
            False if the span was overwritten or nearly so; `out` may then hold anything.
        """
        if start < 0 or start + len(out) > announced:
            raise ValueError(f"[{start}, {start + len(out)}) is not below {announced}")
        if not self._holds(start, announced):
            return False
        slot = start % self.capacity
        first = min(len(out), self.capacity - slot)
        out[:first] = self._samples[slot : slot + first]
        out[first:] = self._samples[: len(out) - first]
        return self._holds(start, announced)

    def gaps(self) -> list[tuple[int, int]]:
        """Spans [a, b) that the writer has declared missing, in order.

        Asked again until two answers agree: the writer may be at work on the table.
        """
        table, then = self._read_table(), None
        while table != then:
            table, then = self._read_table(), table
        return table[2]

    def _holds(self, start: int, announced: int) -> bool:
        newest = max(announced, self.index)
        return start >= newest - self.capacity + self._margin


def add_span(spans: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """`spans`, in order and disjoint, and [start, end) behind them; at most `MAX_GAPS`."""
    if spans and spans[-1][1] == start:
        return [*spans[:-1], (spans[-1][0], end)]
    spans = [*spans, (start, end)]
    if len(spans) > MAX_GAPS:
        i = min(range(MAX_GAPS), key=lambda i: spans[i + 1][0] - spans[i][1])
        spans[i : i + 2] = [(spans[i][0], spans[i + 1][1])]
    return spans

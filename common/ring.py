"""The ring: the last seconds of one stream's samples in shared memory.

One writer, any number of readers, float32 mono, the oldest samples overwritten. Nobody waits
and nobody locks: sample i of the stream lies in slot i % capacity, the writer stores the
samples first and the write index behind them, and a reader copies first and then asks
whether the writer has come too close meanwhile.

Stores in shared memory are not seen in order by every processor (aarch64), and Python has no
fences. Two rules make up for it: a reader never goes beyond a position that was announced to
it in a message, and a span less than half a second from being overwritten counts as
overwritten. The writer stores its index at least every quarter of a second of samples, so
what it may be writing unseen is well inside that half second.

The segment is `/dev/shm/sep.<pid>.<start time>.<stream>`, named after its owner, so that the
segments of dead owners are found without opening one. It holds a header of 4096 bytes, then
`capacity` samples. The header is little-endian:

    offset  type   field
         0  8s     magic
         8  u32    layout version
        12  u32    sample rate in Hz
        16  i64    capacity in samples
        24  16s    run id, 16 hex digits
        40  36s    boot id of the machine
        80  2 i64  owner: pid, start time
        96  2 i64  writer: pid, start time; 0, 0: none
       112  i64    generation: how many writers there have been
       120  i64    write index: the absolute index behind the last sample
       128  i64    which of the two anchors is in use
       136  2 x    anchor: i64 index, f64 CLOCK_MONOTONIC, f64 unix time
       184  2 x    gap table: i64 until, i64 lost, i64 count, 64 spans of i64 a, i64 b

A writer may be killed between any two stores. So what is larger than one store exists twice,
the copy not in use is written, and one store makes it the one in use: for an anchor that of
its number, for a gap table that of the write index. The table in use is the one with the
greatest `until` not beyond the write index, and each is written with a greater one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import sys
import threading
from multiprocessing import resource_tracker, shared_memory
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from common.errors import UserError
from common.process import ProcessIdentity, boot_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]

FOLDER = Path("/dev/shm")
LAYOUT = 1
MAX_GAPS = 64

_PREFIX = "sep."
_NAME = re.compile(r"sep\.([0-9]+\.[0-9]+)\.[a-z0-9_-]+")
_MAGIC = b"SEP-RING"
_HEADER_BYTES = 4096
_SAMPLE_BYTES = 4
_FIXED = struct.Struct("<8sIIq16s36s4x2q")

# The fields that change are 8 bytes each and aligned, so that one is stored at once: their
# places in a header seen as int64 (or float64).
_WRITER_PID, _WRITER_STARTED, _GENERATION, _INDEX, _ANCHOR_IN_USE = 12, 13, 14, 15, 16
_ANCHORS = (17, 20)
_TABLES = (23, 26 + 2 * MAX_GAPS)


# The segment ----------------------------------------------------------------------------


class RingOwner:
    """A ring that this process made and takes away again. A context manager.

    Attributes:
        name: what writers and readers attach by.
        run: the stream's run id.
    """

    def __init__(self, name: str, run: str) -> None:
        self.name = name
        self.run = run

    def unlink(self) -> None:
        """Remove the name; who is attached keeps the memory. Does nothing the second time."""
        with contextlib.suppress(FileNotFoundError):
            (FOLDER / self.name).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unlink()


def create_ring(
    stream: str, *, sample_rate: int, capacity: int, run: str, start_index: int = 0
) -> RingOwner:
    """Make the ring of a stream, owned by this process, all its memory set aside.

    Args:
        stream: the stream's name.
        sample_rate: Hz.
        capacity: samples, at least one second of them.
        run: run id, 16 hex digits.
        start_index: absolute index of the first sample that will be written.

    Raises:
        UserError: too little room in /dev/shm, or the ring exists.
    """
    if sample_rate < 4 or capacity < sample_rate or start_index < 0 or len(run) != 16:
        raise ValueError(f"no ring: {sample_rate=}, {capacity=}, {start_index=}, {run=}")
    owner = ProcessIdentity.current()
    name = f"{_PREFIX}{owner}.{stream}"
    if not _NAME.fullmatch(name):
        raise UserError(f"stream {stream!r}: a name is one or more of a-z, 0-9, _ and -")
    size = _HEADER_BYTES + _SAMPLE_BYTES * capacity
    try:
        room = os.statvfs(FOLDER)
        free = room.f_bavail * room.f_frsize
        if free < size and room.f_blocks:  # a tmpfs without a limit has no blocks
            raise _too_little_room(stream, size, free)
        segment = _shared_memory(name, size)
    except FileExistsError:
        raise UserError(f"{FOLDER / name}: exists; a stream has one ring") from None
    except OSError as error:
        raise UserError(f"{FOLDER}: no shared memory to be had ({error.strerror})") from None
    ring = RingOwner(name, run)
    try:
        _set_aside(FOLDER / name, size)
        with _header(segment).cast("q") as words:
            words[_INDEX] = words[_ANCHORS[0]] = start_index
            if start_index:  # what is before it never was: a gap, of which nothing was lost
                until = _TABLES[0]
                words[until], words[until + 2], words[until + 4] = start_index, 1, start_index
            words[_TABLES[1]] = -1
        fixed = (sample_rate, capacity, run.encode(), boot_id().encode(), owner.pid, owner.started)
        _FIXED.pack_into(_header(segment), 0, _MAGIC, LAYOUT, *fixed)
    except OSError:
        ring.unlink()
        raise _too_little_room(stream, size, free) from None
    finally:
        segment.close()
    return ring


def reclaim_segments() -> list[str]:
    """Unlink the rings of owners that are gone; returns their names.

    Who shares a /dev/shm must share a pid namespace too, to know each other alive.
    """
    removed = []
    for path in sorted(FOLDER.glob(f"{_PREFIX}*")):
        match = _NAME.fullmatch(path.name)
        owner = match and ProcessIdentity.parse(match[1])
        if owner is None or owner.alive():
            continue
        with contextlib.suppress(OSError):  # another user's, or gone already
            path.unlink()
            removed.append(path.name)
    return removed


def _too_little_room(stream: str, size: int, free: int) -> UserError:
    return UserError(
        f"stream {stream}: its ring needs {size} bytes in {FOLDER}, {free} are free; "
        "make the ring shorter or give shared memory more room"
    )


def _set_aside(path: Path, size: int) -> None:
    # A tmpfs hands out pages at the first touch, and one that is full then means SIGBUS.
    fd = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


class _Untracked:
    """Stands in for the resource tracker: tells it of every segment but ours."""

    @staticmethod
    def register(name: str, rtype: str) -> None:
        if not name.startswith(f"/{_PREFIX}"):
            resource_tracker.register(name, rtype)

    @staticmethod
    def unregister(name: str, rtype: str) -> None:
        if not name.startswith(f"/{_PREFIX}"):
            resource_tracker.unregister(name, rtype)


_tracker_lock = threading.Lock()


def _shared_memory(name: str, size: int = 0) -> SharedMemory:
    """Attach a segment, or create one of `size` bytes, unknown to the resource tracker.

    The tracker of a process that only attached would unlink the segment at its end.
    """
    if sys.version_info >= (3, 13):
        return SharedMemory(name, create=size > 0, size=size, track=False)
    with _tracker_lock:
        shared_memory.resource_tracker = _Untracked  # type: ignore[attr-defined]
        try:
            return SharedMemory(name, create=size > 0, size=size)
        finally:
            shared_memory.resource_tracker = resource_tracker  # type: ignore[attr-defined]


def _buffer(segment: SharedMemory) -> memoryview:
    assert segment.buf is not None, "closed"
    return segment.buf


def _header(segment: SharedMemory) -> memoryview:
    return _buffer(segment)[:_HEADER_BYTES]


# Its users ------------------------------------------------------------------------------


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


def _read_fixed(name: str, segment: SharedMemory) -> tuple[int, int, str]:
    """Sample rate, capacity and run id of a segment that is a ring of ours."""
    if segment.size < _HEADER_BYTES:
        raise UserError(f"ring {name}: is no ring, it is too small for a header")
    magic, layout, rate, capacity, run, boot, *_ = _FIXED.unpack_from(_header(segment))
    if magic != _MAGIC:
        raise UserError(f"ring {name}: is no ring, its header is not known here")
    if layout != LAYOUT:
        raise UserError(
            f"ring {name}: has layout {layout}, this program knows {LAYOUT}; "
            "run the same version of every stage"
        )
    if boot.decode("ascii", "replace") != boot_id():
        raise UserError(f"ring {name}: is of another boot of this machine; remove it")
    if segment.size < _HEADER_BYTES + _SAMPLE_BYTES * capacity:
        raise UserError(f"ring {name}: is shorter than its header says")
    return rate, capacity, run.decode("ascii", "replace")


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

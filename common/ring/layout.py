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

import re
import struct
import sys
import threading
from multiprocessing import resource_tracker, shared_memory
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import boot_id

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

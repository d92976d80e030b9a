"""Attach or create shared-memory segments without the resource tracker of multiprocessing."""

from __future__ import annotations

import contextlib
import sys
import threading
from multiprocessing import resource_tracker, shared_memory
from multiprocessing.shared_memory import SharedMemory

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import boot_id
from speech_emotion.common.ring.layout import (
    FIXED_FIELDS,
    HEADER_BYTES,
    LAYOUT,
    MAGIC,
    NAME_PREFIX,
    SAMPLE_BYTES,
)


class _RingFilter:
    """Replacement for the resource tracker that forwards every segment except rings."""

    @staticmethod
    def register(name: str, rtype: str) -> None:
        if not name.startswith(f"/{NAME_PREFIX}"):
            resource_tracker.register(name, rtype)

    @staticmethod
    def unregister(name: str, rtype: str) -> None:
        if not name.startswith(f"/{NAME_PREFIX}"):
            resource_tracker.unregister(name, rtype)


_tracker_lock = threading.Lock()


class _Segment(SharedMemory):
    """A segment that stays mapped until the end of the process where a view of it still exists.

    A view in the frame of an exception, for example, must not end the process with a traceback.
    """

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            super().close()


def open_segment(name: str, size: int = 0) -> SharedMemory:
    """Attach a segment, or create one of `size` bytes, unknown to the resource tracker.

    The tracker of a process that only attached would unlink the segment when the process ends.
    """
    if sys.version_info >= (3, 13):
        return _Segment(name, create=size > 0, size=size, track=False)
    with _tracker_lock:
        shared_memory.resource_tracker = _RingFilter  # type: ignore[attr-defined]
        try:
            return _Segment(name, create=size > 0, size=size)
        finally:
            shared_memory.resource_tracker = resource_tracker  # type: ignore[attr-defined]


def buffer_of(segment: SharedMemory) -> memoryview:
    """The whole memory of an open segment."""
    assert segment.buf is not None, "closed"
    return segment.buf


def header_of(segment: SharedMemory) -> memoryview:
    """The header of an open segment."""
    return buffer_of(segment)[:HEADER_BYTES]


def read_fixed_fields(name: str, segment: SharedMemory) -> tuple[int, int, str]:
    """Sample rate, capacity and run id of a segment.

    Raises:
        UserError: the segment is no ring of this layout and this boot of the machine.
    """
    if segment.size < HEADER_BYTES:
        raise UserError(f"ring {name}: is no ring, it is too small for a header")
    magic, layout, rate, capacity, run, boot, *_ = FIXED_FIELDS.unpack_from(header_of(segment))
    if magic != MAGIC:
        raise UserError(f"ring {name}: is no ring, its header is not known here")
    if layout != LAYOUT:
        raise UserError(
            f"ring {name}: has layout {layout}, this program knows {LAYOUT}; "
            "run the same version of every stage"
        )
    if boot.decode("ascii", "replace") != boot_id():
        raise UserError(f"ring {name}: is of another boot of this machine; remove it")
    if segment.size < HEADER_BYTES + SAMPLE_BYTES * capacity:
        raise UserError(f"ring {name}: is shorter than its header says")
    return rate, capacity, run.decode("ascii", "replace")

"""Create and remove the shared-memory segment of a ring."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity, boot_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]
from speech_emotion.common.ring.layout import (
    _ANCHORS,
    _FIXED,
    _HEADER_BYTES,
    _INDEX,
    _MAGIC,
    _NAME,
    _PREFIX,
    _SAMPLE_BYTES,
    _TABLES,
    FOLDER,
    LAYOUT,
    _header,
    _shared_memory,
)


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

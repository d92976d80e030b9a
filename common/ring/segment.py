"""Create and remove the shared-memory segment of a ring."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity, boot_id
from speech_emotion.common.ring.layout import (
    ANCHORS,
    FIXED_FIELDS,
    FOLDER,
    HEADER_BYTES,
    INDEX,
    LAYOUT,
    MAGIC,
    NAME,
    NAME_PREFIX,
    SAMPLE_BYTES,
    TABLES,
    segment_inode,
)
from speech_emotion.common.ring.shared_memory import header_of, open_segment


class RingOwner(Closing):
    """A ring that this process created and will remove. A context manager.

    Attributes:
        name: name by which writers and readers attach.
        run: the stream's run id.
    """

    def __init__(self, name: str, run: str) -> None:
        self.name = name
        self.run = run
        self._inode = segment_inode(name)

    def removed(self) -> bool:
        """Whether another program removed the segment's name, or replaced the segment."""
        return self._inode is None or segment_inode(self.name) != self._inode

    def unlink(self) -> None:
        """Remove the name. Attached processes keep the memory. The second call does nothing."""
        with contextlib.suppress(FileNotFoundError):
            (FOLDER / self.name).unlink()

    def close(self) -> None:
        """Remove the name, as `unlink` does."""
        self.unlink()


def create_ring(
    stream: str, *, sample_rate: int, capacity: int, run: str, start_index: int = 0
) -> RingOwner:
    """Create the ring of a stream, owned by this process, with all its memory allocated.

    Args:
        stream: the stream's name.
        sample_rate: Hz.
        capacity: samples, at least one second of them.
        run: run id, 16 hex digits.
        start_index: absolute index of the first sample that will be written.

    Raises:
        UserError: /dev/shm has too little room, or the ring exists.
    """
    if sample_rate < 4 or capacity < sample_rate or start_index < 0 or len(run) != 16:
        raise ValueError(f"no ring: {sample_rate=}, {capacity=}, {start_index=}, {run=}")
    owner = ProcessIdentity.current()
    name = f"{NAME_PREFIX}{owner}.{stream}"
    if not NAME.fullmatch(name):
        raise UserError(f"stream {stream!r}: a name is one or more of a-z, 0-9, _ and -")
    size = HEADER_BYTES + SAMPLE_BYTES * capacity
    try:
        room = os.statvfs(FOLDER)
        free = room.f_bavail * room.f_frsize
        if free < size and room.f_blocks:  # a tmpfs without a limit has no blocks
            raise _too_little_room(stream, size, free)
        segment = open_segment(name, size)
    except FileExistsError:
        raise UserError(f"{FOLDER / name}: exists; a stream has one ring") from None
    except OSError as error:
        raise UserError(f"{FOLDER}: no shared memory to be had ({error.strerror})") from None
    ring = RingOwner(name, run)
    try:
        _allocate(FOLDER / name, size)
        with header_of(segment).cast("q") as words:
            words[INDEX] = words[ANCHORS[0]] = start_index
            if start_index:  # earlier samples never existed: a gap, of which none was lost
                until = TABLES[0]
                words[until], words[until + 2], words[until + 4] = start_index, 1, start_index
            words[TABLES[1]] = -1
        fixed = (sample_rate, capacity, run.encode(), boot_id().encode(), owner.pid, owner.started)
        FIXED_FIELDS.pack_into(header_of(segment), 0, MAGIC, LAYOUT, *fixed)
    except OSError:
        ring.unlink()
        raise _too_little_room(stream, size, free) from None
    finally:
        segment.close()
    return ring


def owner_alive(name: str) -> bool:
    """Whether the process that owns the segment of this name still runs."""
    match = NAME.fullmatch(name)
    owner = match and ProcessIdentity.parse(match[1])
    return owner is not None and owner.alive()


def reclaim_segments() -> list[str]:
    """Unlink the rings of owners that have ended. Returns their names.

    Containers that share /dev/shm must share a pid namespace too, because an owner's process
    is looked up by its pid.
    """
    removed = []
    for path in sorted(FOLDER.glob(f"{NAME_PREFIX}*")):
        if not NAME.fullmatch(path.name) or owner_alive(path.name):
            continue
        with contextlib.suppress(OSError):  # of another user, or already removed
            path.unlink()
            removed.append(path.name)
    return removed


def _too_little_room(stream: str, size: int, free: int) -> UserError:
    return UserError(
        f"stream {stream}: its ring needs {size} bytes in {FOLDER}, {free} are free; "
        "make the ring shorter or give shared memory more room"
    )


def _allocate(path: Path, size: int) -> None:
    # A tmpfs allocates a page at its first write, and a full one answers with SIGBUS.
    fd = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)

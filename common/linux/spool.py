"""A FIFO, `/dev/stdin` or a process substitution as a file: read to its end into a temporary file.

libsndfile seeks in a file when it opens it, and a restarted process must read it again.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from speech_emotion.common.errors import UserError

MAX_BYTES = 1 << 31
"""Largest content of a pipe that is read as a file, in bytes: 18 hours of 16-bit mono at 16 kHz."""
CHUNK_BYTES = 1 << 20


def is_pipe(path: str) -> bool:
    """Whether a path names a pipe, a socket or a device instead of a file or folder."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def spool(path: str) -> int:
    """Read a pipe to its end: descriptor of an unnamed temporary file, at its start.

    Raises:
        UserError: the pipe cannot be read, is a terminal, or does not end.
    """
    try:
        mode = os.stat(path).st_mode
        with open(path, "rb", buffering=0) as pipe, tempfile.TemporaryFile(buffering=0) as copy:
            if pipe.isatty():
                raise UserError(f"{path}: is a terminal, not a sound file")
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                raise UserError(f"{path}: is a device, not a sound file")
            size = 0
            while chunk := pipe.read(CHUNK_BYTES):
                size += len(chunk)
                if size > MAX_BYTES:
                    raise UserError(
                        f"{path}: does not end after {MAX_BYTES >> 30} GiB; "
                        "read a live pipe with stdin:RATE[:CHANNELS]"
                    )
                copy.write(chunk)
            copy.seek(0)
            return os.dup(copy.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def descriptor_path(descriptor: int) -> Path:
    """Path under which this process can open a descriptor of its own again."""
    return Path(f"/proc/self/fd/{descriptor}")

"""Wake a loop that waits for file descriptors from another thread."""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """A descriptor that is readable from `set` to `clear`. It is closed with the last reference."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        """Wake the loop. Any thread may call this, any number of times."""
        os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Make the descriptor unreadable. The loop calls this before it does its work."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def __del__(self) -> None:
        os.close(self._fd)

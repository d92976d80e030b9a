"""Something another thread can do to a loop that waits for descriptors."""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """A descriptor that is readable from `set` to `clear`; closed with the last reference."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        """Wake the loop; may be called from any thread, any number of times."""
        os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Called by the loop before it looks at what it was woken for."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def __del__(self) -> None:
        os.close(self._fd)

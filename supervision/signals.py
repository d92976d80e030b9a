"""Signals of the supervisor: stop and reload."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

BUFFER = 4096


class SignalRequests:
    """Counts the signals that ask for a stop or a reload, and wakes the supervisor's loop.

    The handlers increase a number and do nothing else: they take no lock, write no log line and
    use no queue. Python's C handler writes a byte to the wake-up descriptor, so that a signal that
    arrives just before the loop begins to wait ends that wait. Create it in the main thread.

    Attributes:
        stops: signals that ask for a stop: SIGINT and SIGTERM.
        reloads: signals that ask for the configured bundle: SIGHUP, where stderr is no terminal.
            A terminal that closes sends SIGHUP as well.
    """

    def __init__(self) -> None:
        self.stops = 0
        self.reloads = 0
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._stop)
        if not sys.stderr.isatty():
            signal.signal(signal.SIGHUP, self._reload)

    def fileno(self) -> int:
        """Readable after a signal, until `clear`."""
        return self._reader

    def clear(self) -> None:
        """Make the descriptor unreadable."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._reader, BUFFER)) == BUFFER:
                pass

    def _stop(self, _signum: int, _frame: object) -> None:
        self.stops += 1

    def _reload(self, _signum: int, _frame: object) -> None:
        self.reloads += 1

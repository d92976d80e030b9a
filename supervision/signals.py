"""Signals of the supervisor: stop and reload."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys

from speech_emotion.common.linux.eventfd import Wakeup

BUFFER = 4096


class SignalRequests:
    """Counts the signals that ask for a stop or a reload, and waits for the next one.

    The handlers increase a number and do nothing else: they take no lock, write no log line and
    use no queue, because the main thread may hold the lock already. Python's C handler writes a
    byte to the wake-up descriptor, so that a signal that arrives just before `wait` ends that
    wait. Create it in the main thread.

    SIGINT and SIGTERM ask for a stop. SIGHUP asks for a stop where the terminal was closed, or
    where stderr is a terminal; else it asks for the configured bundle.

    Attributes:
        stops: signals that ask for a stop.
        reloads: signals that ask for the configured bundle.
        wakeup: ends a wait from another thread.
    """

    def __init__(self) -> None:
        self.stops = 0
        self.reloads = 0
        self.wakeup = Wakeup()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        for descriptor in (self._reader, self.wakeup.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # nohup ignores SIGHUP: a closed terminal must not stop the pipeline then.
        self._hangup_stops = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._on_terminal = sys.stderr.isatty()
        self._has_terminal = _terminal_is_open()
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._stop)
        signal.signal(signal.SIGHUP, self._hangup)

    def wait(self, seconds: float) -> None:
        """Wait for a signal or a wake-up, `seconds` at most."""
        if self._poll.poll(1000.0 * seconds):
            self.wakeup.clear()
            with contextlib.suppress(BlockingIOError):
                while len(os.read(self._reader, BUFFER)) == BUFFER:
                    pass

    def _stop(self, _signum: int, _frame: object) -> None:
        self.stops += 1

    def _hangup(self, _signum: int, _frame: object) -> None:
        closed = self._on_terminal or (self._has_terminal and not _terminal_is_open())
        if closed and self._hangup_stops:
            self.stops += 1
        else:
            self.reloads += 1


def _terminal_is_open() -> bool:
    """Whether this process has a controlling terminal that is open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # unknown: no stop
    return True

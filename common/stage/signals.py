"""The stop request of a stage process."""

from __future__ import annotations

import os
import signal


class StopRequest:
    """A flag that SIGTERM sets; so do SIGINT and SIGHUP, unless they are ignored.

    A supervised stage ignores SIGINT. A terminal or ssh session that closes sends SIGHUP; nohup
    ignores it.

    The handler sets the flag and does nothing else: it takes no lock, so it cannot block a thread
    that already holds one. Python's C handler writes a byte to a pipe, so that a loop that waits
    for `fileno` also notices a signal just before its wait. Create it in the main thread.
    """

    def __init__(self) -> None:
        self.requested = False
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._request)
        for signum in (signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._request)

    def fileno(self) -> int:
        """A descriptor that is readable once a stop is requested."""
        return self._reader

    def _request(self, _signum: int, _frame: object) -> None:
        self.requested = True

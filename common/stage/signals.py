"""The stop request of a stage process."""

from __future__ import annotations

import signal


class StopRequest:
    """A flag that SIGTERM sets; so do SIGINT and SIGHUP, unless they are ignored.

    A supervised stage ignores SIGINT. A terminal or ssh session that closes sends SIGHUP; nohup
    ignores it.

    The handler sets the flag and does nothing else: it takes no lock, so it cannot block a thread
    that already holds one.
    """

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._request)
        for signum in (signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._request)

    def _request(self, _signum: int, _frame: object) -> None:
        self.requested = True

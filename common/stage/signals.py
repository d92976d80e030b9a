"""The stop request of a stage process."""

from __future__ import annotations

import signal


class StopRequest:
    """A flag that SIGTERM sets; SIGINT sets it as well where no supervisor runs.

    The handler sets the flag and does nothing else: it takes no lock, so it cannot block a thread
    that already holds one.
    """

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._request)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._request)

    def _request(self, _signum: int, _frame: object) -> None:
        self.requested = True

"""The stop request of a stage: SIGTERM, or SIGINT where no supervisor runs."""

from __future__ import annotations

import signal


class StopRequest:
    """Set by SIGTERM, and by SIGINT where nobody supervises: end in order."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._request)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._request)

    def _request(self, _signum: int, _frame: object) -> None:
        self.requested = True

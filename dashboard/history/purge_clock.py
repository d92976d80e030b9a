"""The clock that decides which rows of the history are old enough to delete.

The wall clock can be wrong by weeks: a box without a battery-backed clock, a wrong time server, a
wrong date set by hand. A row that is deleted by such a clock is lost for good. This clock follows
the wall clock only while both agree with the monotonic clock.
"""

from __future__ import annotations

JUMP_S = 3600.0
"""Largest lead of the wall clock in a running process that is accepted: more is a jump."""


class PurgeClock:
    """Trusted unix time.

    A lead of the wall clock is held back for the retention time: after it every row from before
    the jump is old enough by the monotonic clock as well. A lag is accepted at once, because it
    deletes less.

    Args:
        keep_s: retention time in seconds.
        trusted: the trusted time when the history was last written; None: it is new.
        hold_s: how long a lead was still to be held back then.
        wall: unix time in seconds.
        monotonic: CLOCK_BOOTTIME in seconds.
    """

    def __init__(
        self, keep_s: float, trusted: float | None, hold_s: float, wall: float, monotonic: float
    ) -> None:
        self.trusted = wall if trusted is None else trusted
        self.hold_s = hold_s
        self._keep_s = keep_s
        self._monotonic = monotonic
        # While the process did not run, time passed that no monotonic clock has measured.
        self._follow(wall, max(JUMP_S, keep_s / 2.0))

    @property
    def holding(self) -> bool:
        """Whether a lead of the wall clock is held back."""
        return self.hold_s > 0.0

    def update(self, wall: float, monotonic: float) -> float:
        """The trusted time at `wall` and `monotonic`."""
        elapsed = max(0.0, monotonic - self._monotonic)
        self._monotonic = monotonic
        self.trusted += elapsed
        if self.holding:
            self.hold_s = max(0.0, self.hold_s - elapsed)
            if not self.holding:
                self.trusted = wall
                return self.trusted
        self._follow(wall, JUMP_S)
        return self.trusted

    def _follow(self, wall: float, lead_s: float) -> None:
        if wall <= self.trusted + lead_s:
            self.trusted, self.hold_s = wall, 0.0
        elif not self.holding:
            self.hold_s = self._keep_s

"""Whether a live source can be believed: a state machine without a clock.

STARTING -> LIVE <-> SILENT_INPUT, STUCK        it delivers, but nothing that is sound
    \\         \\-> LOST                          it delivers nothing: a fresh process must try
     \\-> LOST
"""

from __future__ import annotations

import enum

import numpy as np

from capture.sources import Samples

SILENT_S = 3.0
"""Digital silence for so long is a dead microphone; a quiet room never gives exact zeros."""
STUCK_S = 1.0
"""So long one and the same value other than zero."""
GRACE_S = 5.0
"""A device may take so long to its first callback."""
QUIET_S = 1.0
QUIET_BLOCKS = 5
REOPEN_S = 60.0
"""Silence for so long makes us open the device anew."""
REOPEN_AGAIN_S = 600.0
RATE_SPAN_S = 10.0
"""A busy machine holds blocks up by some 100 ms; over so long that is no other rate."""
RATE_TOLERANCE = 0.05


class SourceState(enum.Enum):
    """State of a live source; the value is its `state` in `health`."""

    STARTING = "starting"
    LIVE = "live"
    SILENT_INPUT = "silent_input"
    STUCK = "stuck"
    LOST = "lost"


class SourceWatch:
    """Looks at every block and at the clock. Times are CLOCK_MONOTONIC, handed in.

    Args:
        rate: Hz that the device promises.
        block_s: seconds per block.
    """

    def __init__(self, now: float, rate: int, block_s: float) -> None:
        self.state = SourceState.STARTING
        self.reason: str | None = None
        self._rate = rate
        self._patience = max(QUIET_S, QUIET_BLOCKS * block_s)
        self._heard = now
        self._constant_since: float | None = None
        self._constant: float | None = None
        self._span_began = now
        self._span_frames = 0

    def silent_for(self, now: float) -> float:
        """Seconds of digital silence up to now."""
        if self.state is not SourceState.SILENT_INPUT or self._constant_since is None:
            return 0.0
        return now - self._constant_since

    def heard(self, now: float, samples: Samples) -> None:
        """A block came, (frames, channels)."""
        if self.state is SourceState.STARTING:
            self.state = SourceState.LIVE
            self._span_began, self._span_frames = now, 0
        self._heard = now
        self._span_frames += len(samples)
        if not samples.size:
            return
        low, high = float(np.min(samples)), float(np.max(samples))
        if low != high or (self._constant is not None and low != self._constant):
            self._constant = self._constant_since = None
        if low == high and self._constant is None:
            self._constant, self._constant_since = low, now
        self._judge(now)
        self._check_rate(now)

    def check(self, now: float, *, active: bool) -> None:
        """Time has passed, with or without blocks."""
        if self.state is SourceState.LOST:
            return
        waited = now - self._heard
        if not active:
            self._lost("the device has stopped")
        elif self.state is SourceState.STARTING:
            if waited > GRACE_S:
                self._lost(f"the device gave nothing for {waited:.1f} s")
        elif waited > self._patience:
            self._lost(f"the device gave nothing for {waited:.1f} s")

    def _judge(self, now: float) -> None:
        if self.state is SourceState.LOST:
            return
        lasted = 0.0 if self._constant_since is None else now - self._constant_since
        if self._constant == 0.0 and lasted >= SILENT_S:
            self.state = SourceState.SILENT_INPUT
            self.reason = f"digital silence for {lasted:.0f} s: muted or unplugged?"
        elif self._constant and lasted >= STUCK_S:
            self.state = SourceState.STUCK
            self.reason = f"one and the same value for {lasted:.0f} s"
        elif self._constant is None:
            self.state, self.reason = SourceState.LIVE, None

    def _check_rate(self, now: float) -> None:
        # At the moment of a block: between blocks there is always a part of one missing.
        span = now - self._span_began
        if self.state is SourceState.LOST or span < RATE_SPAN_S:
            return
        rate = self._span_frames / span
        self._span_began, self._span_frames = now, 0
        if abs(rate / self._rate - 1.0) > RATE_TOLERANCE:
            self._lost(f"the device gives {rate:.0f} frames a second instead of {self._rate}")

    def _lost(self, reason: str) -> None:
        self.state, self.reason = SourceState.LOST, reason

"""Detects that a live source is lost, silent or stuck: a state machine without a clock of its own.

The states are those of `common.source_state`. A restarted process of a source that was live
before starts in RECOVERING instead of STARTING.
"""

from __future__ import annotations

import numpy as np

from speech_emotion.capture.samples import Samples
from speech_emotion.common.levels import CLIPPED
from speech_emotion.common.source_state import SourceState

SILENT_S = 2.5
"""Seconds of digital silence that mean a dead microphone, reported within 3 s. A quiet room never
gives exact zeros."""
STUCK_S = 1.0
"""Seconds of one constant value other than zero that mean a stuck input."""
STUCK_RANGE = 0.02
"""Largest range of a stuck input, as a share of the value at which it is stuck."""
STUCK_LEAST = 16 / 32768
"""Smallest value at which an input is stuck. Closer to zero, a small range is a quiet room."""
MEASURE_S = 0.01
"""Shortest time in seconds that is judged: shorter blocks are collected first."""
CLIPPED_S = 1.0
"""Seconds over which the share of clipped samples is measured."""
CLIPPED_SHARE = 0.01
"""Share of samples at full scale that is reported: above it, distortion is audible."""
GRACE_S = 5.0
"""Longest time in seconds from the start to the first block."""
QUIET_S = 1.0
"""Seconds without a block after which a device is lost, but at least `QUIET_BLOCKS` blocks."""
QUIET_BLOCKS = 5
REOPEN_S = 60.0
"""Seconds of digital silence after which the device is opened again."""
REOPEN_AGAIN_S = 600.0
"""The same, for a device that was silent before it was opened."""
RATE_SPAN_S = 10.0
"""Seconds over which the sample rate is measured. A busy machine delays blocks by some 100 ms,
which is below the tolerance over this span."""
RATE_TOLERANCE = 0.05
"""Largest deviation of the measured sample rate, as a share."""

BEGINNING = (SourceState.STARTING, SourceState.RECOVERING)


class SourceMonitor:
    """Judges every block and the time between blocks. Times are CLOCK_MONOTONIC, in seconds.

    Args:
        now: the present time.
        rate: nominal sample rate of the device in Hz.
        block_s: seconds per block.
        restarted: whether an earlier process has recorded this source.
        checks_rate: whether to compare the number of frames with the time.
        quiet_s: seconds without a block after which the source is lost, at least.
        source: the source in a sentence.

    Attributes:
        state: present state.
        since: time at which `state` began.
        reason: fault in words; None without one. A LIVE source that clips has one too.
        clipped: share of samples at full scale in about the last second.
    """

    def __init__(
        self,
        now: float,
        rate: int,
        block_s: float,
        *,
        restarted: bool = False,
        checks_rate: bool = True,
        quiet_s: float = QUIET_S,
        source: str = "the device",
    ) -> None:
        self.state = SourceState.RECOVERING if restarted else SourceState.STARTING
        self.since = now
        self.reason: str | None = None
        self.clipped = 0.0
        self._rate = rate
        self._checks_rate = checks_rate
        self._source = source
        self._quiet_limit_s = max(quiet_s, QUIET_BLOCKS * block_s)
        self._last_block = now
        self._collected = _Range()
        self._flat = _Range()
        self._flat_since = now
        self._clips = self._clip_frames = 0
        self._span_began = now
        self._span_frames = 0

    def silent_for(self, now: float) -> float:
        """Seconds of digital silence up to `now`; 0.0 in any other state."""
        return now - self._flat_since if self.state is SourceState.SILENT_INPUT else 0.0

    def add_block(self, now: float, samples: Samples) -> None:
        """Judge a block (frames, channels) that arrived at `now`."""
        if self.state in BEGINNING:
            self._enter(SourceState.LIVE, now)
            self._flat_since = self._span_began = now
            self._span_frames = 0
        self._last_block = now
        if self.state is SourceState.LOST or not samples.size:
            return
        self._span_frames += len(samples)
        self._collected.add(samples)
        if self._collected.frames >= MEASURE_S * self._rate:
            self._judge(now, self._collected)
            self._collected = _Range()
        self._check_rate(now)

    def check(self, now: float, *, active: bool) -> None:
        """Judge the time since the last block.

        Args:
            active: whether the device reports that it is running.
        """
        if self.state is SourceState.LOST:
            return
        quiet_s = now - self._last_block
        if not active:
            self._lose(now, f"{self._source} has stopped")
        elif quiet_s > (GRACE_S if self.state in BEGINNING else self._quiet_limit_s):
            self._lose(now, f"{self._source} gave no samples for {quiet_s:.1f} s")

    def source_changed(self, now: float, before: str, after: str) -> None:
        """The sound server delivers another source than the one that was opened."""
        if self.state is not SourceState.LOST:
            self._lose(now, f"the sound server changed the source from {before} to {after}")

    def _judge(self, now: float, measured: _Range) -> None:
        if self._flat.frames and (joined := self._flat.joined(measured)).flat:
            self._flat = joined
        else:
            self._flat, self._flat_since = measured, now
        self._count_clips(measured)
        flat_s = now - self._flat_since
        if not self._flat.flat:
            self._enter(SourceState.LIVE, now)
            if self.clipped > CLIPPED_SHARE:
                self.reason = (
                    f"clipping: {self.clipped:.0%} at full scale; lower the gain of the microphone"
                )
        elif self._flat.zero and flat_s >= SILENT_S:
            self._enter(SourceState.SILENT_INPUT, now)
            self.reason = f"digital silence for {flat_s:.0f} s: muted or unplugged?"
        elif not self._flat.zero and flat_s >= STUCK_S:
            self._enter(SourceState.STUCK, now)
            self.reason = f"stuck at {self._flat.middle:.3f} of full scale for {flat_s:.0f} s"

    def _count_clips(self, measured: _Range) -> None:
        self._clips += measured.clips
        self._clip_frames += measured.samples
        if self._clip_frames >= CLIPPED_S * self._rate:
            self.clipped = self._clips / self._clip_frames
            self._clips = self._clip_frames = 0

    def _check_rate(self, now: float) -> None:
        # Measured when a block arrives: between two blocks a part of one is always missing.
        span = now - self._span_began
        if not self._checks_rate or span < RATE_SPAN_S:
            return
        rate = self._span_frames / span
        self._span_began, self._span_frames = now, 0
        if abs(rate / self._rate - 1.0) > RATE_TOLERANCE:
            self._lose(
                now, f"the device gives {rate:.0f} frames per second instead of {self._rate}"
            )

    def _lose(self, now: float, reason: str) -> None:
        self._enter(SourceState.LOST, now)
        self.reason = reason

    def _enter(self, state: SourceState, now: float) -> None:
        self.reason = None
        if state is not self.state:
            self.state, self.since = state, now


class _Range:
    """Smallest and largest value of some samples, and how many are at full scale."""

    def __init__(self) -> None:
        self.frames = self.samples = self.clips = 0
        self._low = self._high = 0.0

    def add(self, samples: Samples) -> None:
        low, high = float(np.min(samples)), float(np.max(samples))
        if high >= CLIPPED or low <= -CLIPPED:
            self.clips += int(np.count_nonzero(np.abs(samples) >= CLIPPED))
        self._low = min(low, self._low) if self.frames else low
        self._high = max(high, self._high) if self.frames else high
        self.frames += len(samples)
        self.samples += samples.size

    def joined(self, other: _Range) -> _Range:
        joined = _Range()
        joined._low, joined._high = min(self._low, other._low), max(self._high, other._high)
        joined.frames = self.frames + other.frames
        return joined

    @property
    def middle(self) -> float:
        return (self._low + self._high) / 2

    @property
    def zero(self) -> bool:
        return self._low == self._high == 0.0

    @property
    def flat(self) -> bool:
        """Exact zeros, or a constant offset with almost nothing on it."""
        steady = self._high - self._low <= STUCK_RANGE * abs(self.middle)
        return self.zero or (steady and abs(self.middle) >= STUCK_LEAST)

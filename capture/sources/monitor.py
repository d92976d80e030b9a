"""Whether a live source can be believed: a state machine without a clock.

The states are those of `common.source`; a fresh process of a source that was there before
begins with RECOVERING instead of STARTING.
"""

from __future__ import annotations

import numpy as np

from speech_emotion.capture.sources.sound_file import Samples
from speech_emotion.common.levels import CLIPPED
from speech_emotion.common.source_state import SourceState

SILENT_S = 2.5
"""Digital silence for so long is a dead microphone, told within 3 s; a quiet room never gives
exact zeros."""
STUCK_S = 1.0
"""So long one and the same value other than zero."""
STUCK_RANGE = 0.02
"""What may still move on a stuck input, as a share of the value it is stuck at."""
STUCK_LEAST = 16 / 32768
"""Closer to zero than this, a small range is a quiet room."""
LOOK_S = 0.01
"""Blocks shorter than this are looked at together: of one sample, nothing can be said."""
CLIPPED_S = 1.0
CLIPPED_SHARE = 0.01
"""Of the samples of a second; more at full scale is distortion that everybody hears."""
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

BEGINNING = (SourceState.STARTING, SourceState.RECOVERING)


class SourceMonitor:
    """Looks at every block and at the clock. Times are CLOCK_MONOTONIC, handed in.

    Args:
        rate: Hz that the device promises.
        block_s: seconds per block.
        again: an earlier process has heard this source.

    Attributes:
        since: when `state` began.
        reason: what is wrong, in words; also of a LIVE source that clips.
        clipped: share of samples at full scale, of about the last second.
    """

    def __init__(self, now: float, rate: int, block_s: float, *, again: bool = False) -> None:
        self.state = SourceState.RECOVERING if again else SourceState.STARTING
        self.since = now
        self.reason: str | None = None
        self.clipped = 0.0
        self._rate = rate
        self._patience = max(QUIET_S, QUIET_BLOCKS * block_s)
        self._heard = now
        self._look = _Look()
        self._flat = _Look()
        self._flat_since = now
        self._clips = self._clip_frames = 0
        self._span_began = now
        self._span_frames = 0

    def silent_for(self, now: float) -> float:
        """Seconds of digital silence up to now."""
        return now - self._flat_since if self.state is SourceState.SILENT_INPUT else 0.0

    def heard(self, now: float, samples: Samples) -> None:
        """A block came, (frames, channels)."""
        if self.state in BEGINNING:
            self._go(SourceState.LIVE, now)
            self._flat_since = self._span_began = now
            self._span_frames = 0
        self._heard = now
        if self.state is SourceState.LOST or not samples.size:
            return
        self._span_frames += len(samples)
        self._look.add(samples)
        if self._look.frames >= LOOK_S * self._rate:
            self._judge(now, self._look)
            self._look = _Look()
        self._check_rate(now)

    def check(self, now: float, *, active: bool) -> None:
        """Time has passed, with or without blocks."""
        if self.state is SourceState.LOST:
            return
        waited = now - self._heard
        if not active:
            self._lose(now, "the device has stopped")
        elif waited > (GRACE_S if self.state in BEGINNING else self._patience):
            self._lose(now, f"the device gave nothing for {waited:.1f} s")

    def moved(self, now: float, here: str, there: str) -> None:
        """The sound server gives us another device's sound."""
        if self.state is not SourceState.LOST:
            self._lose(now, f"the sound server moved us from {here} to {there}")

    def _judge(self, now: float, look: _Look) -> None:
        if self._flat.frames and (both := self._flat.joined(look)).flat:
            self._flat = both
        else:
            self._flat, self._flat_since = look, now
        self._count_clips(look)
        lasted = now - self._flat_since
        if not self._flat.flat:
            self._go(SourceState.LIVE, now)
            if self.clipped > CLIPPED_SHARE:
                self.reason = f"clipping: {self.clipped:.0%} at full scale; turn its gain down"
        elif self._flat.zero and lasted >= SILENT_S:
            self._go(SourceState.SILENT_INPUT, now)
            self.reason = f"digital silence for {lasted:.0f} s: muted or unplugged?"
        elif not self._flat.zero and lasted >= STUCK_S:
            self._go(SourceState.STUCK, now)
            self.reason = f"stuck at {self._flat.middle:.3f} of full scale for {lasted:.0f} s"

    def _count_clips(self, look: _Look) -> None:
        self._clips += look.clips
        self._clip_frames += look.samples
        if self._clip_frames >= CLIPPED_S * self._rate:
            self.clipped = self._clips / self._clip_frames
            self._clips = self._clip_frames = 0

    def _check_rate(self, now: float) -> None:
        # At the moment of a block: between blocks there is always a part of one missing.
        span = now - self._span_began
        if span < RATE_SPAN_S:
            return
        rate = self._span_frames / span
        self._span_began, self._span_frames = now, 0
        if abs(rate / self._rate - 1.0) > RATE_TOLERANCE:
            self._lose(now, f"the device gives {rate:.0f} frames a second instead of {self._rate}")

    def _lose(self, now: float, reason: str) -> None:
        self._go(SourceState.LOST, now)
        self.reason = reason

    def _go(self, state: SourceState, now: float) -> None:
        self.reason = None
        if state is not self.state:
            self.state, self.since = state, now


class _Look:
    """The range of some samples, and how many of them are at full scale."""

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

    def joined(self, other: _Look) -> _Look:
        both = _Look()
        both._low, both._high = min(self._low, other._low), max(self._high, other._high)
        both.frames = self.frames + other.frames
        return both

    @property
    def middle(self) -> float:
        return (self._low + self._high) / 2

    @property
    def zero(self) -> bool:
        return self._low == self._high == 0.0

    @property
    def flat(self) -> bool:
        """Exact zeros, or an offset with next to nothing on it."""
        steady = self._high - self._low <= STUCK_RANGE * abs(self.middle)
        return self.zero or (steady and abs(self.middle) >= STUCK_LEAST)

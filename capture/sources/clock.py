"""The sample clock of a live source: which frame was captured when, and how many are missing."""

from __future__ import annotations

import time
from collections.abc import Sequence

from speech_emotion.capture.ring_feeder import RingFeeder
from speech_emotion.capture.sources.drift import Drift

ANCHOR_S = 1.0
"""Seconds between two anchors of the sample index to the clocks: the clocks of sources drift."""
BEGIN_S = 0.3
"""Seconds of samples that a source that returns collects to estimate the time of its first one:
on a busy machine or network the first block arrives late, and the least delayed one counts."""


class SampleClock:
    """Counts the frames of one opened source and ties the rings of its streams to the clocks.

    Args:
        feeders: of all streams of the source.
        rate: sample rate of the source in Hz.
        stream_rate: sample rate of the rings in Hz.
        paced: whether the frames arrive as the source captures them; else they show no drift.

    Attributes:
        frames: frames since the source was opened, with the missing ones.
        begun: whether the time of the first frame is known.
    """

    def __init__(
        self,
        feeders: Sequence[RingFeeder],
        rate: int,
        stream_rate: int,
        *,
        paced: bool = True,
    ) -> None:
        self.frames = 0
        self.begun = False
        self._feeders = feeders
        self._rate = rate
        self._stream_rate = stream_rate
        self._base = [0] * len(feeders)
        self._anchored = (0, 0.0)
        self._promptest: tuple[float, int, float] | None = None
        self._anchor_due = 0.0
        self._drift = Drift() if paced else None

    @property
    def returned(self) -> bool:
        """Whether the rings hold samples of an earlier opening of the source."""
        return any(feeder.ring.anchor[1] for feeder in self._feeders)

    def heard_s(self, began: float) -> float:
        """Seconds after `began` (CLOCK_MONOTONIC) of which the rings hold the samples already."""
        heard = 0.0
        for feeder in self._feeders:
            index, monotonic, _ = feeder.ring.anchor
            if monotonic:
                end = monotonic + (feeder.ring.index - index) / self._stream_rate
                heard = max(heard, end - began)
        return heard

    def begin(self, began: float) -> None:
        """Declare the gap before the first frame, which was captured at `began`.

        The gap ends where the clock says that the frame belongs. It is part of a mute that ends.
        """
        for number, feeder in enumerate(self._feeders):
            index, monotonic, _ = feeder.ring.anchor
            if monotonic:
                first = index + (began - monotonic) * self._stream_rate
                feeder.gap(max(0, round(first) - feeder.ring.index))
            self._base[number] = feeder.ring.index
            feeder.drift = {}
            feeder.mute(began, muted=False)
        self._anchored = (0, began)
        # Of a burst, the first packets are the most delayed ones: no anchor by them alone.
        self._promptest = (began, 0, began)
        self.begun = True

    def advance(self, frames: int, arrived: float) -> None:
        """Count frames that were fed and arrived at `arrived` (CLOCK_MONOTONIC).

        Once a second the sample index is tied to the clocks with the least delayed block.
        """
        self.frames += frames
        start = arrived - self.frames / self._rate
        if self._drift is not None and self._drift.add(start, arrived):
            for feeder in self._feeders:
                feeder.drift = self._drift.figures
        if self._promptest is None or start < self._promptest[0]:
            self._promptest = (start, self.frames, arrived)
        if arrived >= self._anchor_due:
            self._anchor_due = arrived + ANCHOR_S
            _, frames, moment = self._promptest
            self._promptest = None
            self._anchored = (frames, moment)
            unix = time.time() - (time.monotonic() - moment)
            for base, feeder in zip(self._base, self._feeders, strict=True):
                index = base + round(frames * self._stream_rate / self._rate)
                feeder.anchor(index, moment, unix)

    def missing(self, frames: int) -> None:
        """Declare frames that the source lost."""
        if self._drift is not None:
            self._drift = Drift()  # their number is an estimate
        self.frames += frames
        for base, feeder in zip(self._base, self._feeders, strict=True):
            feeder.flush()
            target = base + round(self.frames * self._stream_rate / self._rate)
            feeder.gap(max(0, target - feeder.position))

    def frames_at(self, moment: float) -> float:
        """Frames that the source has captured until `moment` (CLOCK_MONOTONIC), by the clock."""
        anchor_frames, anchor_time = self._anchored
        return anchor_frames + (moment - anchor_time) * self._rate


class MutedTime:
    """Mutes the streams of a source whose sound is not read, and declares its time as missing.

    Args:
        feeders: of all streams of the source.
        stream_rate: sample rate of the rings in Hz.
        now: CLOCK_MONOTONIC.
        lag_s: seconds before the present up to which samples are declared missing; the first
            samples after the mute may be so old.
    """

    def __init__(
        self, feeders: Sequence[RingFeeder], stream_rate: int, now: float, lag_s: float
    ) -> None:
        self._feeders = feeders
        self._stream_rate = stream_rate
        self._lag_s = lag_s
        self._anchor_due = now
        for feeder in feeders:
            feeder.mute(now, muted=True)
            feeder.flush()
        self._anchors = [_anchor_of(feeder, now) for feeder in feeders]

    def turn(self, now: float) -> None:
        """Declare the samples up to `now`, less the lag, as missing."""
        for feeder, (index, moment) in zip(self._feeders, self._anchors, strict=True):
            until = now - self._lag_s - moment
            feeder.gap(round(index + until * self._stream_rate) - feeder.position)
            if now >= self._anchor_due:  # the clock of the machine may be set meanwhile
                position = round(index + (now - moment) * self._stream_rate)
                feeder.anchor(position, now, time.time())
        if now >= self._anchor_due:
            self._anchor_due = now + ANCHOR_S


def _anchor_of(feeder: RingFeeder, now: float) -> tuple[int, float]:
    """Sample index and CLOCK_MONOTONIC of one moment; of the present where the ring has none."""
    index, moment, _ = feeder.ring.anchor
    if not moment:
        index, moment = feeder.position, now
        feeder.anchor(index, moment, time.time())
    return index, moment

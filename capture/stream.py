"""What the capture loop needs of a source: the job, the options, and the `Stream` protocol."""

from __future__ import annotations

from typing import Protocol

from speech_emotion.capture.read_ahead import ReadAhead
from speech_emotion.capture.ring_feeder import RingFeeder
from speech_emotion.common.errors import UserError
from speech_emotion.common.source_state import Condition
from speech_emotion.common.stage.jobs import SourceOptions as SourceOptions
from speech_emotion.common.stage.jobs import StreamJob as StreamJob

POLL_S = 0.1
"""Longest time in seconds between two looks at a source that has nothing to do."""


class Stream(Protocol):
    """A source that feeds one ring.

    Attributes:
        ahead: how far the source may be read, with the newest messages of hub and recorder.
    """

    job: StreamJob
    ahead: ReadAhead

    @property
    def feeder(self) -> RingFeeder:
        """Feeds the ring; a source that returns at another rate gets another one."""
        ...

    @property
    def error(self) -> UserError | None:
        """Mistake or damage that ended the source; the samples before it were fed."""
        ...

    def due(self, now: float) -> float:
        """Seconds from `now` (CLOCK_MONOTONIC) until `turn` has something to do."""
        ...

    def turn(self, now: float) -> None:
        """Feed the samples that are due at `now` (CLOCK_MONOTONIC).

        Raises:
            DeviceError: the device is lost.
        """
        ...

    def mute(self, now: float, *, muted: bool) -> None:
        """Take no sound from `now` (CLOCK_MONOTONIC) on, or take it again; may be repeated.

        Raises:
            DeviceError: the device cannot be opened again.
        """
        ...

    def finish(self) -> None:
        """End the source: write the last samples and announce the end."""
        ...

    @property
    def counters(self) -> dict[str, int]:
        """Faults of the source by name, counted since this process started."""
        ...

    @property
    def wakeup(self) -> int | None:
        """File descriptor that is readable when `turn` has something to do before `due`."""
        ...

    @property
    def condition(self) -> Condition:
        """State of the source, as `health` shows it."""
        ...

"""A source of samples on its way into its ring, as the capture loop sees it."""

from __future__ import annotations

from typing import Protocol

from speech_emotion.capture.ring_feeder import RingFeeder
from speech_emotion.common.errors import UserError
from speech_emotion.common.source_state import Condition
from speech_emotion.common.stage.jobs import StreamJob as StreamJob
from speech_emotion.common.wire import internal


class Stream(Protocol):
    """A source on its way into its ring, as the service's loop sees it."""

    job: StreamJob
    feeder: RingFeeder
    accepted: internal.Accepted | None
    error: UserError | None

    def due(self, now: float) -> float:
        """Seconds until `turn` has something to do."""
        ...

    def turn(self, now: float) -> None:
        """Feed what is due."""
        ...

    def finish(self) -> None:
        """The source is over, or is told to be."""
        ...

    @property
    def counters(self) -> dict[str, int]:
        """What went wrong at the source, by name, since this process began."""
        ...

    @property
    def wakeup(self) -> int | None:
        """A file descriptor that is readable when there is something to do before it is due."""
        ...

    @property
    def condition(self) -> Condition: ...

"""One of the streams that a network source feeds, as the capture loop sees it."""

from __future__ import annotations

from speech_emotion.capture.read_ahead import ReadAhead
from speech_emotion.capture.ring_feeder import RingFeeder
from speech_emotion.capture.sources.network.source import NetworkSource
from speech_emotion.capture.stream import StreamJob
from speech_emotion.common.errors import UserError
from speech_emotion.common.source_state import Condition


class NetworkStream:
    """One of the streams that a network source feeds."""

    def __init__(self, job: StreamJob, source: NetworkSource, number: int) -> None:
        self.job = job
        self.ahead = ReadAhead(0, 0, recorder=False, waits=False)  # a live source never waits
        self._source = source
        self._number = number

    @property
    def feeder(self) -> RingFeeder:
        return self._source.feeders[self._number]

    @property
    def error(self) -> UserError | None:
        return self._source.error

    @property
    def counters(self) -> dict[str, int]:
        return self._source.counters

    @property
    def wakeup(self) -> int | None:
        return None

    @property
    def condition(self) -> Condition:
        return self._source.condition

    def due(self, now: float) -> float:
        return self._source.due(now)

    def turn(self, now: float) -> None:
        self._source.turn(now)

    def mute(self, now: float, *, muted: bool) -> None:
        self._source.mute(now, muted=muted)

    def finish(self) -> None:
        self._source.finish()

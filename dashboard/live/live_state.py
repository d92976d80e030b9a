"""The present: newest messages and the last five minutes of each stream.

No input and no output: `LiveState` takes events and statuses. Its memory is bounded for any input.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from speech_emotion.common.client.results import Event, Status
from speech_emotion.common.wire import public
from speech_emotion.dashboard import messages
from speech_emotion.dashboard.history.reader import COLUMNS

RECENT_S = 300.0
RECENT_ROWS = 4000
UTTERANCES = 100
STREAMS = 64
"""Largest number of streams of a pipeline; one more replaces the stream that was idle longest."""
DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Change:
    """What a message has changed.

    Attributes:
        kind: `result`, `utterance`, `info` or `health`.
        stream: name of the stream; empty for `health`.
        data: the message as JSON text.
    """

    kind: str
    stream: str
    data: str


@dataclasses.dataclass
class Stream:
    """One stream; the rows of its last five minutes are kept as JSON text to save memory."""

    info: public.Info | None = None
    latest: public.Result | None = None
    labels: list[str] = dataclasses.field(default_factory=list)
    rows: deque[tuple[float, str]] = dataclasses.field(
        default_factory=lambda: deque(maxlen=RECENT_ROWS)
    )
    utterances: deque[str] = dataclasses.field(default_factory=lambda: deque(maxlen=UTTERANCES))
    run: str = ""
    next_seq: int = 0
    updated: float = 0.0
    """CLOCK_MONOTONIC of its newest message."""


class LiveState:
    """The newest state of a pipeline.

    Args:
        service: what the server offers.

    Attributes:
        newest: `health` and `status` as JSON text, once they have arrived: of these only the
            newest matters.
    """

    def __init__(self, service: messages.Service) -> None:
        self.service = service
        self.newest: dict[str, str] = {}
        self._streams: dict[str, Stream] = {}
        self._health: public.Health | None = None
        self._statuses: list[messages.Status] = []

    def update(self, event: Event) -> Change | None:
        """Store a message; None if it changes nothing."""
        match event.message:
            case public.Result() as result:
                return self._result(result, event.replay)
            case public.Utterance() as utterance:
                return self._utterance(utterance, event.replay)
            case public.Info() as info:
                stream = self._stream(info.stream)
                if stream.info == info:
                    return None
                stream.info = info
                return _change(info, info.stream, replay=event.replay)
            case public.Health() as health:
                self._health = health
                change = _change(health, "", replay=event.replay)
                self.newest["health"] = change.data
                return change
        return None

    def update_statuses(self, statuses: Mapping[str, Status]) -> None:
        """Store the freshness of each stream; the name "" is the whole pipeline."""
        self._statuses = [
            messages.Status(name, s.state.value, s.reason, s.age_s) for name, s in statuses.items()
        ]
        self.newest["status"] = messages.to_json(messages.Statuses(time.time(), self._statuses))

    def streams(self) -> messages.Streams:
        """Each stream with its newest result."""
        statuses = {status.stream: status for status in self._statuses}
        rows = [
            messages.Stream(name, one.info, one.latest, statuses.get(name))
            for name, one in sorted(self._streams.items())
        ]
        return messages.Streams(time.time(), rows)

    def health(self) -> messages.HealthReport:
        """The newest `health`, and whether results arrive."""
        whole = next((one for one in self._statuses if not one.stream), None)
        if whole is None:
            whole = messages.Status("", "gone", "the first check has not been made yet", None)
        return messages.HealthReport(
            time.time(), whole.state, whole.reason, whole.age_s, self._health
        )

    def state(self) -> messages.State:
        """The present for a new page: all but the past."""
        streams = self.streams()
        return messages.State(
            streams.now, self.service, streams.streams, self._health, self._statuses
        )

    def recent(self, name: str) -> str:
        """`messages.Recent` of a stream as JSON text."""
        stream = self._streams.get(name) or Stream()
        _drop_old(stream, time.time())
        rows = ",".join(row for _, row in stream.rows)
        return (
            f'{{"columns":{json.dumps(COLUMNS)},"labels":{json.dumps(stream.labels)},'
            f'"rows":[{rows}],"utterances":[{",".join(stream.utterances)}]}}'
        )

    def _result(self, result: public.Result, replay: bool) -> Change | None:
        stream = self._stream(result.stream)
        if stream.run != result.run:
            stream.run, stream.next_seq = result.run, 0
        if result.seq < stream.next_seq or (replay and result.time is None):
            return None  # already known, or a replay of unknown age
        stream.next_seq = result.next_seq
        labels = [*result.smoothed] if result.smoothed else []
        if labels and labels != stream.labels:
            if stream.labels:  # another model: the old rows have other labels
                stream.rows.clear()
            stream.labels = labels
        now = time.time()
        ended = result.time or now
        row = json.dumps(
            [
                *(result.seq, round(ended, 3), (result.end - result.start) / result.rate),
                *(result.state, result.emotion, _short(result.confidence), result.reason),
                *(round(result.rms_db, 1), result.lost),
                None if result.smoothed is None else [_short(p) for p in result.smoothed.values()],
                None
                if result.dimensions is None
                else {name: _short(value) for name, value in result.dimensions.items()},
            ]
        )
        stream.rows.append((ended, row))
        _drop_old(stream, now)
        stream.latest = result
        return _change(result, result.stream, replay=replay)

    def _utterance(self, utterance: public.Utterance, replay: bool) -> Change | None:
        if replay and utterance.time is None:
            return None
        span = messages.SpokenSpan(
            time=utterance.time or time.time(),
            seconds=(utterance.end - utterance.start) / utterance.rate,
            emotion=utterance.emotion,
            confidence=_short(utterance.confidence),
            reason=utterance.reason,
            probabilities={k: _short(p) for k, p in utterance.probabilities.items()},
        )
        stream = self._stream(utterance.stream)
        text = messages.to_json(span)
        if text in stream.utterances:
            return None
        stream.utterances.append(text)
        return _change(utterance, utterance.stream, replay=replay)

    def _stream(self, name: str) -> Stream:
        if name not in self._streams and len(self._streams) >= STREAMS:
            idle = min(self._streams, key=lambda key: self._streams[key].updated)
            del self._streams[idle]
        stream = self._streams.setdefault(name, Stream())
        stream.updated = time.monotonic()
        return stream


def _drop_old(stream: Stream, now: float) -> None:
    while stream.rows and stream.rows[0][0] < now - RECENT_S:
        stream.rows.popleft()


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _change(message: public.Public, stream: str, *, replay: bool) -> Change:
    table: dict[str, Any] = public.to_json_map(message)
    if replay:
        table["replay"] = True
    return Change(message.topic, stream, json.dumps(table, allow_nan=False))

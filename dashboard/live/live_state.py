"""The state that the page shows: newest messages and the last five minutes of each stream.

No input and no output: `LiveState` takes events and statuses and returns the JSON lines for the
pages. Its memory is bounded for any input.
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

RECENT_S = 300.0
RECENT_ROWS = 4000
UTTERANCES = 100
STREAMS = 64
"""Largest number of streams of a pipeline; one more replaces the stream that was idle longest."""
DIGITS = 4


@dataclasses.dataclass
class Stream:
    """The last five minutes of one stream; rows are kept as JSON text to save memory."""

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
        settings: fixed values that every greeting contains.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._streams: dict[str, Stream] = {}
        self._infos: dict[str, public.Info] = {}
        self._latest: dict[str, str] = {}
        self._health: public.Health | None = None
        self._statuses: list[dict[str, Any]] = []

    def update(self, event: Event) -> str | None:
        """Store a message; the line to send to the pages, None if it changes nothing."""
        match event.message:
            case public.Result() as result:
                return self._result(result, event.replay)
            case public.Utterance() as utterance:
                return self._utterance(utterance, event.replay)
            case public.Info() as info:
                if self._infos.get(info.stream) == info:
                    return None
                self._stream(info.stream)
                self._infos[info.stream] = info
                return _line("info", public.to_json_map(info))
            case public.Health() as health:
                self._health = health
                return _line("health", public.to_json_map(health))
        return None

    def update_statuses(self, statuses: Mapping[str, Status]) -> str:
        """Store the freshness of each stream; the name "" is the whole pipeline."""
        self._statuses = [
            {"stream": name, "state": s.state.value, "reason": s.reason, "age_s": s.age_s}
            for name, s in statuses.items()
        ]
        return _line("status", {"now": time.time(), "statuses": self._statuses})

    def greeting(self) -> str:
        """The first line for a new page: all but the past."""
        return _line(
            "hello",
            {
                **self._settings,
                "now": time.time(),
                "infos": [public.to_json_map(info) for info in self._infos.values()],
                "latest": [json.loads(line) for line in self._latest.values()],
                "health": self._health and public.to_json_map(self._health),
                "statuses": self._statuses,
            },
        )

    def recent(self, name: str) -> str:
        """The last five minutes of a stream as a JSON object: `labels`, `rows`, `utterances`."""
        stream = self._streams.get(name) or Stream()
        _drop_old(stream, time.time())
        rows = ",".join(row for _, row in stream.rows)
        return (
            f'{{"labels":{json.dumps(stream.labels)},"rows":[{rows}],'
            f'"utterances":[{",".join(stream.utterances)}]}}'
        )

    def _result(self, result: public.Result, replay: bool) -> str | None:
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
            ]
        )
        stream.rows.append((ended, row))
        _drop_old(stream, now)
        prefix = json.dumps(
            {
                "kind": "result",
                "stream": result.stream,
                "run": result.run,
                "bundle": result.bundle,
                "labels": stream.labels,
                "total_ms": (result.timing_ms or {}).get("total"),
                "baseline": _short(result.baseline),
            }
        )
        line = f'{prefix[:-1]}, "row": {row}}}'
        self._latest[result.stream] = line
        return line

    def _utterance(self, utterance: public.Utterance, replay: bool) -> str | None:
        if replay and utterance.time is None:
            return None
        table = {
            "time": utterance.time or time.time(),
            "emotion": utterance.emotion,
            "seconds": (utterance.end - utterance.start) / utterance.rate,
            "confidence": _short(utterance.confidence),
            "reason": utterance.reason,
            "probabilities": {k: _short(p) for k, p in utterance.probabilities.items()},
        }
        stream = self._stream(utterance.stream)
        text = json.dumps(table)
        if text in stream.utterances:
            return None
        stream.utterances.append(text)
        return _line("utterance", {"stream": utterance.stream, **table})

    def _stream(self, name: str) -> Stream:
        if name not in self._streams and len(self._streams) >= STREAMS:
            idle = min(self._streams, key=lambda key: self._streams[key].updated)
            for table in (self._streams, self._infos, self._latest):
                table.pop(idle, None)
        stream = self._streams.setdefault(name, Stream())
        stream.updated = time.monotonic()
        return stream


def _drop_old(stream: Stream, now: float) -> None:
    while stream.rows and stream.rows[0][0] < now - RECENT_S:
        stream.rows.popleft()


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _line(kind: str, table: Mapping[str, Any]) -> str:
    return json.dumps({"kind": kind, **table}, allow_nan=False)

"""What the tools of the MCP server answer: the present from the results, the past from the history.

The names, docstrings and fields here are what a language model reads.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from speech_emotion import __version__
from speech_emotion.common.client.results import Event
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import CurveClientKeys
from speech_emotion.dashboard import messages
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.dashboard.history.rows import HistoryRows
from speech_emotion.dashboard.live.feed import Feed
from speech_emotion.dashboard.live.live_state import LiveState

FIRST_S = 2.5
"""The first answer waits this long in seconds for the first messages of the pipeline."""
TURN_S = 0.05
UP_TO_DATE = ("fresh", "degraded")
DEFAULT_S = 3600.0
"""Time span where no beginning is given."""
LONGEST_LIST = 500


@dataclasses.dataclass(frozen=True)
class StreamRow:
    """One stream.

    Attributes:
        freshness: `fresh`, `degraded`, `stale` or `gone`.
        problem: why it is not fresh.
        source: the microphone, file or address as configured.
        labels: the emotions that the model can give.
    """

    stream: str
    freshness: str
    problem: str | None
    source: str | None
    labels: list[str]


@dataclasses.dataclass(frozen=True)
class CurrentEmotion:
    """The newest window of a stream. All fields after `age_s` are null where it is not up to date.

    Attributes:
        freshness, problem: as in `StreamRow`.
        age_s: age of the newest result in seconds, an upper bound.
        sound: `speech`, `silence` or `gap` (no sound, also while muted).
        emotion: a label or `uncertain`; null outside speech.
        confidence: calibrated probability of that label, 0 to 1.
        reason: why it is uncertain.
        level_dbfs: level of the sound.
    """

    stream: str
    freshness: str
    problem: str | None
    age_s: float | None
    sound: str | None = None
    emotion: str | None = None
    confidence: float | None = None
    reason: str | None = None
    level_dbfs: float | None = None


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One utterance.

    Attributes:
        ended: local time of its end, ISO 8601.
        seconds: its length.
        emotion: a label or `uncertain`.
        confidence: calibrated probability of that label, 0 to 1.
        reason: why it is uncertain.
    """

    stream: str
    ended: str
    seconds: float
    emotion: str
    confidence: float
    reason: str | None


@dataclasses.dataclass(frozen=True)
class Utterances:
    """Utterances in a time span, oldest first.

    Attributes:
        start, end: the time span, ISO 8601.
        total: number of utterances in it; `utterances` has the newest of them.
    """

    start: str
    end: str
    total: int
    utterances: list[Spoken]


@dataclasses.dataclass(frozen=True)
class StreamDay:
    """One stream on one day.

    Attributes:
        utterances: number of utterances by emotion.
        seconds: their length in seconds by emotion.
        hours: number of utterances by emotion, by the local hour of their end such as `09:00`.
        first, last: local time of the first and the last utterance, ISO 8601; null without any.
    """

    stream: str
    utterances: dict[str, int]
    seconds: dict[str, float]
    hours: dict[str, dict[str, int]]
    first: str | None
    last: str | None


@dataclasses.dataclass(frozen=True)
class Day:
    """A local day, from midnight to midnight."""

    day: str
    streams: list[StreamDay]


@dataclasses.dataclass(frozen=True)
class Part:
    """A process of the pipeline, or the source of a stream."""

    name: str
    state: str
    reason: str | None


@dataclasses.dataclass(frozen=True)
class Health:
    """State of the pipeline.

    Attributes:
        freshness: `fresh`, `degraded`, `stale` or `gone`: the worst of all streams.
        problem: why it is not fresh.
        state: `ok`, `starting` or `degraded`; null where the pipeline does not answer.
        mute: why no sound is taken; null where sound is taken.
        processes, sources: their states.
        corrected_faults: number of faults that were corrected, by name.
    """

    freshness: str
    problem: str | None
    state: str | None
    mute: str | None
    processes: list[Part]
    sources: list[Part]
    corrected_faults: dict[str, int]


class Answers:
    """The tools: each public coroutine is one of them.

    Args:
        endpoint: endpoint of the pipeline's results.
        history: the history file, or None.
        client_keys: key pair, if the endpoint requires one.
    """

    def __init__(
        self, endpoint: str, history: Path | None, client_keys: CurveClientKeys | None
    ) -> None:
        self._endpoint, self._history, self._client_keys = endpoint, history, client_keys
        self._state = LiveState(
            messages.Service(__version__, endpoint, history is not None, False, 0.0)
        )
        self._ready_by: float | None = None

    def feed(self) -> Feed:
        """What receives the messages of the pipeline; not started yet. Call it in the event loop.

        Raises:
            UserError: the endpoint or a key is not usable.
        """

        def take(event: Event) -> None:
            self._state.update(event)

        loop = asyncio.get_running_loop()
        on_statuses = self._state.update_statuses
        return Feed(self._endpoint, loop, take, on_statuses, self._client_keys)

    async def list_streams(self) -> list[StreamRow]:
        """List the streams (rooms, microphones) of the running pipeline."""
        return [
            StreamRow(
                stream=row.name,
                freshness=row.status.state if row.status else "gone",
                problem=row.status.reason if row.status else "no message yet",
                source=row.info.source if row.info else None,
                labels=row.info.labels if row.info else [],
            )
            for row in await self._streams(None)
        ]

    async def current_emotion(self, stream: str | None = None) -> list[CurrentEmotion]:
        """Tell how the voice in each stream, or in one, sounds at this moment.

        Args:
            stream: name of the stream; null: all streams.
        """
        return [_current(row) for row in await self._streams(stream)]

    async def utterances(
        self,
        start: str | None = None,
        end: str | None = None,
        stream: str | None = None,
        limit: int = 100,
    ) -> Utterances:
        """List the utterances that ended between two times, from the history.

        Args:
            start: ISO 8601, local time without an offset; null: one hour before `end`.
            end: the same; null: now.
            stream: name of the stream; null: all streams.
            limit: longest list, 1 to 500; the newest utterances are in it.
        """
        if not 1 <= limit <= LONGEST_LIST:
            raise UserError(f"limit {limit} must be 1 to {LONGEST_LIST}")
        until = time.time() if end is None else _moment(end, "end")
        since = until - DEFAULT_S if start is None else _moment(start, "start")
        if since > until:
            raise UserError("start must be before end")

        def read() -> Utterances:
            with HistoryReader(self._file()) as reader:
                names = _named(reader, stream)
                found = [
                    (row["time"], _spoken(name, row))
                    for name in names
                    for row in reader.utterances(name, since, until, limit)
                ]
                total = sum(reader.count_utterances(name, since, until) for name in names)
            found.sort(key=lambda pair: pair[0])
            rows = [spoken for _, spoken in found[-limit:]]
            return Utterances(_iso(since), _iso(until), total, rows)

        return await asyncio.to_thread(read)

    async def day_summary(self, day: str | None = None, stream: str | None = None) -> Day:
        """Summarize a local day from the history: utterances by emotion, in all and by hour.

        Args:
            day: YYYY-MM-DD; null: today.
            stream: name of the stream; null: all streams.
        """
        date = dt.date.today() if day is None else _date(day)

        def read() -> Day:
            with HistoryReader(self._file()) as reader:
                names = _named(reader, stream)
            return Day(date.isoformat(), [_stream_day(self._file(), name, date) for name in names])

        return await asyncio.to_thread(read)

    async def health(self) -> Health:
        """Tell whether the pipeline runs, listens and is in order."""
        await self._ready()
        report = self._state.health()
        known = report.health
        if known is None or report.state == "gone":
            return Health(report.state, report.reason, None, None, [], [], {})
        return Health(
            freshness=report.state,
            problem=report.reason,
            state=known.state,
            mute=known.mute.text if known.mute else None,
            processes=[Part(one.name, one.state, one.reason) for one in known.stages],
            sources=[Part(one.name, one.state, one.reason) for one in known.streams],
            corrected_faults=known.counters,
        )

    async def _ready(self) -> None:
        """Wait for the first messages; a pipeline that is absent sends none."""
        if self._ready_by is None:
            self._ready_by = time.monotonic() + FIRST_S
        while self._state.health().state != "fresh" and time.monotonic() < self._ready_by:
            await asyncio.sleep(TURN_S)

    async def _streams(self, stream: str | None) -> list[messages.Stream]:
        await self._ready()
        rows = self._state.streams().streams
        if stream is not None and stream not in (known := [row.name for row in rows]):
            raise UserError(f"no stream {stream!r}; known streams: {', '.join(known) or 'none'}")
        return [row for row in rows if stream in (None, row.name)]

    def _file(self) -> Path:
        if self._history is None:
            raise UserError("this server has no history; start it with --history FILE")
        return self._history


def _current(row: messages.Stream) -> CurrentEmotion:
    status, result = row.status, row.latest
    if status is None:
        return CurrentEmotion(row.name, "gone", "no message yet", None)
    if result is None or status.state not in UP_TO_DATE:  # old news is no present
        return CurrentEmotion(row.name, status.state, status.reason, status.age_s)
    return CurrentEmotion(
        stream=row.name,
        freshness=status.state,
        problem=status.reason,
        age_s=status.age_s,
        sound=result.state,
        emotion=result.emotion,
        confidence=result.confidence,
        reason=result.reason,
        level_dbfs=round(result.rms_db, 1),
    )


def _spoken(stream: str, row: dict[str, Any]) -> Spoken:
    return Spoken(
        stream=stream,
        ended=_iso(row["time"]),
        seconds=round(row["seconds"], 2),
        emotion=row["emotion"],
        confidence=row["confidence"],
        reason=row["reason"],
    )


def _stream_day(path: Path, stream: str, date: dt.date) -> StreamDay:
    midnight = dt.datetime.combine(date, dt.time())
    begin, end = (at.timestamp() for at in (midnight, midnight + dt.timedelta(days=1)))
    counts, seconds = Counter[str](), Counter[str]()
    hours: defaultdict[str, Counter[str]] = defaultdict(Counter)
    times: list[float] = []
    with HistoryRows(path, "utterance", stream, begin, end) as rows:
        for _, row in rows:
            label, at = row["emotion"], row["time"]
            counts[label] += 1
            seconds[label] += (row["last"] - row["first"]) / row["rate"]
            hours[dt.datetime.fromtimestamp(at).strftime("%H:00")][label] += 1
            times = [times[0] if times else at, at]
    return StreamDay(
        stream=stream,
        utterances=dict(counts),
        seconds={label: round(length, 1) for label, length in seconds.items()},
        hours={hour: dict(table) for hour, table in hours.items()},
        first=_iso(times[0]) if times else None,
        last=_iso(times[-1]) if times else None,
    )


def _named(reader: HistoryReader, stream: str | None) -> list[str]:
    known = reader.streams()
    if stream is not None and stream not in known:
        raise UserError(f"no stream {stream!r}; the history has: {', '.join(known) or 'none'}")
    return known if stream is None else [stream]


def _moment(text: str, name: str) -> float:
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UserError(f"{name} {text!r} must be ISO 8601, such as 2026-03-14T09:00") from None


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise UserError(f"day {text!r} must be YYYY-MM-DD") from None


def _iso(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")

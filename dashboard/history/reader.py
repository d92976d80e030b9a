"""The reading end of the history file."""

from __future__ import annotations

import contextlib
import heapq
import json
import math
import sqlite3
import urllib.parse
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.dimensions import DIMENSIONS
from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import UserError
from speech_emotion.dashboard.history import aggregates
from speech_emotion.dashboard.history.bins import LEVELS
from speech_emotion.dashboard.history.schema import APPLICATION, DIGITS, SCHEMA_VERSION

COLUMNS = (
    *("seq", "time", "span", "state", "emotion"),
    *("confidence", "reason", "rms_db", "lost", "smoothed", "dimensions"),
)
"""Columns of a window row: `time` is the unix time of its end, `span` its length in seconds."""
COUNTED_STEPS = 1200
"""Steps by which many utterances are counted."""
LONG_S = 31 * 86400.0
"""Time from which totals are read from the longest bins."""
_LAST = (1 << 63) - 1


class HistoryReader(Closing):
    """The reading end of the history file; use it from one thread at a time.

    Each call sees what was committed before it.

    Raises:
        UserError: the file does not exist or is not a history file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        address = f"file:{urllib.parse.quote(str(path.resolve()))}?mode=ro"
        try:
            self._db = sqlite3.connect(
                address, uri=True, timeout=2.0, isolation_level=None, check_same_thread=False
            )
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            with contextlib.suppress(AttributeError):
                self._db.close()
            raise UserError(f"{path}: cannot be read ({error})") from None
        if (application, version) != (APPLICATION, SCHEMA_VERSION):
            self._db.close()
            raise UserError(f"{path}: is not a history file of this version")

    def close(self) -> None:
        self._db.close()

    def streams(self) -> list[str]:
        """Names of the streams in the file, sorted."""
        rows = self._db.execute("SELECT DISTINCT stream FROM source ORDER BY stream")
        return [name for (name,) in rows]

    def bounds(self, stream: str) -> tuple[float, float] | None:
        """Unix times of the first and the last window of a stream; None if it has no window."""
        # One query with both would read the whole index.
        query = (
            "SELECT (SELECT min(at) FROM result WHERE source = ?1), "
            "(SELECT max(at) FROM result WHERE source = ?1)"
        )
        rows = [
            self._db.execute(query, (number,)).fetchone() for number, _ in self._sources(stream)
        ]
        known = [(first, last) for first, last in rows if first is not None]
        if not known:
            return None
        return min(first for first, _ in known), max(last for _, last in known)

    def windows(self, stream: str, start: float, end: float, limit: int) -> dict[str, Any]:
        """Windows of a stream between two unix times, at most about `limit` rows.

        More rows are aggregated in steps of equal length: levels are means, the emotion is the
        most frequent one, and `smoothed` has the share of the windows with speech that have each
        label; what is missing to 1 was `uncertain`. Steps of 10 s and more are whole bins, begin
        at multiples of their length, and have no `seq`. `dimensions` are means; None in a step
        without any.

        Returns:
            `labels`; `rows`, whose columns are `COLUMNS`; `step`, the length of a step in
            seconds, or 0 if every row is one window.
        """
        sources = self._sources(stream)
        labels = list(dict.fromkeys(label for _, names in sources for label in names))
        where, numbers = self._where(stream)
        (count,) = self._db.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM result WHERE {where} LIMIT ?)",
            (*numbers, start, end, limit + 1),
        ).fetchone()
        if count <= limit:
            windows = self._db.execute(
                "SELECT source, seq, at, (last - first) * 1.0 / rate, state, emotion, confidence, "
                f"reason, rms_db, lost, smoothed, {self._dimensions()} FROM result "
                f"JOIN source ON id = source WHERE {where} ORDER BY at",
                (*numbers, start, end),
            )
            names = dict(sources)
            rows = [
                [
                    *row,
                    _aligned(smoothed, names[number], labels),
                    None if dimensions is None else json.loads(dimensions),
                ]
                for number, *row, smoothed, dimensions in windows
            ]
            return {"labels": labels, "rows": rows, "step": 0.0}
        start, end, step = self._steps(stream, start, end, limit)
        if isinstance(step, int):
            rows = aggregates.chart_rows(self._db, stream, int(start), end, step, labels)
        else:
            rows = self._aggregated(stream, start, end, step, labels)
        return {"labels": labels, "rows": rows, "step": float(step)}

    def _steps(
        self, stream: str, start: float, end: float, limit: int
    ) -> tuple[float, float, int | float]:
        """Beginning, end and length of the steps of a chart; a whole number: they are bins."""
        if (end - start) / limit >= LEVELS[0] and (known := self.bounds(stream)):
            start, end = max(start, known[0] - 1e-3), min(end, known[1])
        step = (end - start) / limit
        level = aggregates.level_of(step)
        if not level or aggregates.complete_after(self._db) > start:
            return start, end, step
        whole = math.ceil(step / level) * level
        return math.floor(start / whole) * whole, math.nextafter(end, math.inf), whole

    def _where(self, stream: str) -> tuple[str, list[int]]:
        """The condition on rows of a stream in a time span, and its first parameters."""
        numbers = [number for number, _ in self._sources(stream)]
        marks = ",".join("?" * len(numbers))
        return f"source IN ({marks}) AND at > ? AND at <= ?", numbers

    def _aggregated(
        self, stream: str, start: float, end: float, step: float, labels: list[str]
    ) -> list[list[Any]]:
        where, numbers = self._where(stream)
        steps = self._db.execute(
            "SELECT min(seq), cast((at - ?) / ? AS INTEGER) AS step, avg(confidence), avg(rms_db), "
            "sum(lost), sum(state = 'speech'), sum(state = 'gap'), "
            + ", ".join(f"avg({self._dimensions()} ->> '$.{name}')" for name in DIMENSIONS)
            + f" FROM result WHERE {where} GROUP BY step ORDER BY step",
            (start, step, *numbers, start, end),
        ).fetchall()
        counts = self._counts("result", start, step, end, stream)
        rows = []
        for seq, number, confidence, level, lost, speech, gaps, *means in steps:
            state = "speech" if speech else "gap" if gaps else "silence"
            given = counts.get(number, {})
            emotion = max(given, key=lambda label: given[label]) if given else None
            shares = None
            if speech:
                shares = [round(given.get(label, 0) / speech, DIGITS) for label in labels]
            at = start + (number + 1) * step
            given_means = zip(DIMENSIONS, means, strict=True)
            dimensions = {k: round(v, DIGITS) for k, v in given_means if v is not None} or None
            measured = (confidence, None, round(level, 1), lost, shares, dimensions)
            rows.append([seq, at, step, state, emotion, *measured])
        return rows

    def _dimensions(self) -> str:
        """The column of a result's dimensions; files of earlier versions have none."""
        return "dimensions" if "dimensions" in self.columns("result") else "NULL"

    def _counts(
        self, table: str, start: float, step: float, end: float, stream: str
    ) -> dict[int, dict[str, int]]:
        """How often each emotion occurs in each step."""
        where, numbers = self._where(stream)
        found: dict[int, dict[str, int]] = {}
        for number, emotion, count in self._db.execute(
            f"SELECT cast((at - ?) / ? AS INTEGER) AS step, emotion, count(*) FROM {table} "
            f"WHERE {where} AND emotion IS NOT NULL GROUP BY step, emotion",
            (start, step, *numbers, start, end),
        ):
            found.setdefault(number, {})[emotion] = count
        return found

    def utterance_bins(
        self, stream: str, start: float, end: float, limit: int
    ) -> list[dict[str, Any]]:
        """The most frequent emotion of the utterances in each step, of which `windows` has `limit`.

        Returns:
            Per step with utterances: `time`, its end; `seconds`, its length; `emotion`; `share`
            of the utterances with it; `count` of all.
        """
        start, end, step = self._steps(stream, start, end, limit)
        if isinstance(step, int):
            counts = aggregates.utterance_counts(self._db, stream, int(start), end, step)
        else:
            counts = self._counts("utterance", start, step, end, stream)
        bins = []
        for number, given in sorted(counts.items()):
            emotion, count = max(given.items(), key=lambda item: item[1])
            total = sum(given.values())
            share = round(count / total, DIGITS)
            at = start + (number + 1) * step
            bins.append(
                {"time": at, "seconds": step, "emotion": emotion, "share": share, "count": total}
            )
        return bins

    def utterances(
        self, stream: str, start: float, end: float, limit: int = 500
    ) -> list[dict[str, Any]]:
        """The newest utterances that ended between two unix times, oldest first."""
        found = self.newest_utterances(stream, None, start, end, limit)
        return [{k: one[k] for k in one if k != "stream"} for _, one in reversed(found)]

    def newest_utterances(
        self,
        stream: str | None,
        label: str | None,
        start: float,
        end: float,
        limit: int,
        before: tuple[float, int, int] | None = None,
    ) -> list[tuple[tuple[float, int, int], dict[str, Any]]]:
        """Utterances that ended between two unix times, newest first, each with its key.

        Args:
            stream: its stream; None: all streams.
            label: its label; None: each.
            before: key of an utterance; only those that come after it in the list.
        """
        newest: list[tuple[tuple[float, int, int], tuple[Any, ...]]] = []
        lowest = start
        of_label = "" if label is None else "AND emotion = ?"
        given = () if label is None else (label,)
        for source in reversed(self.sources(stream)):  # most often the newest first
            until = (end, _LAST)
            if before is not None and before[0] <= end:
                place = before[2] if source == before[1] else -_LAST
                until = (before[0], _LAST if source < before[1] else place)
            for at, first, *row in self._db.execute(
                "SELECT at, first, stream, (last - first) * 1.0 / rate, emotion, confidence, "
                "reason, probabilities FROM utterance JOIN source ON id = source "
                f"WHERE source = ? {of_label} AND at > ? AND (at, first) < (?, ?) "
                "ORDER BY at DESC, first DESC LIMIT ?",
                (source, *given, lowest, *until, limit),
            ):
                entry = ((at, source, first), tuple(row))
                if len(newest) < limit:
                    heapq.heappush(newest, entry)
                else:
                    heapq.heappushpop(newest, entry)
            if len(newest) == limit:
                lowest = math.nextafter(newest[0][0][0], -math.inf)
        names = ("stream", "seconds", "emotion", "confidence", "reason", "probabilities")
        found = []
        for key, row in sorted(newest, reverse=True):
            one = {"time": key[0], **dict(zip(names, row, strict=True))}
            found.append((key, {**one, "probabilities": json.loads(one["probabilities"])}))
        return found

    def count_utterances(self, stream: str, start: float, end: float, most: int = 10_000) -> int:
        """Number of utterances that ended between two unix times; more than `most` by bins."""
        where, numbers = self._where(stream)
        (count,) = self._db.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM utterance WHERE {where} LIMIT ?)",
            (*numbers, start, end, most + 1),
        ).fetchone()
        if count > most:
            start, end, step = self._steps(stream, start, end, COUNTED_STEPS)
            if isinstance(step, int):
                counts = aggregates.utterance_counts(self._db, stream, int(start), end, step)
                return sum(sum(given.values()) for given in counts.values())
            (count,) = self._db.execute(
                f"SELECT count(*) FROM utterance WHERE {where}", (*numbers, start, end)
            ).fetchone()
        return int(count)

    def shares(
        self, stream: str | None, start: float, end: float, step: int, limit: int
    ) -> dict[str, Any]:
        """Speech and labels of one stream or of all, per step of 900 or 3600 s.

        Args:
            step: 0: one row of a stream, for the whole time.
            limit: most rows.

        Returns:
            `labels`; `rows`; `complete`: whether every row of the file is counted in bins.

        Raises:
            ValueError: there would be more rows than `limit`.
        """
        after = aggregates.complete_after(self._db)
        names = self.streams() if stream is None else [stream]
        labels = list(
            dict.fromkeys(x for name in names for _, own in self._sources(name) for x in own)
        )
        spans = {}
        for name in names if after < math.inf else ():
            if known := aggregates.bounds(self._db, name):
                spans[name] = max(start, known[0]), min(end, known[1])
        longest = sum(max(0.0, last - first) for first, last in spans.values())
        if step and longest / step > limit:
            raise ValueError
        rows: list[list[Any]] = []
        for name, (first, last) in spans.items():
            seconds = step or LEVELS[-1 if last - first > LONG_S else -2]
            begin = math.floor(first / seconds) * seconds
            whole = step or max(seconds, math.ceil((last - begin) / seconds) * seconds)
            rows += aggregates.share_rows(self._db, name, (begin, last), whole, seconds, labels)
        return {"labels": labels, "rows": rows, "complete": after < start}

    def sources(self, stream: str | None) -> list[int]:
        """Ids of the sources (run and bundle) of a stream; None: of all streams."""
        if stream is None:
            return [number for (number,) in self._db.execute("SELECT id FROM source ORDER BY id")]
        return [number for number, _ in self._sources(stream)]

    def columns(self, table: str) -> list[str]:
        """Names of the columns of a table."""
        return [row["name"] for row in self.rows(f"PRAGMA table_info({table})", ())]

    def rows(self, query: str, parameters: tuple[Any, ...]) -> list[dict[str, Any]]:
        """All rows of a query; no read transaction stays open."""
        cursor = self._db.execute(query, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _sources(self, stream: str) -> list[tuple[int, list[str]]]:
        rows = self._db.execute("SELECT id, labels FROM source WHERE stream = ?", (stream,))
        return [(number, json.loads(labels or "[]")) for number, labels in rows]


def _aligned(smoothed: str | None, names: list[str], labels: list[str]) -> list[float] | None:
    """Probabilities of one source, reordered to `labels`; 0 for a label that it lacks."""
    if smoothed is None:
        return None
    table = dict(zip(names, json.loads(smoothed), strict=True))
    return [table.get(label, 0.0) for label in labels]

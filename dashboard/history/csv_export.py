"""CSV export of the history, page by page.

A download can take as long as its reader likes. Therefore no query stays open between two pages:
an open read transaction would keep the write-ahead log from being checkpointed, and it would grow.
"""

from __future__ import annotations

import csv
import datetime as dt
import heapq
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from speech_emotion.dashboard.history.reader import HistoryReader

PAGE = 500
"""Rows of one query."""
KEYS = {"result": "seq", "utterance": "first"}
"""The column that orders rows of one source with equal times."""
AFTER_ALL = (1 << 63) - 1

Row = dict[str, Any]


class CsvExport:
    """Rows of a table between two unix times, oldest first; use it from one thread at a time.

    Args:
        path: the history file.
        table: `result`, `utterance` or `health`.
        stream: name of the stream; ignored for `health`.
        start, end: unix times in seconds; `start` is excluded, `end` is included.

    Raises:
        UserError: the file does not exist or is not a history file.
    """

    def __init__(self, path: Path, table: str, stream: str, start: float, end: float) -> None:
        self._reader = HistoryReader(path)
        self._table = table
        self._stream = stream
        self._start = start
        self._end = end

    def text(self) -> Iterator[str]:
        """The file in parts of many lines; closes the history at its end."""
        with self._reader:
            yield _line(self._columns())
            lines: list[str] = []
            for row in self._rows():
                lines.append(_line(row.values()))
                if len(lines) == PAGE:
                    yield "".join(lines)
                    lines.clear()
            yield "".join(lines)

    def _columns(self) -> list[str]:
        names = self._reader.columns(self._table)
        if self._table == "health":
            return ["time", "time_iso", *(name for name in names if name != "at")]
        own = [name for name in names if name not in ("source", "at")]
        return ["time", "time_iso", "stream", "run", "bundle", "rate", *own]

    def _rows(self) -> Iterator[Row]:
        if self._table == "health":
            return self._health()
        sources = self._reader.sources(self._stream)
        return heapq.merge(*map(self._of_source, sources), key=lambda row: float(row["time"]))

    def _of_source(self, source: int) -> Iterator[Row]:
        key = KEYS[self._table]
        query = (
            f"SELECT at AS time, stream, run, bundle, rate, labels, {self._table}.* "
            f"FROM {self._table} JOIN source ON id = source "
            f"WHERE source = ? AND (at, {key}) > (?, ?) AND at <= ? ORDER BY at, {key} LIMIT ?"
        )
        at, last = self._start, AFTER_ALL
        while page := self._reader.rows(query, (source, at, last, self._end, PAGE)):
            for row in page:
                at, last = row["at"], row[key]
                labels = row.pop("labels")
                if row.get("smoothed") is not None:
                    pairs = zip(json.loads(labels), json.loads(row["smoothed"]), strict=True)
                    row["smoothed"] = json.dumps(dict(pairs))
                yield _with_iso_time({k: row[k] for k in row if k not in ("source", "at")})

    def _health(self) -> Iterator[Row]:
        query = (
            "SELECT at AS time, state, message FROM health "
            "WHERE at > ? AND at <= ? ORDER BY at LIMIT ?"
        )
        at = self._start
        while page := self._reader.rows(query, (at, self._end, PAGE)):
            at = page[-1]["time"]
            yield from map(_with_iso_time, page)


def _with_iso_time(row: Row) -> Row:
    """A row with the local time after its unix time."""
    moment = dt.datetime.fromtimestamp(row["time"]).astimezone()
    return {"time": row["time"], "time_iso": moment.isoformat(timespec="milliseconds"), **row}


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    # A spreadsheet interprets a text with such a first character as a formula.
    safe = [f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" and v else v for v in values]
    csv.writer(text, lineterminator="\n").writerow(safe)
    return text.getvalue()

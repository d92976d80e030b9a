"""Rows of the history in the order of time, page by page: any number of them in bounded memory.

A reader can take as long as it likes. Therefore no query stays open between two pages: an open
read transaction would keep the write-ahead log from being checkpointed, and it would grow.
"""

from __future__ import annotations

import datetime as dt
import heapq
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from speech_emotion.common.closing import Closing
from speech_emotion.dashboard.history.reader import HistoryReader

TABLES = ("result", "utterance", "health")
PAGE = 500
"""Most rows of one query."""
FIRST_PAGE = 16
"""Rows of the first query of a source: most sources of a long history are not reached yet."""
NUMBERS = {"result": "seq", "utterance": "first"}
"""The column that orders rows of one source with equal times."""
BEFORE_ALL, AFTER_ALL = -(1 << 63), (1 << 63) - 1
OBJECTS = ("smoothed", "probabilities", "dimensions", "message")
"""Columns that are stored as JSON text."""

Row = dict[str, Any]


KEY_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,20})?(:[0-9]{1,18}){2}$"
"""The text of a `Key`."""


class Key(NamedTuple):
    """The place of a row in a table: no two rows have the same.

    Attributes:
        at: its unix time in seconds.
        source: id of its source; 0 in `health`.
        number: orders rows of one source with equal times.
    """

    at: float
    source: int
    number: int

    def __str__(self) -> str:
        return f"{self.at!r}:{self.source}:{self.number}"

    @staticmethod
    def parse(text: str) -> Key:
        """The key that `str` has written.

        Raises:
            ValueError: it is none.
        """
        if not re.fullmatch(KEY_PATTERN, text):
            raise ValueError
        at, source, number = text.split(":")
        return Key(float(at), int(source), int(number))


class HistoryRows(Closing):
    """Rows of a table between two unix times, oldest first; use it from one thread at a time.

    Args:
        path: the history file.
        table: one of `TABLES`.
        stream: name of the stream, None: all streams; ignored for `health`.
        start, end: unix times in seconds; `start` is excluded, `end` is included.
        after: key of a row; only rows after it are read.

    Raises:
        UserError: the file does not exist or is not a history file.
    """

    def __init__(
        self,
        path: Path,
        table: str,
        stream: str | None,
        start: float,
        end: float,
        after: Key | None = None,
    ) -> None:
        self._reader = HistoryReader(path)
        self._table = table
        self._stream = stream
        self._end = end
        self._begin = Key(start, AFTER_ALL, AFTER_ALL)
        if after is not None:
            self._begin = max(self._begin, after)

    def close(self) -> None:
        self._reader.close()

    @property
    def columns(self) -> list[str]:
        """Names of the columns of a row."""
        names = self._reader.columns(self._table)
        if self._table == "health":
            return ["time", "time_iso", *(name for name in names if name != "at")]
        own = [name for name in names if name not in ("source", "at")]
        return ["time", "time_iso", "stream", "run", "bundle", "rate", *own]

    def __iter__(self) -> Iterator[tuple[Key, Row]]:
        if self._table == "health":
            return self._health()
        sources = self._reader.sources(self._stream)
        return heapq.merge(*map(self._of_source, sources), key=lambda pair: pair[0])

    def _of_source(self, source: int) -> Iterator[tuple[Key, Row]]:
        number = NUMBERS[self._table]
        query = (
            f"SELECT at AS time, stream, run, bundle, rate, labels, {self._table}.* "
            f"FROM {self._table} JOIN source ON id = source "
            f"WHERE source = ? AND (at, {number}) > (?, ?) AND at <= ? "
            f"ORDER BY at, {number} LIMIT ?"
        )
        at, begin_source, last = self._begin
        if source != begin_source:
            last = BEFORE_ALL if source > begin_source else AFTER_ALL
        limit = FIRST_PAGE
        while page := self._reader.rows(query, (source, at, last, self._end, limit)):
            limit = PAGE
            for row in page:
                at, last = row["at"], row[number]
                labels = row.pop("labels")
                row = _finished({k: row[k] for k in row if k not in ("source", "at")})
                if row.get("smoothed") is not None:
                    row["smoothed"] = dict(zip(json.loads(labels), row["smoothed"], strict=True))
                yield Key(at, source, last), row

    def _health(self) -> Iterator[tuple[Key, Row]]:
        query = (
            "SELECT at AS time, state, message FROM health "
            "WHERE at > ? AND at <= ? ORDER BY at LIMIT ?"
        )
        at = self._begin.at
        while page := self._reader.rows(query, (at, self._end, PAGE)):
            at = page[-1]["time"]
            for row in page:
                yield Key(row["time"], 0, 0), _finished(row)


def _finished(row: Row) -> Row:
    """A row with its local time, and objects in place of JSON text."""
    moment = dt.datetime.fromtimestamp(row["time"]).astimezone()
    for name in OBJECTS:
        if row.get(name) is not None:
            row[name] = json.loads(row[name])
    return {"time": row["time"], "time_iso": moment.isoformat(timespec="milliseconds"), **row}

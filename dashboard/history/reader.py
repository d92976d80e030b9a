"""The reading end of the history file."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.parse
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.dimensions import DIMENSIONS
from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import UserError
from speech_emotion.dashboard.history.schema import APPLICATION, DIGITS, SCHEMA_VERSION

COLUMNS = (
    *("seq", "time", "span", "state", "emotion"),
    *("confidence", "reason", "rms_db", "lost", "smoothed", "dimensions"),
)
"""Columns of a window row: `time` is the unix time of its end, `span` its length in seconds."""


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
        rows = [
            self._db.execute(
                "SELECT min(at), max(at) FROM result WHERE source = ?", (source,)
            ).fetchone()
            for source, _ in self._sources(stream)
        ]
        known = [(first, last) for first, last in rows if first is not None]
        if not known:
            return None
        return min(first for first, _ in known), max(last for _, last in known)

    def windows(self, stream: str, start: float, end: float, limit: int) -> dict[str, Any]:
        """Windows of a stream between two unix times, at most about `limit` rows.

        More rows are aggregated in steps of equal length: levels are means, the emotion is the
        most frequent one, and `smoothed` has the share of the windows with speech that have each
        label; what is missing to 1 was `uncertain`. `dimensions` are means.

        Returns:
            `labels`; `rows`, whose columns are `COLUMNS`; `step`, the length of a step in
            seconds, or 0 if every row is one window.
        """
        sources = self._sources(stream)
        labels = list(dict.fromkeys(label for _, names in sources for label in names))
        numbers = [number for number, _ in sources]
        marks = ",".join("?" * len(numbers))
        where = f"source IN ({marks}) AND at > ? AND at <= ?"
        (count,) = self._db.execute(
            f"SELECT count(*) FROM result WHERE {where}", (*numbers, start, end)
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
        step = (end - start) / limit
        steps = self._db.execute(
            "SELECT min(seq), cast((at - ?) / ? AS INTEGER) AS step, avg(confidence), avg(rms_db), "
            "sum(lost), sum(state = 'speech'), sum(state = 'gap'), "
            + ", ".join(f"avg({self._dimensions()} ->> '$.{name}')" for name in DIMENSIONS)
            + f" FROM result WHERE {where} GROUP BY step ORDER BY step",
            (start, step, *numbers, start, end),
        ).fetchall()
        counts = self._counts("result", start, step, end, numbers)
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
        return {"labels": labels, "rows": rows, "step": step}

    def _dimensions(self) -> str:
        """The column of a result's dimensions; files of earlier versions have none."""
        return "dimensions" if "dimensions" in self.columns("result") else "NULL"

    def _counts(
        self, table: str, start: float, step: float, end: float, numbers: list[int]
    ) -> dict[int, dict[str, int]]:
        """How often each emotion occurs in each step."""
        marks = ",".join("?" * len(numbers))
        found: dict[int, dict[str, int]] = {}
        for number, emotion, count in self._db.execute(
            f"SELECT cast((at - ?) / ? AS INTEGER) AS step, emotion, count(*) FROM {table} "
            f"WHERE source IN ({marks}) AND at > ? AND at <= ? AND emotion IS NOT NULL "
            "GROUP BY step, emotion",
            (start, step, *numbers, start, end),
        ):
            found.setdefault(number, {})[emotion] = count
        return found

    def utterance_bins(
        self, stream: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """The most frequent emotion of the utterances in each step of `step` seconds.

        Returns:
            Per step with utterances: `time`, its end; `seconds`, its length; `emotion`; `share`
            of the utterances with it; `count` of all.
        """
        numbers = [number for number, _ in self._sources(stream)]
        bins = []
        for number, given in sorted(self._counts("utterance", start, step, end, numbers).items()):
            emotion, count = max(given.items(), key=lambda item: item[1])
            total = sum(given.values())
            share = round(count / total, DIGITS)
            at = start + (number + 1) * step
            bins.append(
                {"time": at, "seconds": step, "emotion": emotion, "share": share, "count": total}
            )
        return bins

    def count_utterances(self, stream: str, start: float, end: float) -> int:
        """Number of utterances that ended between two unix times."""
        numbers = [number for number, _ in self._sources(stream)]
        marks = ",".join("?" * len(numbers))
        (count,) = self._db.execute(
            f"SELECT count(*) FROM utterance WHERE source IN ({marks}) AND at > ? AND at <= ?",
            (*numbers, start, end),
        ).fetchone()
        return int(count)

    def utterances(
        self, stream: str, start: float, end: float, limit: int = 500
    ) -> list[dict[str, Any]]:
        """The newest utterances that ended between two unix times, oldest first."""
        numbers = [number for number, _ in self._sources(stream)]
        marks = ",".join("?" * len(numbers))
        rows = self._db.execute(
            "SELECT at, (last - first) * 1.0 / rate, emotion, confidence, reason, probabilities "
            "FROM utterance JOIN source ON id = source "
            f"WHERE source IN ({marks}) AND at > ? AND at <= ? ORDER BY at DESC LIMIT ?",
            (*numbers, start, end, limit),
        ).fetchall()
        return [
            {
                "time": at,
                "seconds": seconds,
                "emotion": emotion,
                "confidence": confidence,
                "reason": reason,
                "probabilities": json.loads(probabilities),
            }
            for at, seconds, emotion, confidence, reason, probabilities in reversed(rows)
        ]

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

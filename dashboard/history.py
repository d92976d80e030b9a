"""The history file: results, utterances and health in SQLite, never a sample of sound.

One writer (`dashboard.recorder`) and any number of readers (`Reader`) at once: the file is in
WAL mode. A commit is on the disk when it returns, so that a crash of the process or the box
loses no more than what came since the last one.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sqlite3
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public

SCHEMA_VERSION = 1
APPLICATION = 0x53455031
"""SQLite's `application_id`: "SEP1"."""
HEALTH_EVERY_S = 60.0
"""An unchanged pipeline's health is written so often; a changed one's at once."""
PURGE_ROWS = 5000
DIGITS = 4
COLUMNS = (
    *("seq", "time", "span", "state", "emotion"),
    *("confidence", "reason", "rms_db", "lost", "smoothed"),
)
"""A window as a page gets it: `time` is unix time of its end, `span` the seconds it stands for."""

_SCHEMA = """
CREATE TABLE source (
    id INTEGER PRIMARY KEY, stream TEXT NOT NULL, run TEXT NOT NULL, bundle TEXT NOT NULL,
    rate INTEGER NOT NULL, labels TEXT, UNIQUE (stream, run, bundle)
);
CREATE TABLE result (
    source INTEGER NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, state TEXT NOT NULL,
    emotion TEXT, confidence REAL, reason TEXT, rms_db REAL NOT NULL,
    lost INTEGER NOT NULL, skipped INTEGER NOT NULL, smoothed TEXT, total_ms REAL,
    PRIMARY KEY (source, seq)
) WITHOUT ROWID;
CREATE INDEX result_at ON result (source, at);
CREATE TABLE utterance (
    source INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, at REAL NOT NULL,
    seq INTEGER NOT NULL, emotion TEXT NOT NULL, confidence REAL NOT NULL, reason TEXT,
    probabilities TEXT NOT NULL, windows INTEGER NOT NULL,
    PRIMARY KEY (source, first)
) WITHOUT ROWID;
CREATE INDEX utterance_at ON utterance (source, at);
CREATE TABLE health (at REAL PRIMARY KEY, state TEXT NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
"""


class Writer:
    """The writing end; use from one thread.

    Nothing is on the disk before `commit()`. A message that is there already is left alone, so
    a replay and a restart do no harm.

    Args:
        path: file to write; made where there is none, for the owner only.

    Raises:
        UserError: it cannot be written, or is no history file.
    """

    def __init__(self, path: Path) -> None:
        self._sources: dict[tuple[str, str, str], int] = {}
        self._labels: dict[int, list[str]] = {}
        self._health: tuple[Any, ...] = ()
        self._health_due = 0.0
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{path}: cannot be used for history ({error})") from None

    def _prepare(self) -> None:
        db = self._db
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        fresh = not db.execute("SELECT 1 FROM sqlite_schema").fetchone()
        if not fresh and (application, version) != (APPLICATION, SCHEMA_VERSION):
            raise sqlite3.DatabaseError("it is another program's, or another version's")
        if fresh:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if fresh:
            db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION}; "
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    def write(self, messages: Sequence[tuple[public.Public, float]]) -> None:
        """Write messages and when each came (unix time), all or none of them, to the disk.

        Raises:
            sqlite3.Error: none of them was written.
        """
        before = (dict(self._sources), dict(self._labels), self._health, self._health_due)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for message, came in messages:
                self._put(message, came)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            # What the transaction had made known is unknown again.
            self._sources, self._labels, self._health, self._health_due = before
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _put(self, message: public.Public, came: float) -> None:
        match message:
            case public.Result() as r:
                source = self._source(r)
                self._db.execute(
                    "INSERT OR IGNORE INTO result VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        *(source, r.seq, r.time or came, r.start, r.end, r.state, r.emotion),
                        *(r.confidence, r.reason, round(r.rms_db, 2), r.lost, r.skipped),
                        *(self._by_label(source, r.smoothed), (r.timing_ms or {}).get("total")),
                    ),
                )
            case public.Utterance() as u:
                self._db.execute(
                    "INSERT OR IGNORE INTO utterance VALUES (?,?,?,?,?,?,?,?,?,?)",
                    (
                        *(self._source(u), u.start, u.end, u.time or came, u.seq, u.emotion),
                        *(u.confidence, u.reason, _rounded(u.probabilities), u.windows),
                    ),
                )
            case public.Health() as h:
                shape = (
                    h.state,
                    *((s.name, s.state, s.restarts, s.reason) for s in h.stages),
                    *((s.name, s.state) for s in h.streams),
                )
                if shape != self._health or h.time >= self._health_due:
                    self._health, self._health_due = shape, h.time + HEALTH_EVERY_S
                    text = json.dumps(public.to_json_map(h))
                    self._db.execute(
                        "INSERT OR IGNORE INTO health VALUES (?,?,?)", (h.time, h.state, text)
                    )

    def _source(self, message: public.Result | public.Utterance) -> int:
        key = message.stream, message.run, message.bundle
        if key not in self._sources:
            self._db.execute(
                "INSERT OR IGNORE INTO source (stream, run, bundle, rate) VALUES (?,?,?,?)",
                (*key, message.rate),
            )
            number, labels = self._db.execute(
                "SELECT id, labels FROM source WHERE stream = ? AND run = ? AND bundle = ?", key
            ).fetchone()
            self._sources[key] = number
            if labels is not None:
                self._labels[number] = json.loads(labels)
        return self._sources[key]

    def _by_label(self, source: int, smoothed: dict[str, float] | None) -> str | None:
        """Probabilities in the order of the source's labels, which the first of them gives."""
        if smoothed is None:
            return None
        if source not in self._labels:
            self._labels[source] = [*smoothed]
            labels = json.dumps(self._labels[source])
            self._db.execute("UPDATE source SET labels = ? WHERE id = ?", (labels, source))
        return json.dumps([round(smoothed.get(x, 0.0), DIGITS) for x in self._labels[source]])

    def purge(self, before: float) -> int:
        """Remove some of what is older than a unix time; how many rows, 0 where none is left.

        Raises:
            sqlite3.Error: nothing was removed.
        """
        removed = 0
        for table, key in (("result", "source, seq"), ("utterance", "source, first")):
            removed += self._db.execute(
                f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM source "
                f"CROSS JOIN {table} ON {table}.source = source.id WHERE at < ? LIMIT ?)",
                (before, PURGE_ROWS),
            ).rowcount
        removed += self._db.execute("DELETE FROM health WHERE at < ?", (before,)).rowcount
        if removed:
            self._db.execute(
                "DELETE FROM source WHERE id NOT IN (SELECT source FROM result) "
                "AND id NOT IN (SELECT source FROM utterance)"
            )
            self._sources.clear()
            self._labels.clear()
            self._db.execute("PRAGMA incremental_vacuum")
        return removed

    def close(self) -> None:
        """Fold the journal into the file and let go of it."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()


def _rounded(table: dict[str, float] | None) -> str | None:
    if table is None:
        return None
    return json.dumps({key: round(value, DIGITS) for key, value in table.items()})


class Reader:
    """The reading end; use from one thread. It sees what was committed before each call.

    Raises:
        UserError: there is no such file, or it is no history file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        address = f"file:{urllib.parse.quote(str(path.resolve()))}?mode=ro"
        try:
            self._db = sqlite3.connect(address, uri=True, timeout=2.0, isolation_level=None)
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        if (application, version) != (APPLICATION, SCHEMA_VERSION):
            self._db.close()
            raise UserError(f"{path}: is no history file of this version")

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def streams(self) -> list[str]:
        """Names of the streams that the file has something of."""
        rows = self._db.execute("SELECT DISTINCT stream FROM source ORDER BY stream")
        return [name for (name,) in rows]

    def bounds(self, stream: str) -> tuple[float, float] | None:
        """Unix times of the first and the last window of a stream; None where there is none."""
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

        Where there are more they are put together in steps of equal length: levels and
        probabilities are means, the emotion is the most frequent one.

        Returns:
            `labels`, `rows` as `COLUMNS` name them, and `step`, the length of a step in
            seconds, 0 where every row is a window.
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
            found = self._db.execute(
                "SELECT source, seq, at, (last - first) * 1.0 / rate, state, emotion, confidence, "
                "reason, rms_db, lost, smoothed FROM result JOIN source ON id = source "
                f"WHERE {where} ORDER BY at",
                (*numbers, start, end),
            )
            names = dict(sources)
            rows = [[*row[:-1], _aligned(row[-1], names[number], labels)] for number, *row in found]
            return {"labels": labels, "rows": rows, "step": 0.0}
        step = (end - start) / limit
        means = "".join(f", avg({_picked(label, sources)})" for label in labels)
        steps = self._db.execute(
            "SELECT min(seq), cast((at - ?) / ? AS INTEGER) AS step, avg(confidence), avg(rms_db), "
            "sum(lost), sum(state = 'speech'), sum(state = 'gap')"
            f"{means} FROM result WHERE {where} GROUP BY step ORDER BY step",
            (start, step, *numbers, start, end),
        ).fetchall()
        heard = self._favourites(start, step, end, numbers)
        rows = []
        for seq, number, confidence, level, lost, speech, gaps, *probabilities in steps:
            state = "speech" if speech else "gap" if gaps else "silence"
            emotion = heard.get(number) if speech else None
            values = probabilities if speech and probabilities[0] is not None else None
            smoothed = None if values is None else [round(value or 0.0, DIGITS) for value in values]
            at = start + (number + 1) * step
            rows.append(
                [seq, at, step, state, emotion, confidence, None, round(level, 1), lost, smoothed]
            )
        return {"labels": labels, "rows": rows, "step": step}

    def _favourites(
        self, start: float, step: float, end: float, numbers: list[int]
    ) -> dict[int, str]:
        """The most frequent emotion of each step."""
        marks = ",".join("?" * len(numbers))
        found = self._db.execute(
            "SELECT cast((at - ?) / ? AS INTEGER) AS step, emotion, count(*) FROM result "
            f"WHERE source IN ({marks}) AND at > ? AND at <= ? AND emotion IS NOT NULL "
            "GROUP BY step, emotion ORDER BY step, count(*)",
            (start, step, *numbers, start, end),
        )
        return {number: emotion for number, emotion, _ in found}  # the last one counts most

    def utterances(
        self, stream: str, start: float, end: float, limit: int = 500
    ) -> list[dict[str, Any]]:
        """The newest utterances that ended between two unix times, oldest first."""
        numbers = [number for number, _ in self._sources(stream)]
        marks = ",".join("?" * len(numbers))
        found = self._db.execute(
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
            for at, seconds, emotion, confidence, reason, probabilities in reversed(found)
        ]

    def csv(self, what: str, stream: str, start: float, end: float) -> Iterator[str]:
        """Lines of a CSV file of `result`, `utterance` or `health` between two unix times."""
        if what == "health":
            found = self._db.execute(
                "SELECT at AS time, state, message FROM health WHERE at > ? AND at <= ? "
                "ORDER BY at",
                (start, end),
            )
        else:
            found = self._db.execute(
                f"SELECT at AS time, stream, run, bundle, rate, labels, {what}.* "
                f"FROM {what} JOIN source ON id = source "
                "WHERE stream = ? AND at > ? AND at <= ? ORDER BY at",
                (stream, start, end),
            )
        names = [column[0] for column in found.description]
        kept = [n for n, name in enumerate(names) if name not in ("labels", "source", "at")]
        yield _line([names[n] for n in kept])
        for row in found:
            table = dict(zip(names, row, strict=True))
            if table.get("smoothed") is not None:
                values = json.loads(table["smoothed"])
                labelled = dict(zip(json.loads(table["labels"]), values, strict=True))
                table["smoothed"] = json.dumps(labelled)
            yield _line([table[names[n]] for n in kept])

    def _sources(self, stream: str) -> list[tuple[int, list[str]]]:
        rows = self._db.execute("SELECT id, labels FROM source WHERE stream = ?", (stream,))
        return [(number, json.loads(labels or "[]")) for number, labels in rows]


def _aligned(smoothed: str | None, names: list[str], labels: list[str]) -> list[float] | None:
    """Probabilities in the order of all labels instead of one source's."""
    if smoothed is None:
        return None
    table = dict(zip(names, json.loads(smoothed), strict=True))
    return [table.get(label, 0.0) for label in labels]


def _picked(label: str, sources: list[tuple[int, list[str]]]) -> str:
    """SQL for a label's probability, wherever a source has it among its own."""
    cases = "".join(
        f" WHEN {number} THEN json_extract(smoothed, '$[{names.index(label)}]')"
        for number, names in sources
        if label in names
    )
    return f"CASE source{cases} END"


def _line(values: Sequence[Any]) -> str:
    text = io.StringIO()
    # A spreadsheet would take such a text for a formula.
    safe = [f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" and v else v for v in values]
    csv.writer(text, lineterminator="\n").writerow(safe)
    return text.getvalue()

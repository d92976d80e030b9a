"""Counts of windows and utterances per stream, time and label, and sums of their dimensions, which
the writer keeps.

A chart of a month reads some thousand of these rows in place of millions of windows. A window is
counted in one bin of each length, in the transaction that writes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sqlite3
from collections.abc import Mapping, Sequence

from speech_emotion.common.bundle.dimensions import DIMENSIONS

LEVELS = (10, 60, 300, 900, 3600)
"""Lengths of the bins in seconds; each divides the next."""
UTTERANCE = "(utterance)"
"""What the column `state` has for utterances."""
ALL = -1e300
"""`after` of a mark when every row of the file is counted."""
FILL_S = 600.0
"""Time that one call of `fill` counts."""
FURTHEST_S = 1e12
"""Unix time beyond which a row is in no bin."""

BIN_TABLES = """
CREATE TABLE IF NOT EXISTS bin (
    stream TEXT NOT NULL, seconds INTEGER NOT NULL, start INTEGER NOT NULL, state TEXT NOT NULL,
    emotion TEXT NOT NULL, count INTEGER NOT NULL, confidence REAL NOT NULL,
    rms_db REAL NOT NULL, lost REAL NOT NULL,
    PRIMARY KEY (stream, seconds, start, state, emotion)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS binned (
    id INTEGER PRIMARY KEY CHECK (id = 1), after REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS dimension_bin (
    stream TEXT NOT NULL, seconds INTEGER NOT NULL, start INTEGER NOT NULL,
    dimension TEXT NOT NULL, count INTEGER NOT NULL, total REAL NOT NULL,
    PRIMARY KEY (stream, seconds, start, dimension)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dimension_binned (
    id INTEGER PRIMARY KEY CHECK (id = 1), after REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS utterance_label ON utterance (source, emotion, at);
"""
"""`confidence`, `rms_db`, `lost` and `total` are sums. Rows with `at` > `after` of the mark of a
table, `binned` or `dimension_binned`, are counted in it. Files of earlier versions have neither the
tables nor their marks; readers read their windows instead, or nothing of the dimensions."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A table of bins.

    Attributes:
        mark: table with the time after which rows are counted.
        key: columns of the primary key after `stream`, `seconds` and `start`.
        sums: the other columns.
        counted: per table of rows, what is to be selected for `key` and `sums`.
        joined: what the rows are joined with.
    """

    table: str
    mark: str
    key: tuple[str, ...]
    sums: tuple[str, ...]
    counted: Mapping[str, Sequence[str]]
    joined: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        return ("stream", "seconds", "start", *self.key)

    @property
    def insert(self) -> str:
        """The end of an INSERT: what to do with a bin that exists."""
        added = ", ".join(f"{name} = {name} + excluded.{name}" for name in self.sums)
        return f"ON CONFLICT ({', '.join(self.keys)}) DO UPDATE SET {added}"


COUNTS = Layout(
    *("bin", "binned"),
    key=("state", "emotion"),
    sums=("count", "confidence", "rms_db", "lost"),
    counted={
        "result": (
            *("state", "ifnull(emotion, '')"),
            *("count(*)", "total(confidence)", "total(rms_db)", "total(lost)"),
        ),
        "utterance": (f"'{UTTERANCE}'", "emotion", "count(*)", "total(confidence)", "0.0", "0.0"),
    },
)
MEANS = Layout(
    *("dimension_bin", "dimension_binned"),
    key=("dimension",),
    sums=("count", "total"),
    counted={"result": ("given.key", "count(*)", "total(given.value)")},
    joined="JOIN json_each(dimensions) AS given ON given.value IS NOT NULL "
    f"AND given.key IN ({', '.join(map(repr, DIMENSIONS))})",
)

Key = tuple[str | int, ...]


class Bins:
    """The bins of one history file; use it from one thread.

    Args:
        db: the open history file; its tables must exist.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        db.executescript(BIN_TABLES)
        self._counts = BinTable(db, COUNTS)
        self._means = BinTable(db, MEANS)
        self._tables = (self._counts, self._means)

    def add(
        self,
        stream: str,
        at: float,
        state: str,
        emotion: str | None,
        confidence: float | None,
        rms_db: float = 0.0,
        lost: float = 0.0,
        dimensions: Mapping[str, float] | None = None,
    ) -> None:
        """Count a row that was inserted."""
        measured = (confidence or 0.0, rms_db, lost)
        self._counts.add(stream, at, (state, emotion or ""), measured)
        given = dimensions or {}
        for name in DIMENSIONS:
            if name in given:
                self._means.add(stream, at, (name,), (given[name],))

    def flush(self) -> None:
        """Write what was added; inside the transaction of the rows."""
        for table in self._tables:
            table.flush()

    def drop(self) -> None:
        """Forget what was added: the transaction failed."""
        for table in self._tables:
            table.drop()

    def fill(self) -> bool:
        """Count ten minutes of the rows of an earlier version; whether more are left.

        Raises:
            sqlite3.Error: nothing was counted.
        """
        return any(table.fill() for table in self._tables)

    def purge(self, before: float, limit: int) -> None:
        """Delete up to `limit` bins of each stream, length and table that end before a unix time.

        Raises:
            sqlite3.Error: some of them were not deleted.
        """
        for table in self._tables:
            table.purge(before, limit)


class BinTable:
    """One table of bins, and what the current transaction adds to it."""

    def __init__(self, db: sqlite3.Connection, layout: Layout) -> None:
        self._db = db
        self._layout = layout
        self._added: dict[Key, list[float]] = {}
        row = db.execute(f"SELECT after FROM {layout.mark}").fetchone()
        if row is None:
            newest = self._newest(math.inf)
            row = (ALL if newest is None else newest,)
            db.execute(f"INSERT INTO {layout.mark} VALUES (1, ?)", row)
        (self._after,) = row

    def add(self, stream: str, at: float, key: Key, values: Sequence[float]) -> None:
        """Count one row; `values` are added to the sums after `count`."""
        if not self._after < at < FURTHEST_S:
            return  # `fill` counts it
        for seconds in LEVELS:
            whole = (stream, seconds, int(at / seconds) * seconds, *key)
            sums = self._added.setdefault(whole, [0, *(0.0 for _ in values)])
            sums[0] += 1
            for place, value in enumerate(values, 1):
                sums[place] += value if math.isfinite(value) else 0.0

    def flush(self) -> None:
        layout = self._layout
        marks = ",".join("?" * len(layout.keys + layout.sums))
        self._db.executemany(
            f"INSERT INTO {layout.table} VALUES ({marks}) {layout.insert}",
            [(*key, *sums) for key, sums in self._added.items()],
        )
        self._added.clear()

    def drop(self) -> None:
        self._added.clear()

    def fill(self) -> bool:
        if self._after == ALL:
            return False
        layout = self._layout
        groups = ", ".join(map(str, (1, 3, *range(4, 4 + len(layout.key)))))
        try:
            self._db.execute("BEGIN IMMEDIATE")
            newest = self._newest(self._after)
            after = ALL if newest is None else newest - FILL_S
            for table, columns in layout.counted.items() if newest is not None else ():
                for seconds in LEVELS:
                    self._db.execute(
                        f"INSERT INTO {layout.table} SELECT stream, ?1, "
                        f"CAST(at / ?1 AS INTEGER) * ?1, {', '.join(columns)} FROM source "
                        f"CROSS JOIN {table} ON {table}.source = source.id {layout.joined} "
                        f"WHERE at > ?2 AND at <= ?3 GROUP BY {groups} {layout.insert}",
                        (seconds, after, newest),
                    )
            self._db.execute(f"UPDATE {layout.mark} SET after = ?", (after,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._after = after
        return after != ALL

    def purge(self, before: float, limit: int) -> None:
        key = ", ".join(self._layout.keys)
        table = self._layout.table
        for stream in self._streams():
            for seconds in LEVELS:
                self._db.execute(
                    f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} "
                    "WHERE stream = ? AND seconds = ? AND start <= ? LIMIT ?)",
                    (stream, seconds, before - seconds, limit),
                )

    def _streams(self) -> list[str]:
        """Names of the streams with bins, sorted; each is one look into the index."""
        names: list[str] = []
        query = f"SELECT min(stream) FROM {self._layout.table} WHERE stream > ?"
        (name,) = self._db.execute(query.partition(" WHERE")[0]).fetchone()
        while name is not None:
            names.append(name)
            (name,) = self._db.execute(query, (name,)).fetchone()
        return names

    def _newest(self, up_to: float) -> float | None:
        """Time of the newest row up to a unix time."""
        parts = " UNION ALL ".join(
            f"SELECT (SELECT max(at) FROM {table} WHERE source = id AND at <= ?1) AS at FROM source"
            for table in self._layout.counted
        )
        row = self._db.execute(f"SELECT max(at) FROM ({parts})", (up_to,)).fetchone()
        newest: float | None = row[0]
        return newest

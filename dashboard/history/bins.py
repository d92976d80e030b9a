"""Counts of windows and utterances per stream, time and label, which the writer keeps.

A chart of a month reads some thousand of these rows in place of millions of windows. A window is
counted in one bin of each length, in the transaction that writes it.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3

LEVELS = (10, 60, 300, 900, 3600)
"""Lengths of the bins in seconds; each divides the next."""
UTTERANCE = "(utterance)"
"""What the column `state` has for utterances."""
ALL = -1e300
"""`binned.after` when every row of the file is counted."""
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
CREATE INDEX IF NOT EXISTS utterance_label ON utterance (source, emotion, at);
"""
"""`confidence`, `rms_db` and `lost` are sums. Rows with `at` > `binned.after` are counted. Files of
earlier versions have neither table; readers read their windows instead."""
ADD = (
    "ON CONFLICT (stream, seconds, start, state, emotion) DO UPDATE SET "
    "count = count + excluded.count, confidence = confidence + excluded.confidence, "
    "rms_db = rms_db + excluded.rms_db, lost = lost + excluded.lost"
)
MEASURED = {
    "result": ("state", "ifnull(emotion, '')", "total(rms_db)", "total(lost)"),
    "utterance": (f"'{UTTERANCE}'", "emotion", "0.0", "0.0"),
}
"""Per table: state, emotion, and the sums of level and lost samples."""

Key = tuple[str, int, int, str, str]


class Bins:
    """The counts of one transaction; use it from one thread.

    Args:
        db: the open history file; its tables must exist.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._added: dict[Key, list[float]] = {}
        db.executescript(BIN_TABLES)
        row = db.execute("SELECT after FROM binned").fetchone()
        if row is None:
            newest = _newest(db, math.inf)
            row = (ALL if newest is None else newest,)
            db.execute("INSERT INTO binned VALUES (1, ?)", row)
        (self._after,) = row

    def add(
        self,
        stream: str,
        at: float,
        state: str,
        emotion: str | None,
        confidence: float | None,
        rms_db: float = 0.0,
        lost: float = 0.0,
    ) -> None:
        """Count a row that was inserted."""
        if not self._after < at < FURTHEST_S:
            return  # `fill` counts it
        for seconds in LEVELS:
            key = (stream, seconds, int(at / seconds) * seconds, state, emotion or "")
            sums = self._added.setdefault(key, [0, 0.0, 0.0, 0.0])
            sums[0] += 1
            for place, value in enumerate((confidence or 0.0, rms_db, lost), 1):
                sums[place] += value if math.isfinite(value) else 0.0

    def flush(self) -> None:
        """Write what was added; inside the transaction of the rows."""
        self._db.executemany(
            f"INSERT INTO bin VALUES (?,?,?,?,?,?,?,?,?) {ADD}",
            [(*key, *sums) for key, sums in self._added.items()],
        )
        self._added.clear()

    def drop(self) -> None:
        """Forget what was added: the transaction failed."""
        self._added.clear()

    def fill(self) -> bool:
        """Count ten minutes of the rows of an earlier version; whether more are left.

        Raises:
            sqlite3.Error: nothing was counted.
        """
        if self._after == ALL:
            return False
        try:
            self._db.execute("BEGIN IMMEDIATE")
            newest = _newest(self._db, self._after)
            after = ALL if newest is None else newest - FILL_S
            if newest is not None:
                for table, (state, emotion, level, lost) in MEASURED.items():
                    for seconds in LEVELS:
                        self._db.execute(
                            f"INSERT INTO bin SELECT stream, ?1, CAST(at / ?1 AS INTEGER) * ?1 "
                            f"AS begin, {state} AS state, {emotion} AS emotion, count(*), "
                            f"total(confidence), {level}, {lost} FROM source "
                            f"CROSS JOIN {table} ON {table}.source = source.id "
                            f"WHERE at > ?2 AND at <= ?3 GROUP BY 1, 3, 4, 5 {ADD}",
                            (seconds, after, newest),
                        )
            self._db.execute("UPDATE binned SET after = ?", (after,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._after = after
        return after != ALL

    def purge(self, before: float, limit: int) -> None:
        """Delete up to `limit` bins of each stream and length that end before a unix time.

        Raises:
            sqlite3.Error: some of them were not deleted.
        """
        key = "stream, seconds, start, state, emotion"
        for stream in binned_streams(self._db):
            for seconds in LEVELS:
                self._db.execute(
                    f"DELETE FROM bin WHERE ({key}) IN (SELECT {key} FROM bin "
                    "WHERE stream = ? AND seconds = ? AND start <= ? LIMIT ?)",
                    (stream, seconds, before - seconds, limit),
                )


def binned_streams(db: sqlite3.Connection) -> list[str]:
    """Names of the streams with bins, sorted; each is one look into the index."""
    names: list[str] = []
    query = "SELECT min(stream) FROM bin WHERE stream > ?"
    (name,) = db.execute("SELECT min(stream) FROM bin").fetchone()
    while name is not None:
        names.append(name)
        (name,) = db.execute(query, (name,)).fetchone()
    return names


def _newest(db: sqlite3.Connection, up_to: float) -> float | None:
    """Time of the newest row up to a unix time."""
    parts = " UNION ALL ".join(
        f"SELECT (SELECT max(at) FROM {table} WHERE source = id AND at <= ?1) AS at FROM source"
        for table in MEASURED
    )
    row = db.execute(f"SELECT max(at) FROM ({parts})", (up_to,)).fetchone()
    newest: float | None = row[0]
    return newest

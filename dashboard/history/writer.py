"""The writing end of the history file.

A commit is on the disk when it returns: a crash of the process or of the box loses only the
messages that came after the last commit.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.bins import UTTERANCE, Bins
from speech_emotion.dashboard.history.purge_clock import PurgeClock
from speech_emotion.dashboard.history.schema import (
    APPLICATION,
    CLOCK_TABLE,
    DIGITS,
    LATER_COLUMNS,
    PROGRESS_ROWS,
    PROGRESS_TABLE,
    SCHEMA_VERSION,
    TABLES,
)

HEALTH_EVERY_S = 60.0
"""Interval at which an unchanged health message is written; a changed one is written at once."""
PURGE_ROWS = 2000
"""Rows of a table that one call of `purge` removes at most."""
VACUUM_PAGES = 500
"""Pages of 4 KiB that one call of `purge` gives back to the file system at most."""


BUSY_S = 2.0
"""Time that SQLite waits for the lock of another program before a call fails."""
BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


Progress: TypeAlias = dict[tuple[str, str], tuple[int, int]]
"""(Stream, run) → the window after the newest result, and the windows lost before it."""


class HistoryBusyError(Exception):
    """Another program holds the lock of the file; a later try can succeed."""


class HistoryWriter:
    """The writing end of the history file; use it from one thread.

    A message that the file has already is ignored: replays and restarts do no harm.

    Args:
        path: the file; created with mode 0600 if it does not exist.
        whole_runs: the subscription began before the runs did, so windows that are missing
            before the first message of a run are lost.
        progress: of the writer of a file that was removed.

    Raises:
        UserError: the file cannot be written, or it is not a history file.
        HistoryBusyError: another program holds its lock.
    """

    def __init__(
        self, path: Path, *, whole_runs: bool = False, progress: Progress | None = None
    ) -> None:
        self.refused = 0
        """Messages with values that SQLite cannot store."""
        self.progress: Progress = dict(progress or {})
        """Of every run that this process has written."""
        self._whole_runs = whole_runs
        self._path = path
        self._sources: dict[tuple[str, str, str], int] = {}
        self._labels: dict[int, list[str]] = {}
        self._health: tuple[Any, ...] = ()
        self._health_due = 0.0
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._prepare()
            self._bins = Bins(self._db)
            self._files = self._identities()
        except (OSError, sqlite3.Error) as error:
            with contextlib.suppress(AttributeError):
                self._db.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in BUSY_CODES:
                raise HistoryBusyError(f"{path}: {error}") from None
            absent = isinstance(error, FileNotFoundError)
            cause = f"there is no folder {path.parent}" if absent else error
            raise UserError(f"{path}: cannot be used for history ({cause})") from None

    def _prepare(self) -> None:
        db = self._db
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        fresh = not db.execute("SELECT 1 FROM sqlite_schema").fetchone()
        if not fresh and (application, version) != (APPLICATION, SCHEMA_VERSION):
            raise sqlite3.DatabaseError("it belongs to another program or another version")
        if fresh:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if fresh:
            db.executescript(
                f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; "
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        for table, column in LATER_COLUMNS:
            if column not in {row[1] for row in db.execute(f"PRAGMA table_info({table})")}:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT")
        db.execute(CLOCK_TABLE)
        db.execute(PROGRESS_TABLE)

    @property
    def lost(self) -> int:
        """Windows of these runs that were published and are missing in the history."""
        return sum(lost for _, lost in self.progress.values())

    def in_place(self) -> bool:
        """Whether the path still names the files that are open: another program can remove them."""
        return self._files == self._identities()

    def _identities(self) -> list[tuple[int, int]]:
        """Device and inode of the database and of its write-ahead log; less if one is missing."""
        identities = []
        for name in (self._path, Path(f"{self._path}-wal")):
            with contextlib.suppress(OSError):
                status = name.stat()
                identities.append((status.st_dev, status.st_ino))
        return identities

    def purge_clock(self, keep_s: float, wall: float, monotonic: float) -> PurgeClock:
        """The clock for `purge`, continued from the file."""
        row = self._db.execute("SELECT trusted, hold_s FROM purge_clock").fetchone()
        if row is None:
            (newest,) = self._db.execute(
                # Per source, the index gives the last entry; of all, SQLite would read every row.
                "SELECT max((SELECT max(at) FROM result WHERE source = id)) FROM source"
            ).fetchone()
            row = newest, 0.0
        trusted, hold_s = row
        return PurgeClock(keep_s, trusted, hold_s, wall, monotonic)

    def save_purge_clock(self, clock: PurgeClock) -> None:
        """Store the state of the clock.

        Raises:
            sqlite3.Error: it was not stored.
        """
        self._db.execute(
            "INSERT OR REPLACE INTO purge_clock VALUES (1, ?, ?)", (clock.trusted, clock.hold_s)
        )

    def write(self, messages: Sequence[tuple[public.Public, float]]) -> None:
        """Commit messages in one transaction.

        Args:
            messages: each message with its arrival time (unix time in seconds).

        Raises:
            sqlite3.Error: the transaction failed; none of the messages was written.
        """
        before = (dict(self._sources), dict(self._labels), self._health, self._health_due)
        progress = dict(self.progress)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for message, arrived in messages:
                try:
                    self._put(message, arrived)
                except (OverflowError, UnicodeEncodeError):
                    self.refused += 1  # an integer of more than 64 bits, or a lone surrogate
            self._bins.flush()
            self._db.execute("COMMIT")
        except sqlite3.Error:
            # The caches must not contain rows of the transaction that failed.
            self._sources, self._labels, self._health, self._health_due = before
            self.progress = progress
            self._bins.drop()
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _put(self, message: public.Public, arrived: float) -> None:
        match message:
            case public.Result() as r:
                source, at = self._source(r), r.time or arrived
                new = self._db.execute(
                    "INSERT OR IGNORE INTO result VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        *(source, r.seq, at, r.start, r.end, r.state, r.emotion),
                        *(r.confidence, r.reason, round(r.rms_db, 2), r.lost, r.skipped),
                        *(self._by_label(source, r.smoothed), (r.timing_ms or {}).get("total")),
                        _rounded(r.dimensions),
                    ),
                ).rowcount
                if new:
                    self._bins.add(
                        *(r.stream, at, r.state, r.emotion, r.confidence, r.rms_db, float(r.lost)),
                        r.dimensions,
                    )
                self._count(r)
            case public.Utterance() as u:
                source, at = self._source(u), u.time or arrived
                new = self._db.execute(
                    "INSERT OR IGNORE INTO utterance VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        *(source, u.start, u.end, at, u.seq, u.emotion),
                        *(u.confidence, u.reason, _rounded(u.probabilities), u.windows),
                        _rounded(None if u.prosody is None else vars(u.prosody)),
                        _rounded(u.dimensions),
                    ),
                ).rowcount
                if new:
                    self._bins.add(u.stream, at, UTTERANCE, u.emotion, u.confidence)
            case public.Health() as h:
                shape = (
                    h.state,
                    *((s.name, s.state, s.restarts, s.reason) for s in h.stages),
                    *((s.name, s.state) for s in h.streams),
                )
                due = abs(h.time - self._health_due + HEALTH_EVERY_S) >= HEALTH_EVERY_S
                if shape != self._health or due:  # the wall clock can jump back as well
                    self._health, self._health_due = shape, h.time + HEALTH_EVERY_S
                    text = json.dumps(public.to_json_map(h))
                    self._db.execute(
                        "INSERT OR IGNORE INTO health VALUES (?,?,?)", (h.time, h.state, text)
                    )

    def _count(self, result: public.Result) -> None:
        """Count the windows that are missing before a result. The count survives a restart."""
        key = result.stream, result.run
        if key not in self.progress:
            row = self._db.execute(
                "SELECT next, lost FROM progress WHERE stream = ? AND run = ?", key
            ).fetchone()
            self.progress[key] = row or (0 if self._whole_runs else result.seq, 0)
            self._db.execute(
                "DELETE FROM progress WHERE rowid <= (SELECT max(rowid) FROM progress) - ?",
                (PROGRESS_ROWS,),
            )
        following, lost = self.progress[key]
        lost += max(0, result.seq - following)
        following = max(following, result.next_seq)
        self.progress[key] = following, lost
        self._db.execute(
            "INSERT INTO progress VALUES (?, ?, ?, ?) ON CONFLICT (stream, run) "
            "DO UPDATE SET next = excluded.next, lost = excluded.lost",
            (*key, following, lost),
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
        """Probabilities as JSON, in the order of the source's labels.

        The first row with probabilities defines that order.
        """
        if smoothed is None:
            return None
        if source not in self._labels:
            self._labels[source] = [*smoothed]
            labels = json.dumps(self._labels[source])
            self._db.execute("UPDATE source SET labels = ? WHERE id = ?", (labels, source))
        return json.dumps([round(smoothed.get(x, 0.0), DIGITS) for x in self._labels[source]])

    def purge(self, before: float) -> int:
        """Delete up to `PURGE_ROWS` rows of each table that are older than a unix time.

        Bins go with them: a bin that has an older part stays until all of it is older.

        Returns:
            The number of deleted rows; 0 when no older row is left.

        Raises:
            sqlite3.Error: nothing was deleted.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            removed = self._delete(before)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        if removed:
            self._sources.clear()
            self._labels.clear()
            # `execute` would take one step of this statement, which frees one page.
            self._db.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        return removed

    def _delete(self, before: float) -> int:
        removed = 0
        for table, key in (("result", "source, seq"), ("utterance", "source, first")):
            removed += self._db.execute(
                f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM source "
                f"CROSS JOIN {table} ON {table}.source = source.id WHERE at < ? LIMIT ?)",
                (before, PURGE_ROWS),
            ).rowcount
        removed += self._db.execute(
            "DELETE FROM health WHERE at IN (SELECT at FROM health WHERE at < ? LIMIT ?)",
            (before, PURGE_ROWS),
        ).rowcount
        if removed:
            self._db.execute(
                "DELETE FROM source WHERE NOT EXISTS (SELECT 1 FROM result WHERE source = id) "
                "AND NOT EXISTS (SELECT 1 FROM utterance WHERE source = id)"
            )
            # A window and an utterance are in one bin of each length, or in one per dimension.
            self._bins.purge(before, 3 * PURGE_ROWS)
        return removed

    def count_older(self) -> bool:
        """Count some rows of a file of an earlier version into bins; whether more are left.

        Raises:
            sqlite3.Error: nothing was counted.
        """
        return self._bins.fill()

    def close(self) -> None:
        """Checkpoint the write-ahead log into the file and close it."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()


def _rounded(table: Mapping[str, float | None] | None) -> str | None:
    if table is None:
        return None
    return json.dumps({k: None if v is None else round(v, DIGITS) for k, v in table.items()})

"""The file of the review: utterances with their sound, until a person has judged them.

The stage `review` writes sound and deletes it, the page reads it and asks for more; the file is all
that they share. Deleted sound is overwritten with zeros in the file (`secure_delete`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire.public import Utterance
from speech_emotion.dashboard.history.purge_clock import PurgeClock
from speech_emotion.dashboard.history.schema import CLOCK_TABLE
from speech_emotion.dashboard.review_messages import KeptUtterance

APPLICATION = 0x53455032
"""SQLite's `application_id`: "SEP2"."""
VERSION = 1
BUSY_S = 2.0
"""Time that SQLite waits for the lock of the other process before a call fails."""
MAX_REQUESTED = 200
"""Utterances kept by the button; further ones are refused until some are judged or old."""
LONGEST_S = 20.0
"""Seconds of sound that are kept of one utterance, the last ones, at most."""
MAX_WAITING_REQUESTS = 20
"""Requests that wait for the stage."""

TABLES = """
CREATE TABLE kept (
    id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, run TEXT NOT NULL,
    seq INTEGER NOT NULL, at REAL NOT NULL, time REAL, seconds REAL NOT NULL,
    emotion TEXT NOT NULL, confidence REAL NOT NULL, probabilities TEXT NOT NULL,
    bundle TEXT NOT NULL, doubt REAL NOT NULL, asked INTEGER NOT NULL, sound BLOB NOT NULL,
    UNIQUE (stream, run, seq)
);
CREATE TABLE wanted (
    stream TEXT NOT NULL, run TEXT NOT NULL, seq INTEGER NOT NULL, UNIQUE (stream, run, seq)
);
"""
COLUMNS = "id, stream, run, seq, time, seconds, emotion, confidence, probabilities, bundle, asked"
INSERT = """
INSERT INTO kept (stream, run, seq, at, time, seconds, emotion, confidence, probabilities, bundle,
    doubt, asked, sound) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (stream, run, seq) DO UPDATE SET asked = max(asked, excluded.asked)
"""
REDUCE = """
DELETE FROM kept WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER best AS place, sum(length(sound)) OVER best AS bytes
        FROM kept WHERE NOT asked WINDOW best AS (ORDER BY doubt DESC, id DESC)
    ) WHERE place > ? OR bytes > ?
)
"""
"""Removes the least uncertain utterances of the queue beyond a number and beyond some bytes."""


@dataclasses.dataclass(frozen=True)
class Sound:
    """The sound of an utterance: a WAV file, and its length in seconds."""

    wav: bytes
    seconds: float


class ReviewStore:
    """Access to the file for the stage and for the page, from any thread; each call opens it anew.

    Args:
        path: created with mode 0600 by `create`.
        most_bytes: most sound that is kept at once.
    """

    def __init__(self, path: Path, most_bytes: int = 50_000_000) -> None:
        self._path = path
        self._most_bytes = most_bytes

    def create(self) -> None:
        """Make the file where it does not exist.

        Raises:
            UserError: it cannot be written, or it is another program's file.
        """
        try:
            if not self._path.exists():
                self._make()
            with self._open() as db:
                (application,) = db.execute("PRAGMA application_id").fetchone()
                if application != APPLICATION:
                    raise UserError(f"{self._path}: is not a review file; name another one")
        except (OSError, sqlite3.Error) as error:
            absent = isinstance(error, FileNotFoundError)
            cause = f"there is no folder {self._path.parent}" if absent else error
            raise UserError(f"{self._path}: cannot be used for the review ({cause})") from None

    def _make(self) -> None:
        """Make the file under another name first: the page never meets one without tables."""
        making = ReviewStore(self._path.with_name(f".{self._path.name}.{os.getpid()}"))
        making._path.unlink(missing_ok=True)
        os.close(os.open(making._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with making._open() as db:
                db.executescript(
                    f"BEGIN; {TABLES} {CLOCK_TABLE}; PRAGMA application_id = {APPLICATION}; "
                    f"PRAGMA user_version = {VERSION}; COMMIT;"
                )
            making._path.replace(self._path)
        finally:
            making._path.unlink(missing_ok=True)
            making._path.with_name(f"{making._path.name}-journal").unlink(missing_ok=True)

    # The stage ---------------------------------------------------------------------------

    def keep(self, one: Utterance, sound: Sound, at: float, *, asked: bool, queue: int) -> bool:
        """Keep an utterance; False if there is no place for it.

        Args:
            at: trusted unix time.
            asked: a person asked for it; else it takes part in the queue.
            queue: number of utterances that are kept without being asked for.
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            number, held = db.execute(
                "SELECT count(*), coalesce(sum(length(sound)), 0) FROM kept WHERE asked"
            ).fetchone()
            room = self._most_bytes - held
            if asked:
                room -= len(sound.wav)
                if number >= MAX_REQUESTED or room < 0:
                    return False
            key = (one.stream, one.run, one.seq)
            row = (
                *(*key, at, one.time, sound.seconds, one.emotion, one.confidence),
                *(json.dumps(one.probabilities), one.bundle, doubt(one), asked, sound.wav),
            )
            db.execute(INSERT, row)
            db.execute(REDUCE, (queue, room))
            found = db.execute(
                "SELECT 1 FROM kept WHERE stream = ? AND run = ? AND seq = ?", key
            ).fetchone()
            db.execute("COMMIT")
        return found is not None

    def doubt_threshold(self, queue: int) -> float:
        """Doubt that an utterance must exceed to take part in the queue."""
        if queue == 0:
            return math.inf
        with self._open() as db:
            row = db.execute(
                "SELECT doubt FROM kept WHERE NOT asked ORDER BY doubt DESC LIMIT 1 OFFSET ?",
                (queue - 1,),
            ).fetchone()
        return -math.inf if row is None else float(row[0])

    def take_wanted(self) -> list[tuple[str, str, int]]:
        """Utterances that a page asked for: stream, run, seq; each is given once."""
        with self._open() as db:
            if not db.execute("SELECT 1 FROM wanted LIMIT 1").fetchone():
                return []
            return db.execute("DELETE FROM wanted RETURNING stream, run, seq").fetchall()

    def purge(
        self, keep_s: float, wall: float, boot: float, clock: PurgeClock | None
    ) -> PurgeClock:
        """Delete what is older than `keep_s` seconds by a clock that does not follow jumps.

        Args:
            wall: unix time in seconds.
            boot: CLOCK_BOOTTIME in seconds.
            clock: of the call before; None: it continues from the file.
        """
        with self._open() as db:
            if clock is None:
                stored = db.execute("SELECT trusted, hold_s FROM purge_clock").fetchone()
                known, hold_s = stored or (None, 0.0)
                clock = PurgeClock(keep_s, known, hold_s, wall, boot)
            trusted = clock.update(wall, boot)
            db.execute("DELETE FROM kept WHERE at <= ?", (trusted - keep_s,))
            db.execute(
                "INSERT OR REPLACE INTO purge_clock VALUES (1, ?, ?)", (trusted, clock.hold_s)
            )
        return clock

    # The page ----------------------------------------------------------------------------

    def list(self) -> list[KeptUtterance]:
        """What waits for a person: asked for, newest first; then the most uncertain first."""
        with self._open() as db:
            rows = db.execute(
                f"SELECT {COLUMNS} FROM kept ORDER BY asked DESC, "
                "CASE WHEN asked THEN -id ELSE -doubt END, id DESC"
            ).fetchall()
        return [_kept(row) for row in rows]

    def sound(self, number: int) -> bytes | None:
        """The WAV file of a row; None if it is gone."""
        with self._open() as db:
            row = db.execute("SELECT sound FROM kept WHERE id = ?", (number,)).fetchone()
        return None if row is None else bytes(row[0])

    def find(self, number: int) -> KeptUtterance | None:
        """A row; None if it is gone."""
        with self._open() as db:
            row = db.execute(f"SELECT {COLUMNS} FROM kept WHERE id = ?", (number,)).fetchone()
        return None if row is None else _kept(row)

    def delete(self, number: int) -> None:
        """Delete a row with its sound."""
        with self._open() as db:
            db.execute("DELETE FROM kept WHERE id = ?", (number,))

    def want(self, stream: str, run: str, seq: int) -> bool:
        """Ask the stage for an utterance; False if too many wait: it may not be running."""
        with self._open() as db:
            (waiting,) = db.execute("SELECT count(*) FROM wanted").fetchone()
            if waiting >= MAX_WAITING_REQUESTS:
                return False
            db.execute("INSERT OR IGNORE INTO wanted VALUES (?, ?, ?)", (stream, run, seq))
        return True

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        uri = f"{self._path.resolve().as_uri()}?mode=rw"
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
        try:
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA journal_mode = TRUNCATE")
            yield db
        finally:
            db.close()


def _kept(row: tuple[Any, ...]) -> KeptUtterance:
    number, stream, run, seq, time, seconds, emotion, confidence, probabilities, bundle, asked = row
    each = json.loads(probabilities)
    return KeptUtterance(
        *(number, stream, run, seq, time, seconds, emotion, confidence, each, bundle, bool(asked))
    )


def doubt(one: Utterance) -> float:
    """How uncertain an utterance is: the entropy of its probabilities, 0 to 1."""
    values = [p for p in one.probabilities.values() if p > 0.0]
    return -sum(p * math.log(p) for p in values) / math.log(max(2, len(one.probabilities)))

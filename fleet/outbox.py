"""The outbox: a SQLite file with what the server has not accepted yet, and the place in the hub.

Messages and progress are one transaction: what was not written when a process died is taken again
from the hub, and nothing twice.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from speech_emotion.common.closing import Closing
from speech_emotion.common.stage.state_database import StateDatabase
from speech_emotion.fleet.messages import STATES, Record, subject

APPLICATION = 0x53455046
"""SQLite's `application_id`: "SEPF"."""
SCHEMA_VERSION = 1
OVERHEAD = 160
"""Bytes of a message in the file beside its body."""
ROOM = 0.98
"""Part of the limit that is filled after the oldest messages were dropped."""

TABLES = """
CREATE TABLE message (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, subject TEXT NOT NULL,
    id TEXT, body BLOB NOT NULL
);
CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
ID, SEQUENCE = "outbox/name", "outbox/sequence"


class Waiting(NamedTuple):
    """A message that the server has not accepted.

    Attributes:
        number: the messages of an outbox are numbered from 1, without a hole.
        at: unix time in seconds at which it was written.
        id: `Nats-Msg-Id`.
    """

    number: int
    at: float
    subject: str
    id: str
    body: bytes


class Outbox(Closing):
    """The file; use it from one thread.

    Args:
        path: created with mode 0600 if it does not exist.
        site, box: parts of the subjects.
        limit: size in bytes from which the oldest messages are dropped.

    Attributes:
        id: random, of the file.
        dropped: messages dropped by this object.
        sequence: greatest sequence number of the stream that the server has answered.

    Raises:
        UserError: the file cannot be used, or another pipeline uses it.
        DeviceError: another program holds its lock; a later try can succeed.
    """

    def __init__(self, path: Path, site: str, box: str, limit: int) -> None:
        self.dropped = 0
        self._place = site, box
        self._limit = limit
        self._file = StateDatabase(
            path,
            application=APPLICATION,
            version=SCHEMA_VERSION,
            tables=TABLES,
            kind="outbox",
            taken="set nats.outbox",
        )
        db = self._file.db
        with self._file.transaction():
            db.execute("INSERT OR IGNORE INTO state VALUES (?, ?)", (ID, secrets.token_hex(8)))
        kept = dict(db.execute("SELECT key, value FROM state WHERE key LIKE 'outbox/%'"))
        self.id = str(kept[ID])
        self.sequence = int(kept.get(SEQUENCE, 0))
        self.bytes, self.waiting = db.execute(
            f"SELECT coalesce(sum(length(body) + {OVERHEAD}), 0), count(*) FROM message"
        ).fetchone()

    def in_place(self) -> bool:
        """Whether the path still names the open file: another program can remove it."""
        return self._file.in_place()

    def states(self) -> dict[str, str]:
        """The progress, the oldest first."""
        return dict(
            self._file.db.execute(
                "SELECT key, value FROM state WHERE key NOT LIKE 'outbox/%' ORDER BY rowid"
            )
        )

    def commit(
        self, records: Sequence[Record], accepted: Sequence[Waiting] = (), sequence: int = 0
    ) -> None:
        """Add records and remove what the server has accepted; on the disk at the return.

        Args:
            sequence: greatest sequence number among the server's answers.

        Raises:
            sqlite3.Error: nothing was written.
        """
        now, reached = time.time(), max(self.sequence, sequence)
        size, waiting, dropped = self.bytes, self.waiting, 0
        with self._file.transaction() as db:
            for number, length in db.execute(
                "SELECT number, length(body) FROM message WHERE number IN "
                f"({','.join(str(one.number) for one in accepted)})"
            ).fetchall():
                db.execute("DELETE FROM message WHERE number = ?", (number,))
                size, waiting = size - length - OVERHEAD, waiting - 1
            for record in records:
                target = subject(*self._place, record.stream, record.kind)
                db.execute(
                    "INSERT INTO message (at, subject, id, body) VALUES (?, ?, ?, ?)",
                    (now, target, record.id, record.body),
                )
                size, waiting = size + len(record.body) + OVERHEAD, waiting + 1
                if record.mark is not None:
                    db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", record.mark)
            if reached != self.sequence:
                db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (SEQUENCE, str(reached)))
            db.execute(
                "DELETE FROM state WHERE key NOT LIKE 'outbox/%' AND rowid <= "
                "(SELECT max(rowid) FROM state) - ?",
                (STATES,),
            )
            if size > self._limit:
                for number, length in db.execute(
                    "SELECT number, length(body) FROM message ORDER BY number"
                ).fetchall():
                    if size <= ROOM * self._limit:
                        break
                    db.execute("DELETE FROM message WHERE number = ?", (number,))
                    size, waiting, dropped = size - length - OVERHEAD, waiting - 1, dropped + 1
        self.bytes, self.waiting, self.sequence = size, waiting, reached
        self.dropped += dropped

    def oldest(self, limit: int) -> list[Waiting]:
        """The oldest messages."""
        rows = self._file.db.execute(
            "SELECT number, at, subject, id, body FROM message ORDER BY number LIMIT ?", (limit,)
        )
        return [
            Waiting(number, at, target, id or f"{self.id}/{number}", body)
            for number, at, target, id, body in rows
        ]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

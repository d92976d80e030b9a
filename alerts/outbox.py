"""The outbox: a SQLite file with the alerts to deliver, the newest delivered ones, and the states.

States and alerts of the same messages are one transaction: after a crash the messages that came
later are judged again, from the states before them, and raise the same alerts again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.evaluation import Key
from speech_emotion.alerts.rules import RuleState
from speech_emotion.common.errors import DeviceError, UserError

SCHEMA_VERSION = 1
APPLICATION = 0x53455041
"""SQLite's `application_id`: "SEPA"."""
BUSY_S = 2.0
"""Time that SQLite waits for the lock of another program before a call fails."""
BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
KEPT = 200
"""Deliveries that have ended and stay in the file, for the page."""

TABLES = """
CREATE TABLE rule_state (
    rule TEXT NOT NULL, stream TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (rule, stream)
) WITHOUT ROWID;
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY, alert TEXT NOT NULL, address TEXT NOT NULL, body TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL, failure TEXT, ended REAL,
    UNIQUE (alert, address)
);
CREATE INDEX delivery_state ON delivery (state);
"""

WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given up"


@dataclasses.dataclass(frozen=True)
class Delivery:
    """One alert to one address.

    Attributes:
        alert: what is sent.
        address: `AlertAddress.key`; the file holds no credentials.
        state: `waiting`, `delivered` or `given up`.
        attempts: attempts that have ended.
        failure: why the last attempt failed.
        ended: unix time in seconds at which it was delivered or given up.
    """

    alert: Alert
    address: str
    state: str = WAITING
    attempts: int = 0
    failure: str | None = None
    ended: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes it this delivery."""
        return self.alert.id, self.address


class Outbox:
    """The file; use it from one thread.

    Args:
        path: created with mode 0600 if it does not exist.

    Raises:
        UserError: the file cannot be used, or another pipeline uses it.
        DeviceError: another program holds its lock; a later try can succeed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.ExitStack() as opened:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                opened.callback(os.close, _locked(path))
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                self._db = sqlite3.connect(
                    path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
                )
                opened.callback(self._db.close)
                _prepare(self._db)
                self._inode = path.stat().st_ino
            except BlockingIOError:
                raise UserError(
                    f"{path}: another pipeline delivers its alerts; set outbox.file"
                ) from None
            except (OSError, sqlite3.Error) as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in BUSY_CODES:
                    raise DeviceError(f"{path}: another program holds its lock") from None
                reason = getattr(error, "strerror", None) or error
                raise UserError(f"{path}: cannot be used as outbox ({reason})") from None
            self._opened = opened.pop_all()

    def in_place(self) -> bool:
        """Whether the path still names the open file: another program can remove it."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def states(self) -> dict[Key, RuleState]:
        """The states of all rules; one that a later version wrote is left out."""
        states = {}
        for rule, stream, text in self._db.execute("SELECT rule, stream, state FROM rule_state"):
            with contextlib.suppress(ValueError, TypeError):
                states[rule, stream] = RuleState(**json.loads(text))
        return states

    def deliveries(self) -> list[Delivery]:
        """Every delivery, the oldest first; one that a later version wrote is left out."""
        found = []
        for body, *rest in self._db.execute(
            "SELECT body, address, state, attempts, failure, ended FROM delivery ORDER BY id"
        ):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                found.append(Delivery(Alert.from_json(body), *rest))
        return found

    def commit(self, states: Mapping[Key, RuleState], deliveries: Iterable[Delivery]) -> None:
        """Write states and deliveries in one transaction; it is on the disk at the return.

        Raises:
            sqlite3.Error: nothing was written.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR REPLACE INTO rule_state VALUES (?, ?, ?)",
                ((*key, json.dumps(dataclasses.asdict(s))) for key, s in states.items()),
            )
            self._db.executemany(
                "INSERT INTO delivery (alert, address, body, state, attempts, failure, ended) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (alert, address) DO UPDATE SET "
                "state = excluded.state, attempts = excluded.attempts, "
                "failure = excluded.failure, ended = excluded.ended",
                (
                    (*d.key, d.alert.to_json(), d.state, d.attempts, d.failure, d.ended)
                    for d in deliveries
                ),
            )
            self._db.execute(
                "DELETE FROM delivery WHERE state <> 'waiting' AND id <= (SELECT id FROM delivery "
                "WHERE state <> 'waiting' ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (KEPT,),
            )
            self._db.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


def _prepare(db: sqlite3.Connection) -> None:
    """Make the tables of a new file. Raises sqlite3.Error for a file of another program."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    fresh = not db.execute("SELECT 1 FROM sqlite_schema").fetchone()
    if not fresh and (application, version) != (APPLICATION, SCHEMA_VERSION):
        raise sqlite3.DatabaseError("it belongs to another program or another version")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if fresh:
        db.executescript(
            f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; "
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )


def _locked(path: Path) -> int:
    """The descriptor of a lock that lasts as long as this process; raises BlockingIOError."""
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor

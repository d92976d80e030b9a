"""A SQLite file that one process keeps over its restarts: locked, checked, durable."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import DeviceError, UserError

BUSY_S = 2.0
"""Time that SQLite waits for the lock of another program before a call fails."""
BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class StateDatabase(Closing):
    """The open file; use it from one thread at a time. A commit is on the disk when it returns.

    Args:
        path: created with mode 0600 if it does not exist.
        application: SQLite's `application_id` of such files.
        version: of the schema.
        tables: statements that make the tables of a new file.
        kind: what the file is, for the text of an error: `outbox`.
        taken: what to do where another process has it: `set outbox.file`.

    Attributes:
        db: the connection, in autocommit mode.

    Raises:
        UserError: the file cannot be used, or another process uses it.
        DeviceError: another program holds SQLite's lock; a later try can succeed.
    """

    def __init__(
        self, path: Path, *, application: int, version: int, tables: str, kind: str, taken: str
    ) -> None:
        self._path = path
        with contextlib.ExitStack() as opened:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                opened.callback(os.close, _locked(path))
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                self.db = sqlite3.connect(
                    path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
                )
                opened.callback(self.db.close)
                _prepare(self.db, application, version, tables)
                self._inode = path.stat().st_ino
            except BlockingIOError:
                raise UserError(f"{path}: another pipeline uses this {kind}; {taken}") from None
            except (OSError, sqlite3.Error) as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in BUSY_CODES:
                    raise DeviceError(f"{path}: another program holds its lock") from None
                reason = getattr(error, "strerror", None) or error
                raise UserError(f"{path}: cannot be used as {kind} ({reason})") from None
            self._opened = opened.pop_all()

    def in_place(self) -> bool:
        """Whether the path still names the open file: another program can remove it."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what is done in the block; after an error nothing of it is in the file.

        Raises:
            sqlite3.Error: nothing was written.
        """
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file and release its lock."""
        self._opened.close()


def _prepare(db: sqlite3.Connection, application: int, version: int, tables: str) -> None:
    """Make the tables of a new file. Raises sqlite3.Error for a file of another program."""
    (found,) = db.execute("PRAGMA application_id").fetchone()
    (found_version,) = db.execute("PRAGMA user_version").fetchone()
    fresh = not db.execute("SELECT 1 FROM sqlite_schema").fetchone()
    if not fresh and (found, found_version) != (application, version):
        raise sqlite3.DatabaseError("it belongs to another program or another version")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if fresh:
        db.executescript(
            f"BEGIN; {tables} PRAGMA application_id = {application}; "
            f"PRAGMA user_version = {version}; COMMIT;"
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

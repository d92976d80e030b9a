"""The outbox: a SQLite file with the alerts to deliver, the newest delivered ones, and the states.

States and alerts of the same messages are one transaction: after a crash the messages that came
later are judged again, from the states before them, and raise the same alerts again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.evaluation import Key
from speech_emotion.alerts.rules import RuleState
from speech_emotion.common.closing import Closing
from speech_emotion.common.stage.state_database import StateDatabase

SCHEMA_VERSION = 1
APPLICATION = 0x53455041
"""SQLite's `application_id`: "SEPA"."""
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


class Outbox(Closing):
    """The file; use it from one thread.

    Args:
        path: created with mode 0600 if it does not exist.

    Raises:
        UserError: the file cannot be used, or another pipeline uses it.
        DeviceError: another program holds its lock; a later try can succeed.
    """

    def __init__(self, path: Path) -> None:
        self._file = StateDatabase(
            path,
            application=APPLICATION,
            version=SCHEMA_VERSION,
            tables=TABLES,
            kind="outbox",
            taken="set outbox.file",
        )
        self._db = self._file.db

    def in_place(self) -> bool:
        """Whether the path still names the open file: another program can remove it."""
        return self._file.in_place()

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
        with self._file.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO rule_state VALUES (?, ?, ?)",
                ((*key, json.dumps(dataclasses.asdict(s))) for key, s in states.items()),
            )
            db.executemany(
                "INSERT INTO delivery (alert, address, body, state, attempts, failure, ended) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (alert, address) DO UPDATE SET "
                "state = excluded.state, attempts = excluded.attempts, "
                "failure = excluded.failure, ended = excluded.ended",
                (
                    (*d.key, d.alert.to_json(), d.state, d.attempts, d.failure, d.ended)
                    for d in deliveries
                ),
            )
            db.execute(
                "DELETE FROM delivery WHERE state <> 'waiting' AND id <= (SELECT id FROM delivery "
                "WHERE state <> 'waiting' ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (KEPT,),
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

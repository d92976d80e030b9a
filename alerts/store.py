"""What is to be delivered, in memory and, by a thread of its own, in the outbox.

A disk that stalls delays neither heartbeats nor the receipt of messages.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from speech_emotion.alerts.evaluation import Key
from speech_emotion.alerts.outbox import KEPT, WAITING, Delivery, Outbox
from speech_emotion.alerts.rules import RuleState
from speech_emotion.common.errors import DeviceError, UserError

log = logging.getLogger("alerts")

COMMIT_S = 1.0
"""Time between two commits of states without an alert. The hub sends the results of at least the
last five seconds again after a restart."""
RETRY_S = 2.0
MAX_UNWRITTEN = 10_000
"""Deliveries that have ended and are kept in memory while the file cannot be written. What has
become of more is forgotten, and they are sent again after a restart."""


class Store:
    """All deliveries. Any thread may call any method.

    Args:
        path: file of the outbox.
        stored: called from the store's thread with new deliveries, when they are on the disk.

    Attributes:
        loaded: the states of the file.
        unwritten: deliveries that were passed on although the file could not be written.

    Raises:
        UserError: the file cannot be used.
        DeviceError: another program holds its lock.
    """

    def __init__(self, path: Path, stored: Callable[[list[Delivery]], None]) -> None:
        self.unwritten = 0
        self._path = path
        self._outbox: Outbox | None = Outbox(path)
        self.loaded = self._outbox.states()
        self._deliveries = {one.key: one for one in self._outbox.deliveries()}
        self._states: dict[Key, RuleState] = dict(self.loaded)
        self._changed_states: set[Key] = set()
        self._changed: dict[tuple[str, str], None] = {}
        self._new: list[Delivery] = []
        self._stored = stored
        self._busy = False
        self._stopping = False
        self._failing = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def waiting(self) -> list[Delivery]:
        """The deliveries that wait, the oldest first."""
        with self._news:
            return [one for one in self._deliveries.values() if one.state == WAITING]

    def newest(self, number: int) -> list[Delivery]:
        """The newest deliveries, the newest first."""
        with self._news:
            return list(self._deliveries.values())[: -number - 1 : -1]

    def put(self, states: Mapping[Key, RuleState], deliveries: Iterable[Delivery]) -> None:
        """Keep new states, and new deliveries that are passed on when they are on the disk."""
        with self._news:
            self._states.update(states)
            self._changed_states.update(states)
            new = [one for one in deliveries if one.key not in self._deliveries]
            for one in new:
                self._deliveries[one.key] = one
                self._changed[one.key] = None
            self._new += new
            if new:
                self._news.notify_all()

    def settle(self, delivery: Delivery) -> None:
        """Keep what has become of a delivery."""
        with self._news:
            self._deliveries[delivery.key] = delivery
            self._changed[delivery.key] = None
            self._news.notify_all()

    def flush(self, limit_s: float) -> None:
        """Wait until all new deliveries were passed on, for `limit_s` seconds at most."""
        with self._news:
            self._news.wait_for(lambda: not self._new and not self._busy, limit_s)

    def stop(self, limit_s: float) -> None:
        """Write everything, for `limit_s` seconds at most, and end the thread."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        self._thread.join(limit_s)
        if self._thread.is_alive() or self._changed:
            log.error("%s cannot be written: the newest alerts may be sent again", self._path)
        elif self._outbox is not None:
            self._outbox.close()

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Write what has changed; False where the thread ends."""
        with self._news:
            if not self._changed and not self._stopping:
                self._news.wait(COMMIT_S)
            ending = self._stopping
            states = {key: self._states[key] for key in self._changed_states}
            changed = [self._deliveries[key] for key in self._changed]
            new, self._new, self._busy = self._new, [], True
            self._changed_states.clear()
            self._changed.clear()
        written = not (states or changed) or self._write(states, changed)
        if not written:
            with self._news:
                self._changed_states.update(states)
                self._changed.update(dict.fromkeys(one.key for one in changed))
                self.unwritten += len(new)
        if new:
            self._stored(new)  # an alert that cannot be kept is sent all the same
        with self._news:
            self._busy = False
            self._forget(KEPT if written else MAX_UNWRITTEN)
            self._news.notify_all()
        if not written and not ending:
            time.sleep(RETRY_S)
        return not ending

    def _forget(self, limit: int) -> None:
        """Forget the oldest deliveries that have ended and are in the file."""
        ended = [key for key, one in self._deliveries.items() if one.state != WAITING]
        for key in ended[: max(0, len(ended) - limit)]:
            if key not in self._changed or len(self._changed) > MAX_UNWRITTEN:
                del self._deliveries[key]
                self._changed.pop(key, None)

    def _write(self, states: Mapping[Key, RuleState], deliveries: list[Delivery]) -> bool:
        try:
            outbox = self._open()
            outbox.commit(states, deliveries)
        except (sqlite3.Error, OSError, UserError, DeviceError) as error:
            if not self._failing:
                log.error(
                    "outbox %s cannot be written, next try in %g s: %s", self._path, RETRY_S, error
                )
            self._failing = True
            return False
        if self._failing:
            log.warning("outbox %s is written again", self._path)
        self._failing = False
        return True

    def _open(self) -> Outbox:
        """The file at the path; one that was removed or replaced is written anew."""
        if self._outbox is not None and not self._outbox.in_place():
            log.warning("%s was removed or replaced; a new outbox is written", self._path)
            self._outbox.close()
            self._outbox = None
        if self._outbox is None:
            outbox = Outbox(self._path)
            with self._news:
                states, deliveries = dict(self._states), list(self._deliveries.values())
            try:
                outbox.commit(states, deliveries)
            except BaseException:
                outbox.close()
                raise
            self._outbox = outbox
        return self._outbox

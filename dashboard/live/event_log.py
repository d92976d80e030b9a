"""The newest events of the pipeline, numbered: event streams send them and continue from them.

The log is shared: a client is a place in it, and needs no memory of its own. Use it in one thread,
that of the event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets

KEPT_S = 300.0
KEPT_CHARS = 8 << 20
"""Characters of all kept events; more drop the oldest."""
PART_CHARS = 1 << 18
"""About as many characters are taken at once: a slow client must not need more memory."""


@dataclasses.dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event.

    Attributes:
        number: its place since the server started, from 1.
        kind: `result`, `utterance` or `info`.
        stream: name of its stream.
        data: the message as JSON text.
        logged: CLOCK_MONOTONIC.
    """

    number: int
    kind: str
    stream: str
    data: str
    logged: float


class EventLog:
    """Events of the last minutes, bounded in time and size.

    Attributes:
        newest: number of the newest event; 0 before the first.
    """

    def __init__(self) -> None:
        self.newest = 0
        self.closed = False
        self._epoch = secrets.token_hex(4)
        self._events: list[LoggedEvent] = []
        self._dropped = 0
        """Events at the beginning of `_events` that are dropped and not removed yet."""
        self._chars = 0
        self._waiting: set[asyncio.Event] = set()

    def append(self, kind: str, stream: str, data: str, now: float) -> None:
        """Add an event and wake every client.

        Args:
            now: CLOCK_MONOTONIC in seconds.
        """
        self.newest += 1
        self._events.append(LoggedEvent(self.newest, kind, stream, data, now))
        self._chars += len(data)
        for oldest in self._events[self._dropped :]:
            if self._chars <= KEPT_CHARS and oldest.logged >= now - KEPT_S:
                break
            self._chars -= len(oldest.data)
            self._dropped += 1
        if self._dropped > len(self._events) // 2:
            del self._events[: self._dropped]
            self._dropped = 0
        self.notify()

    def since(self, number: int) -> tuple[list[LoggedEvent], int]:
        """Events after an event, oldest first, and how many between them are no longer kept.

        More than about `PART_CHARS` are left for the next call.
        """
        first = self.newest - len(self) + 1
        missed = max(0, first - 1 - number)
        start = self._dropped + max(0, number + 1 - first)
        part: list[LoggedEvent] = []
        chars = 0
        for place in range(start, len(self._events)):
            part.append(self._events[place])
            chars += len(part[-1].data)
            if chars > PART_CHARS:
                break
        return part, missed

    def name(self, number: int) -> str:
        """The id of an event for its clients; of no other server and of no later start."""
        return f"{self._epoch}-{number}"

    def number(self, name: str) -> int | None:
        """The number of an event by its id; None: this server has not given that id."""
        epoch, _, digits = name.partition("-")
        known = epoch == self._epoch and digits.isascii() and digits.isdigit() and len(digits) < 16
        return int(digits) if known and int(digits) <= self.newest else None

    def listen(self) -> asyncio.Event:
        """An event that is set at every change, until `leave`."""
        changed = asyncio.Event()
        self._waiting.add(changed)
        return changed

    def leave(self, changed: asyncio.Event) -> None:
        """Stop setting it."""
        self._waiting.discard(changed)

    def notify(self) -> None:
        """Wake every client: something has changed."""
        for changed in self._waiting:
            changed.set()

    def close(self) -> None:
        """End all event streams; clients reconnect."""
        self.closed = True
        self.notify()

    def __len__(self) -> int:
        return len(self._events) - self._dropped

"""Event streams: server-sent events that a client can continue after a lost connection."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable

from speech_emotion.dashboard import messages
from speech_emotion.dashboard.api.declared import RefusedError
from speech_emotion.dashboard.live.event_log import EventLog, LoggedEvent
from speech_emotion.dashboard.live.live_state import LiveState

CLIENTS = 64
"""Largest number of event streams."""
RETRY_MS = 500
"""Delay after which a client connects again."""
BATCH_S = 0.02
"""Events that arrive within this time are sent together."""
TURN_S = 1.0
"""Longest time between two checks whether the client may still read."""
QUIET_S = 15.0
"""After this time without an event the place of the client is sent: no proxy cuts it off."""
STATES = ("health", "status")
"""Kinds of which only the newest matters: they have no id and are not repeated."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a client has asked for.

    Attributes:
        kinds: kinds of events.
        stream: name of a stream; None: all.
        after: id of the last event that it has; None: none.
        wait: whether to wait for more.
    """

    kinds: tuple[str, ...]
    stream: str | None
    after: str | None
    wait: bool

    def has(self, event: LoggedEvent) -> bool:
        """Whether it has asked for an event."""
        return event.kind in self.kinds and self.stream in (None, event.stream)


class EventStreams:
    """All open event streams.

    Args:
        events: the newest events.
        live_state: the present.

    Attributes:
        missed: events that clients were too slow to get; each client got their number in `gap`.
    """

    def __init__(self, events: EventLog, live_state: LiveState) -> None:
        self.missed = 0
        self._events = events
        self._live_state = live_state
        self._open = 0

    def body(self, wanted: Wanted, allowed: Callable[[], bool]) -> AsyncIterator[str]:
        """The body of an answer.

        Args:
            allowed: whether the client may still read; the stream ends when it may not.

        Raises:
            RefusedError: too many are open.
        """
        if self._open >= CLIENTS:
            text = f"{CLIENTS} event streams are open already"
            raise RefusedError(503, text, {"retry-after": "5"})
        return self._body(wanted, allowed)

    async def _body(self, wanted: Wanted, allowed: Callable[[], bool]) -> AsyncIterator[str]:
        events, changed = self._events, self._events.listen()
        self._open += 1
        try:
            known = None if wanted.after is None else events.number(wanted.after)
            place = events.newest if known is None else known
            shown: dict[str, str] = {}
            text = f"retry: {RETRY_MS}\nid: {events.name(place)}\n\n"
            if wanted.after is not None and known is None:
                text += self._gap(wanted, shown, None, "the server was started anew")
            elif known is None:
                text += self._state(wanted, shown)
            yield text
            sent = checked = time.monotonic()
            while not events.closed:
                changed.clear()
                part, missed = events.since(place)
                place = part[-1].number if part else place + missed
                text = "".join(
                    _event(one.kind, one.data, events.name(one.number))
                    for one in part
                    if wanted.has(one)
                )
                if missed:
                    self.missed += missed
                    text = self._gap(wanted, shown, missed, "they are no longer kept") + text
                text += self._newest(wanted, shown)
                now = time.monotonic()
                if not text and (now - sent > QUIET_S or not wanted.wait):
                    text = f"id: {events.name(place)}\n\n"
                if text:
                    sent = now
                    yield text
                if place < events.newest:
                    continue
                if not wanted.wait:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), TURN_S)
                await asyncio.sleep(BATCH_S)
                if time.monotonic() - checked > TURN_S:
                    checked = time.monotonic()
                    if not allowed():
                        return
        finally:
            self._open -= 1
            events.leave(changed)

    def _gap(self, wanted: Wanted, shown: dict[str, str], missed: int | None, reason: str) -> str:
        """What was missed; then the present, where the client shows it."""
        gap = _event("gap", messages.to_json(messages.Gap(missed, reason)))
        return gap + self._state(wanted, shown)

    def _state(self, wanted: Wanted, shown: dict[str, str]) -> str:
        if "state" not in wanted.kinds:
            return ""
        shown.update(self._live_state.newest)
        return _event("state", messages.to_json(self._live_state.state()))

    def _newest(self, wanted: Wanted, shown: dict[str, str]) -> str:
        text = ""
        for kind in STATES:
            data = self._live_state.newest.get(kind)
            if kind in wanted.kinds and data is not None and shown.get(kind) is not data:
                shown[kind] = data
                text += _event(kind, data)
        return text


def _event(kind: str, data: str, name: str | None = None) -> str:
    place = "" if name is None else f"id: {name}\n"
    return f"{place}event: {kind}\ndata: {data}\n\n"

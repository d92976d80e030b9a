"""The way of messages from the pipeline's socket to the event loop that serves the pages."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from speech_emotion.common.client.results import (
    Event,
    Freshness,
    NewerProtocolError,
    Results,
    Status,
)
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import CurveClientKeys

TURN_S = 0.1
STATUS_S = 0.25
STATUS_EVERY_S = 1.0
"""Statuses go out when they change, and so often as a sign of life."""


def subscribe(endpoint: str, client_keys: CurveClientKeys | None = None) -> Results:
    """A subscription to everything; with keys, where the endpoint wants them.

    Raises:
        UserError: the endpoint is malformed, or a key is not usable.
    """
    try:
        return Results(endpoint, client_keys=client_keys)
    except ValueError as error:
        raise UserError(str(error)) from None


class Feed:
    """Receives in a thread, and hands every event to the loop; its death ends the process.

    Args:
        endpoint: where the pipeline publishes.
        event: called in the loop with every message.
        statuses: called in the loop with how fresh every stream is; "" is the pipeline.
        client_keys: keys, where the endpoint wants them.

    Raises:
        UserError: the endpoint is malformed.
    """

    def __init__(
        self,
        endpoint: str,
        loop: asyncio.AbstractEventLoop,
        event: Callable[[Event], None],
        statuses: Callable[[dict[str, Status]], None],
        client_keys: CurveClientKeys | None = None,
    ) -> None:
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self.turned = time.monotonic()
        """When the thread last came round; an old one means that it is stuck."""
        self.malformed = 0
        self._results = subscribe(endpoint, client_keys)
        self._loop = loop
        self._event = event
        self._statuses = statuses
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the receiving thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the subscription."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        told: dict[str, tuple[Freshness, str | None]] = {}
        look_due = tell_due = 0.0
        with self._results as results:
            while not self._stopping.is_set():
                try:
                    event = results.receive(TURN_S)
                except NewerProtocolError:
                    event = None  # told by the status, for as long as it lasts
                self.turned = now = time.monotonic()
                self.malformed = results.malformed
                if event is not None:
                    self._call(self._event, event)
                if now >= look_due:
                    look_due = now + STATUS_S
                    statuses = _statuses(results)
                    news = {name: (s.state, s.reason) for name, s in statuses.items()}
                    if news != told or now >= tell_due:
                        told, tell_due = news, now + STATUS_EVERY_S
                        self._call(self._statuses, statuses)

    def _call(self, function: Callable[..., None], argument: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)


def _statuses(results: Results) -> dict[str, Status]:
    names = [row.name for row in results.health.streams] if results.health else []
    return {"": results.status(), **{name: results.status(name) for name in names}}

"""Receives messages of the pipeline in a thread and passes them to the event loop."""

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
"""Statuses are sent when they change, and at this interval as a heartbeat of the page."""


def subscribe(endpoint: str, client_keys: CurveClientKeys | None = None) -> Results:
    """Subscribe to all messages of an endpoint.

    Raises:
        UserError: the endpoint is malformed, or a key cannot be used.
    """
    try:
        return Results(endpoint, client_keys=client_keys)
    except ValueError as error:
        raise UserError(str(error)) from None


class Feed:
    """Receives in a thread and calls back in the event loop; if the thread fails, the process ends.

    Args:
        endpoint: endpoint of the pipeline's results.
        on_event: called in the loop with each message.
        on_statuses: called in the loop with the freshness of each stream; "" is the pipeline.
        client_keys: key pair, if the endpoint requires one.

    Raises:
        UserError: the endpoint is malformed.
    """

    def __init__(
        self,
        endpoint: str,
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[Event], None],
        on_statuses: Callable[[dict[str, Status]], None],
        client_keys: CurveClientKeys | None = None,
    ) -> None:
        self.last_turn = time.monotonic()
        """CLOCK_MONOTONIC of the thread's last turn; an old one means that it is stuck."""
        self.malformed = 0
        self.lost = 0
        """Windows that were published and did not arrive, of all streams."""
        self._results = subscribe(endpoint, client_keys)
        self._loop = loop
        self._on_event = on_event
        self._on_statuses = on_statuses
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the subscription."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        sent: dict[str, tuple[Freshness, str | None]] = {}
        check_due = send_due = 0.0
        with self._results as results:
            while not self._stopping.is_set():
                try:
                    event = results.receive(TURN_S)
                except NewerProtocolError:
                    event = None  # the status reports it
                self.last_turn = now = time.monotonic()
                self.malformed, self.lost = results.malformed, results.lost.total()
                if event is not None:
                    self._call(self._on_event, event)
                if now >= check_due:
                    check_due = now + STATUS_S
                    statuses = _statuses(results)
                    states = {name: (s.state, s.reason) for name, s in statuses.items()}
                    if states != sent or now >= send_due:
                        sent, send_due = states, now + STATUS_EVERY_S
                        self._call(self._on_statuses, statuses)

    def _call(self, function: Callable[..., None], argument: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)


def _statuses(results: Results) -> dict[str, Status]:
    names = [row.name for row in results.health.streams] if results.health else []
    return {"": results.status(), **{name: results.status(name) for name in names}}

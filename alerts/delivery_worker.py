"""Delivers to one address, in order, in a thread of its own: a slow server delays only itself."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.channels import send
from speech_emotion.alerts.errors import DeliveryError
from speech_emotion.alerts.outbox import DELIVERED, GIVEN_UP, Delivery
from speech_emotion.common.alert_address import AlertAddress
from speech_emotion.common.errors import printable

log = logging.getLogger("alerts")

MAX_WAITING = 1000
"""Alerts that wait for one address; more drop the oldest, which is counted."""
BACKOFF_S = (1.0, 300.0)
"""First and longest time between two attempts; it doubles at each failure."""
LEAST_ATTEMPTS = 10
"""Attempts before an old alert is given up. A clock that is set ahead gives up none at once."""
MAX_FAILURE = 200
"""Longest text of a failure in characters."""


class DeliveryWorker:
    """Delivers alerts to one address until they arrive or are too old.

    Args:
        address: the address.
        settled: called from the thread with what has become of a delivery.
        give_up_s: age in seconds at which an alert is given up.
        send: sends one alert; raises DeliveryError.

    Attributes:
        delivered: alerts that arrived.
        failed: attempts that failed.
        dropped: alerts that were given up.
    """

    def __init__(
        self,
        address: AlertAddress,
        settled: Callable[[Delivery], None],
        give_up_s: float,
        send: Callable[[AlertAddress, Alert], None] = send,
    ) -> None:
        self.delivered = self.failed = self.dropped = 0
        self._address = address
        self._settled = settled
        self._give_up_s = give_up_s
        self._send = send
        self._waiting: deque[tuple[Delivery, float]] = deque()
        self._tests: deque[Delivery] = deque()
        self._failures = 0
        self._due = 0.0
        self._stopping = False
        self._news = threading.Condition()
        self._thread = threading.Thread(
            target=self._run, name=f"to {address.shown}"[:60], daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, delivery: Delivery) -> None:
        """Deliver it after those that wait; a test is tried at once, and once."""
        dropped = None
        with self._news:
            if delivery.alert.test:
                self._tests.append(delivery)
            else:
                if len(self._waiting) >= MAX_WAITING:
                    dropped, _ = self._waiting.popleft()
                self._waiting.append((delivery, time.monotonic()))
            self._news.notify()
        if dropped is not None:
            self._give_up(dropped, f"more than {MAX_WAITING} alerts waited")

    @property
    def waiting(self) -> int:
        """Alerts that wait, the one that is being sent included."""
        return len(self._waiting) + len(self._tests)

    def age_s(self) -> float:
        """Time in seconds that the oldest alert has waited in this process; 0 where none waits."""
        with self._news:
            return time.monotonic() - self._waiting[0][1] if self._waiting else 0.0

    def request_stop(self) -> None:
        """Deliver what can be delivered at once, then end the thread."""
        with self._news:
            self._stopping = True
            self._news.notify()

    def join(self, limit_s: float) -> None:
        """Wait for the end of the thread, for `limit_s` seconds at most."""
        self._thread.join(limit_s)

    def _run(self) -> None:
        while (delivery := self._next()) is not None:
            self._attempt(delivery)

    def _next(self) -> Delivery | None:
        """The next delivery to try, when it is due; None where the thread ends."""
        with self._news:
            while True:
                if self._tests:
                    return self._tests[0]
                left = self._due - time.monotonic()
                if self._waiting and left <= 0.0:
                    return self._waiting[0][0]
                if self._stopping:
                    return None
                self._news.wait(left if self._waiting else None)

    def _attempt(self, delivery: Delivery) -> None:
        failure = None
        try:
            self._send(self._address, delivery.alert)
        except DeliveryError as error:
            text = self._address.without_secrets(printable(str(error)))
            failure = text[:MAX_FAILURE]
        delivery = dataclasses.replace(delivery, attempts=delivery.attempts + 1, failure=failure)
        if failure is None:
            self._succeeded(delivery)
        elif delivery.alert.test:
            self.failed += 1
            self._remove(delivery)
            self._settled(dataclasses.replace(delivery, state=GIVEN_UP, ended=time.time()))
        else:
            self._failed(delivery, failure)

    def _succeeded(self, delivery: Delivery) -> None:
        if self._failures:
            log.info("alerts to %s are delivered again", self._address.shown)
        self.delivered += 1
        self._failures, self._due = 0, 0.0
        self._remove(delivery)
        self._settled(dataclasses.replace(delivery, state=DELIVERED, ended=time.time()))

    def _failed(self, delivery: Delivery, failure: str) -> None:
        self.failed += 1
        self._failures += 1
        first, longest = BACKOFF_S
        self._due = time.monotonic() + min(longest, first * 2.0 ** min(self._failures - 1, 20))
        if self._failures == 1:
            log.warning("alert to %s failed, trying again: %s", self._address.shown, failure)
        if (
            time.time() - delivery.alert.time > self._give_up_s
            and delivery.attempts >= LEAST_ATTEMPTS
        ):
            self._remove(delivery)
            self._give_up(delivery, failure)
            return
        with self._news:
            # It may have been dropped meanwhile.
            if self._waiting and self._waiting[0][0].key == delivery.key:
                self._waiting[0] = (delivery, self._waiting[0][1])
        self._settled(delivery)

    def _remove(self, delivery: Delivery) -> None:
        """Remove a delivery from what waits, unless it was dropped meanwhile."""
        with self._news:
            if self._tests and self._tests[0].key == delivery.key:
                self._tests.popleft()
            elif self._waiting and self._waiting[0][0].key == delivery.key:
                self._waiting.popleft()

    def _give_up(self, delivery: Delivery, reason: str) -> None:
        self.dropped += 1
        log.error("alert to %s given up: %s", self._address.shown, reason)
        self._settled(
            dataclasses.replace(delivery, state=GIVEN_UP, failure=reason, ended=time.time())
        )

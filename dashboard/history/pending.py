"""Messages that wait for a commit: bounded, filled and emptied by different threads."""

from __future__ import annotations

import threading
import time
from collections import deque

from speech_emotion.common.wire import public

PENDING = 10_000
"""Messages that wait while the file cannot be written; more drop the oldest, which is counted."""

Entry = tuple[public.Public, float]
"""A message and its arrival time (unix time in seconds)."""


class PendingMessages:
    """A bounded queue from the receiving thread to the writing thread."""

    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: deque[tuple[Entry, float]] = deque()
        self._batch: list[tuple[Entry, float]] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._batch)

    def add(self, message: public.Public) -> None:
        """Add a message; drop the oldest one outside the batch if the queue is full."""
        entry = (message, time.time())
        with self._lock:
            if len(self) >= PENDING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((entry, time.monotonic()))

    def take(self, limit: int) -> list[Entry]:
        """The oldest messages, as a batch that `written` or `failed` ends."""
        with self._lock:
            while self._waiting and len(self._batch) < limit:
                self._batch.append(self._waiting.popleft())
            return [entry for entry, _ in self._batch]

    def written(self) -> None:
        """The batch is on the disk."""
        with self._lock:
            self._batch.clear()

    def failed(self) -> None:
        """The batch was not written: its messages wait again."""
        with self._lock:
            self._waiting.extendleft(reversed(self._batch))
            self._batch.clear()

    def age_s(self) -> float:
        """Time that the oldest message has waited, in seconds; 0 if none waits."""
        with self._lock:
            oldest = self._batch or self._waiting
            return time.monotonic() - oldest[0][1] if oldest else 0.0

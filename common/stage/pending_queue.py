"""Items that wait to be written: a bounded queue from one thread to another."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

PENDING = 10_000
"""Items that wait while their file cannot be written; more drop the oldest, which is counted."""


class PendingQueue(Generic[T]):
    """The queue. One thread puts items, another takes them in batches.

    Attributes:
        dropped: items that were dropped because the queue was full.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: deque[tuple[T, float]] = deque()
        self._batch: list[tuple[T, float]] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._batch)

    def put(self, item: T) -> None:
        """Add an item; drop the oldest one outside the batch if the queue is full."""
        with self._lock:
            if len(self) >= PENDING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((item, time.monotonic()))

    def take(self, limit: int) -> list[T]:
        """The oldest items, as a batch that `written` or `failed` ends."""
        with self._lock:
            while self._waiting and len(self._batch) < limit:
                self._batch.append(self._waiting.popleft())
            return [item for item, _ in self._batch]

    def written(self) -> None:
        """The batch is on the disk."""
        with self._lock:
            self._batch.clear()

    def failed(self) -> None:
        """The batch was not written: its items wait again."""
        with self._lock:
            self._waiting.extendleft(reversed(self._batch))
            self._batch.clear()

    def age_s(self) -> float:
        """Time that the oldest item has waited, in seconds; 0 if none waits."""
        with self._lock:
            oldest = self._batch or self._waiting
            return time.monotonic() - oldest[0][1] if oldest else 0.0

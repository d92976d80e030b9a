"""Messages that wait for a commit: bounded, filled and emptied by different threads."""

from __future__ import annotations

import time
from typing import TypeAlias

from speech_emotion.common.stage.pending_queue import PENDING, PendingQueue
from speech_emotion.common.wire import public

__all__ = ["PENDING", "Entry", "PendingMessages"]

Entry: TypeAlias = tuple[public.Public, float]
"""A message and its arrival time (unix time in seconds)."""


class PendingMessages(PendingQueue[Entry]):
    """Messages on their way from the receiving thread to the writing thread."""

    def add(self, message: public.Public) -> None:
        """Add a message that has arrived now."""
        self.put((message, time.time()))

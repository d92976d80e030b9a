"""Log lines of the supervisor and its stages, in one order, for one view."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from logging.handlers import QueueHandler
from typing import Any

from speech_emotion.common.stage.main import LOG_FORMAT
from speech_emotion.supervision.console.view import BackgroundView


class LogLines:
    """Takes log lines from every thread; the supervisor's loop passes them to the view.

    The lines are held until the first `release`, so that the line that explains a mistake of the
    user is the only one.

    Args:
        wake: wakes the supervisor's loop.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.held = True
        self._wake = wake
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        handler = _LineHandler(self._lines)
        handler.setFormatter(logging.Formatter(LOG_FORMAT, "%H:%M:%S"))
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)

    def write(self, line: str) -> None:
        """Take a line of a stage. Any thread may call this."""
        self._lines.put(line)
        self._wake()

    def release(self, view: BackgroundView) -> None:
        """Pass all lines to the view, which escapes control characters in names from outside."""
        self.held = False
        while not self._lines.empty():
            for line in self._lines.get().split("\n"):
                view.write(line)


class _LineHandler(QueueHandler):
    """Queues formatted lines in place of records."""

    def prepare(self, record: logging.LogRecord) -> Any:
        return self.format(record)

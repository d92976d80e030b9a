"""Console output of a running pipeline: live lines on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import printable
from speech_emotion.common.linux.entry import ERRORS
from speech_emotion.common.safe_text import SafeText
from speech_emotion.common.wire.public import Health, Result, Utterance
from speech_emotion.common.wire.states import FINE_STAGES, FINE_STREAMS

log = logging.getLogger("results")

FLOOR_DB = -70.0
HELD_CALLS = 200
"""Lines and updates that wait for a blocked terminal; further ones are dropped."""
HELD_RESULTS = 1000
"""Messages in those updates."""
LEAVE_S = 1.0
"""Longest wait for the view's thread at the end."""
SETTLE_S = 2.0
"""Longest wait for the last lines to be written."""
THREAD = "view"
COLOURS = {"silence": "bright_black", "gap": "red", "uncertain": "yellow"}


class View(Closing):
    """Shows results and health. Use it as a context manager.

    Attributes:
        live: whether it has to be updated without new results as well.
    """

    live = False

    def write(self, line: str) -> None:
        """Write a log line."""
        raise NotImplementedError

    def show(self, messages: Iterable[Result | Utterance], health: Health | None) -> None:
        """Show the messages since the last call, and the health where the view is live."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the terminal back."""


def make_view() -> BackgroundView:
    """Live lines where stderr is a terminal, else plain lines."""
    return BackgroundView(LiveView() if sys.stderr.isatty() else PlainView())


class BackgroundView(View):
    """Runs a view in its own thread.

    A terminal that is blocked (Ctrl-S), or a pipe without a reader, must not block the
    supervisor. Where stderr is closed, nothing is shown and the pipeline runs on.

    Attributes:
        dropped: lines and updates that were not shown because the queue was full.
    """

    def __init__(self, view: View) -> None:
        self.live = view.live
        self.dropped = 0
        self._view = view
        self._pending = 0
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(HELD_CALLS)
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        self._put(None)
        self._thread.join(LEAVE_S)

    def write(self, line: str) -> None:
        escaped = "\n".join(map(printable, line.split("\n")))
        self._put(lambda: self._view.write(escaped))

    def show(self, messages: Iterable[Result | Utterance], health: Health | None) -> None:
        messages = list(messages)
        if self._calls.empty():
            self._pending = 0
        if self._pending + len(messages) > HELD_RESULTS:
            self.dropped += 1
            return
        self._pending += len(messages)
        self._put(lambda: self._view.show(messages, health))

    def settle(self) -> None:
        """Wait until everything is shown, `SETTLE_S` at most."""
        deadline = time.monotonic() + SETTLE_S
        while self._calls.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)

    def _put(self, call: Callable[[], None] | None) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self.dropped += 1

    def _run(self) -> None:
        try:
            with self._view:
                while (call := self._calls.get()) is not None:
                    call()
                    self._calls.task_done()
        except OSError:  # stderr is closed
            while self._calls.get() is not None:
                self.dropped += 1
                self._calls.task_done()


def leave(code: int) -> NoReturn:
    """End the process, even while the view's thread is blocked."""
    if any(thread.name == THREAD for thread in threading.enumerate()):
        os._exit(code)
    sys.exit(code)


class PlainView(View):
    """Changes of the label and utterances as log lines."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}

    def write(self, line: str) -> None:
        # Not through Python's buffer: a blocked thread would hold its lock until the end.
        data = f"{line}\n".encode(sys.stderr.encoding, ERRORS)
        while data:
            data = data[os.write(sys.stderr.fileno(), data) :]

    def show(self, messages: Iterable[Result | Utterance], health: Health | None) -> None:  # noqa: ARG002
        for message in messages:
            if isinstance(message, Utterance):
                log.info(utterance_line(message))
            elif (label := message.emotion or message.state) != self._labels.get(message.stream):
                self._labels[message.stream] = label
                at = message.end / message.rate
                log.info("%s  %7.1f s  %s%s", message.stream, at, label, _confidence(message))


class LiveView(View):
    """One live line per stream, below the log lines and utterances."""

    live = True

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)
        self._latest: dict[str, Result] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def close(self) -> None:
        self._live.stop()

    def write(self, line: str) -> None:
        self._console.print(SafeText(line, "bright_black"))

    def show(self, messages: Iterable[Result | Utterance], health: Health | None) -> None:
        for message in messages:
            if isinstance(message, Utterance):
                self._console.print(SafeText(utterance_line(message), _colour(message.emotion)))
            else:
                self._latest[message.stream] = message
        if health is not None:
            self._live.update(self._table(health), refresh=True)

    def _table(self, health: Health) -> Table:
        table = Table.grid(padding=(0, 1))
        for stream in health.streams:
            result = self._latest.get(stream.name)
            label = (result.emotion or result.state) if result else stream.state
            confidence = (result.confidence if result else None) or 0.0
            level = FLOOR_DB if stream.level_db is None else max(FLOOR_DB, stream.level_db)
            table.add_row(
                SafeText(stream.name, "bold"),
                SafeText(f"{label:<10}", f"bold {_colour(label)}"),
                ProgressBar(1.0, confidence, width=20, complete_style=_colour(label)),
                f"{confidence:4.0%}" if confidence else "    ",
                ProgressBar(-FLOOR_DB, level - FLOOR_DB, width=12, complete_style="green"),
                f"{level:5.0f} dBFS",
                _lag(result),
                SafeText("" if health.state == "ok" else _problem(health), "bold red"),
            )
        if not health.streams:
            table.add_row(SafeText(_problem(health) or health.state, "bright_black"))
        return table


def utterance_line(message: Utterance) -> str:
    """One utterance as text, with its span in seconds from the start of the stream."""
    start, end = message.start / message.rate, message.end / message.rate
    label = f"{message.emotion} {message.confidence:.0%}"
    return f"{message.stream}  {start:7.1f} to {end:.1f} s  utterance: {label}"


def _confidence(result: Result) -> str:
    if result.confidence is None:
        return f" ({result.rms_db:.0f} dBFS)"
    return f" {result.confidence:.0%}" + (f" ({result.reason})" if result.reason else "")


def _lag(result: Result | None) -> str:
    if result is None or result.time is None or result.timing_ms is None:
        return ""
    return f"lag {result.timing_ms['total']:.0f} ms"


def _colour(label: str) -> str:
    return COLOURS.get(label, "cyan")


def _problem(health: Health) -> str:
    for stage in health.stages:
        if stage.state not in FINE_STAGES:
            return f"{stage.name} {stage.state}" + (f": {stage.reason}" if stage.reason else "")
    for stream in health.streams:
        if stream.state not in FINE_STREAMS or stream.reason:
            return f"{stream.name} {stream.state}" + (f": {stream.reason}" if stream.reason else "")
    return ""

"""Progress of a batch on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable
from typing import Self, TextIO

from speech_emotion.common.errors import printable

LINE_S = 10.0
"""Seconds between two lines without a terminal."""
SHOWN_ERRORS = 20
"""Errors that are printed; the table has all of them."""


class Progress:
    """Counts what is done and shows it. Use it as a context manager.

    Args:
        files: number of inputs.
        size: bytes of all inputs.

    Attributes:
        done, skipped, errors: inputs by what became of them; `done` counts all.
        sound_s: seconds of sound that were analysed.
    """

    def __init__(
        self,
        files: int,
        size: int,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = self.skipped = self.errors = 0
        self.sound_s = 0.0
        self._files = files
        self._size = max(1, size)
        self._ended_size = 0
        self._skipped_size = 0
        self._running: dict[int, tuple[float, float]] = {}
        self._out = out or sys.stderr
        self._clock = clock
        self._began = clock()
        self._due = self._began + LINE_S
        self._bar = _Bar(self._out) if self._out.isatty() else None

    def advance(self, number: int, seconds: float, share: float, size: int) -> None:
        """An input is at `seconds` of its sound, a share of its `size` bytes."""
        self._running[number] = (seconds, min(1.0, share) * size)
        self._show()

    def end(
        self, number: int, seconds: float, size: int, error: str | None, *, skipped: bool
    ) -> None:
        """An input is done."""
        self._running.pop(number, None)
        self.done += 1
        self.skipped += skipped
        self._ended_size += size
        self._skipped_size += size * skipped
        self.sound_s += seconds
        if error is not None:
            self.errors += 1
            if not skipped and self.errors <= SHOWN_ERRORS:
                self._print(f"infer: {printable(error)}")
            if not skipped and self.errors == SHOWN_ERRORS:
                self._print("infer: further errors are in the table only")
        self._show()

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began

    def text(self) -> str:
        """What is done, how fast, and how long the rest takes."""
        running_s = sum(seconds for seconds, _ in self._running.values())
        size = self._ended_size + sum(part for _, part in self._running.values())
        words = [f"{self.done} of {self._files} files"]
        if self.errors:
            words.append(f"{self.errors} with errors")
        elapsed = self.elapsed_s
        new = size - self._skipped_size
        if elapsed > 0.0 and new > 0:
            words.append(f"{(self.sound_s + running_s) / elapsed:.0f} times real time")
            left = (self._size - size) * elapsed / new
            words.append(f"{duration(left)} left")
        return ", ".join(words)

    def summary(self, out: str) -> str:
        """One line for the end."""
        analysed = self.done - self.skipped
        words = [f"{self._files} files"]
        if self.skipped:
            words.append(f"{self.skipped} already done")
        words.append(f"{self.errors} with errors" if self.errors else "none with errors")
        text = ", ".join(words)
        if analysed:
            speed = self.sound_s / max(self.elapsed_s, 1e-3)
            text += (
                f"; {duration(self.sound_s)} of sound in {duration(self.elapsed_s)}, "
                f"{speed:.0f} times real time"
            )
        return f"infer: {text}; {printable(out)}"

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.show(self._fraction(), self.text())
        elif self._clock() >= self._due:
            self._due = self._clock() + LINE_S
            self._print(f"infer: {self.text()}")

    def _fraction(self) -> float:
        size = self._ended_size + sum(part for _, part in self._running.values())
        return min(1.0, size / self._size)

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.print(line)
        else:
            print(line, file=self._out, flush=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class _Bar:
    """The bar on a terminal; disappears at the end."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(file=out)
        self._progress = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=1.0)

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def show(self, fraction: float, text: str) -> None:
        self._progress.update(self._task, completed=fraction, description=text)

    def print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as `H:MM:SS`, or `M:SS` below an hour."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

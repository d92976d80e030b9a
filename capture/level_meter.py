"""The level meter of a capture process that was started by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from speech_emotion.common.closing import Closing

if TYPE_CHECKING:
    from speech_emotion.capture.stream import Stream

FLOOR_DB = -70.0


class LevelMeter(Closing):
    """Draws one line per stream on stderr: a bar from -70 to 0 dBFS, the level, the seconds.

    Args:
        enabled: draw; False where stderr is no terminal.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(40),
            TextColumn("{task.fields[level]:>7}  {task.fields[seconds]:8.1f} s"),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def close(self) -> None:
        self._progress.stop()

    def show(self, streams: list[Stream]) -> None:
        """Draw level and position of every stream."""
        for stream in streams:
            name, feeder = stream.job.name, stream.feeder
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(
                    name, total=-FLOOR_DB, level="", seconds=0.0
                )
            level = feeder.level_db
            self._progress.update(
                self._tasks[name],
                completed=0.0 if level is None else max(0.0, level - FLOOR_DB),
                level="" if level is None else f"{level:.1f} dBFS",
                seconds=feeder.position / feeder.ring.sample_rate,
            )

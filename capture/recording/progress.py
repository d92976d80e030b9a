"""What a restarted recorder continues from: how far the files of a run go, and what was lost.

The cost does not grow with the length of the run. The timeline has a checkpoint, a line
{"recorded": {...}}, at every segment; only the newest segment and what follows the newest
checkpoint are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_emotion.capture.recording.reader import (
    MESSAGES,
    SEGMENT,
    TIMELINE,
    readable_frames,
)

RECORDED = "recorded"
"""Key of a checkpoint in the timeline."""
TAIL = 1 << 16
"""Bytes of the end of a file that are read first; four times as many if they do not suffice."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a recording goes.

    Attributes:
        declared: end of the last gap in the timeline.
        lost: samples that were not recorded.
        next_seq: window after the last recorded result.
        lost_messages: windows without a recorded result, below `next_seq`.
        utterance_end: end of the last recorded utterance.
    """

    declared: int = 0
    lost: int = 0
    next_seq: int = 0
    lost_messages: int = 0
    utterance_end: int = 0

    def row(self) -> dict[str, Any]:
        """The checkpoint for the timeline."""
        return {RECORDED: dataclasses.asdict(self)}


def run_of(folder: Path) -> str | None:
    """Id of the run that a folder records; None where it is no recording."""
    try:
        with (folder / TIMELINE).open("rb") as file:
            return str(json.loads(file.readline())["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def recorded_end(folder: Path) -> int:
    """Absolute index after the last sample of the newest readable segment; 0 without one."""
    starts = {}
    for path in folder.iterdir():
        if match := SEGMENT.fullmatch(path.name):
            starts[int(match[1] or 0)] = path
    for start in sorted(starts, reverse=True):
        if frames := readable_frames(starts[start]):
            return start + frames
    return 0


def read_progress(folder: Path) -> Progress:
    """The progress of a recording whose recorder was killed.

    Raises:
        OSError: its files cannot be read.
    """
    progress = Progress()
    for row in _tail(folder / TIMELINE, lambda row: RECORDED in row):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if RECORDED in row:
                progress = Progress(**row[RECORDED])
            elif "gap" in row:
                start, end = row["gap"]
                lost = progress.lost + (end - start if row.get("lost") else 0)
                declared = max(progress.declared, end)
                progress = dataclasses.replace(progress, declared=declared, lost=lost)
    expected, missing, spoken = progress.next_seq, progress.lost_messages, progress.utterance_end

    def known(row: dict[str, Any]) -> bool:
        return row.get("topic") == "result" and row["seq"] < progress.next_seq

    for row in _tail(folder / MESSAGES, known):
        if row.get("topic") == "utterance":
            spoken = max(spoken, row["end"])
        elif row.get("topic") == "result" and row["seq"] >= expected:
            missing += row["seq"] - expected
            expected = row["seq"] + max(1, row["skipped"])
    return dataclasses.replace(
        progress, next_seq=expected, lost_messages=missing, utterance_end=spoken
    )


def _tail(path: Path, enough: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The complete lines at the end of a file, so many that one is `enough`, or all."""
    size = TAIL
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while True:
            start = max(0, end - size)
            file.seek(start)
            lines = file.read(end - start).split(b"\n")[:-1]
            rows = []
            for line in lines[1:] if start else lines:
                with contextlib.suppress(ValueError):
                    rows.append(json.loads(line))
            if start == 0 or any(enough(row) for row in rows):
                return rows
            size *= 4

"""A recording on disk: the sound of a stream, its missing samples, and its messages.

FOLDER/audio.flac       the ring's samples from the start of the run, 24 bit, mono
FOLDER/tape.jsonl       the timeline: one line {"rate", "run", ...} at the start, then
                        {"gap": [a, b]} and {"anchor": [index, monotonic, unix]}
FOLDER/messages.jsonl   every message of the stream as published, one JSON map per line
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from speech_emotion.common.errors import UserError

AUDIO = "audio.flac"
TIMELINE = "tape.jsonl"
MESSAGES = "messages.jsonl"


@dataclasses.dataclass(frozen=True)
class StoredRecording:
    """A folder that `--record` has written.

    Attributes:
        audio: path of the sound file.
        rate: sample rate in Hz.
        gaps: spans [a, b) of missing samples, in order.
    """

    audio: Path
    rate: int
    gaps: list[list[int]]


def open_recording(folder: Path, rate: int) -> StoredRecording:
    """Read the timeline of a recording.

    Args:
        rate: sample rate that the bundle needs, in Hz.

    Raises:
        UserError: the folder is no recording, is damaged, or has another rate.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not (folder / TIMELINE).is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{TIMELINE}"))
        hint = f"; it holds {', '.join(str(folder / name) for name in inside)}" if inside else ""
        raise UserError(f"{folder}: is not a recording, it has no {TIMELINE}{hint}")
    gaps, recorded_rate = [], 0
    try:
        for line in (folder / TIMELINE).read_text().splitlines():
            row = json.loads(line)
            recorded_rate = int(row.get("rate", recorded_rate))
            if "gap" in row:
                start, end = (int(bound) for bound in row["gap"])
                gaps.append([start, end])
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{folder / TIMELINE}: is damaged") from None
    if recorded_rate != rate:
        raise UserError(f"{folder}: was recorded at {recorded_rate} Hz, the bundle wants {rate} Hz")
    return StoredRecording(folder / AUDIO, recorded_rate, gaps)

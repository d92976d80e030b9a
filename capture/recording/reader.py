"""A recorded stream on disk: its sound, what was missing in it, and what was said about it.

FOLDER/audio.flac       the ring's samples from the start of the run, 24 bit, mono
FOLDER/tape.jsonl       one line {"rate", "run", ...} at the start, then {"gap": [a, b]} and
                        {"anchor": [index, monotonic, unix]}
FOLDER/messages.jsonl   every message of the stream as it was published, one JSON map a line
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from speech_emotion.common.errors import UserError

AUDIO = "audio.flac"
TAPE = "tape.jsonl"
MESSAGES = "messages.jsonl"


@dataclasses.dataclass(frozen=True)
class StoredRecording:
    """A folder that `--record` has written.

    Attributes:
        audio: its sound file.
        gaps: spans [a, b) of missing samples, in order.
    """

    audio: Path
    rate: int
    gaps: list[list[int]]


def open_recording(folder: Path, rate: int) -> StoredRecording:
    """Read what a recording says of itself.

    Raises:
        UserError: it is no recording, is damaged, or was made at another rate.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not (folder / TAPE).is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{TAPE}"))
        hint = f"; it holds {', '.join(str(folder / name) for name in inside)}" if inside else ""
        raise UserError(f"{folder}: is not a recording, it has no {TAPE}{hint}")
    gaps, recorded = [], 0
    try:
        for line in (folder / TAPE).read_text().splitlines():
            row = json.loads(line)
            recorded = int(row.get("rate", recorded))
            if "gap" in row:
                start, end = (int(bound) for bound in row["gap"])
                gaps.append([start, end])
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{folder / TAPE}: is damaged") from None
    if recorded != rate:
        raise UserError(f"{folder}: was recorded at {recorded} Hz, the bundle wants {rate} Hz")
    return StoredRecording(folder / AUDIO, recorded, gaps)

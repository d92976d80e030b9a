"""A recording on disk: the sound of a stream, its missing samples, and its messages.

FOLDER/audio.N.flac     the ring's samples from absolute index N, 24 bit, mono; a minute or less
FOLDER/tape.jsonl       the timeline: one line {"rate", "run", ...} at the start, then
                        {"gap": [a, b]} (with "lost": true where the recorder missed what the
                        ring had), {"anchor": [index, monotonic, unix]} and {"recorded": {...}},
                        from which a restarted recorder continues
FOLDER/messages.jsonl   every message of the stream as published, one JSON map per line

Earlier versions wrote all samples to FOLDER/audio.flac; such a folder is read as well. A recorder
that was killed leaves its last segment without a length in its header, and perhaps an incomplete
line at the end of the two other files. Everything before that is read.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from speech_emotion.capture.samples import Channels, Samples, channels_needed
from speech_emotion.capture.sound_file import SoundFile
from speech_emotion.common.errors import UserError

TIMELINE = "tape.jsonl"
MESSAGES = "messages.jsonl"
SEGMENT = re.compile(r"audio\.(?:(\d{1,18})\.)?flac")
COUNT_FRAMES = 1 << 16
"""Frames per block while the length of an unclosed segment is measured."""


def segment_name(start: int) -> str:
    """File name of the segment whose first sample has the absolute index `start`."""
    return f"audio.{start:012d}.flac"


@dataclasses.dataclass(frozen=True)
class Segment:
    """A sound file of a recording: the samples [start, end)."""

    path: Path
    start: int
    end: int


def read_segments(folder: Path) -> list[Segment]:
    """The readable segments of a recording, in order, without the samples that overlap."""
    starts = {}
    for path in folder.iterdir():
        if match := SEGMENT.fullmatch(path.name):
            starts[int(match[1] or 0)] = path
    segments: list[Segment] = []
    for start, path in sorted(starts.items()):
        if segments and segments[-1].end > start:
            segments[-1] = dataclasses.replace(segments[-1], end=start)
        if frames := readable_frames(path):
            segments.append(Segment(path, start, start + frames))
    return segments


def readable_frames(path: Path) -> int:
    """Frames that can be decoded; of an unclosed file they are counted."""
    try:
        file = SoundFile(str(path))
    except UserError:
        return 0  # the recorder was killed before it wrote a sample
    try:
        if file.frames is not None:
            return file.frames
        frames = 0
        while count := len(file.read(COUNT_FRAMES)):
            frames += count
        return frames
    except UserError:  # an incomplete FLAC frame at the end
        return frames
    finally:
        file.close()


def read_timeline(folder: Path) -> list[dict[str, Any]]:
    """The lines of the timeline, without an incomplete last one.

    Raises:
        UserError: it is damaged.
    """
    try:
        *lines, rest = (folder / TIMELINE).read_text().split("\n")
        rows = [json.loads(line) for line in lines]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError
        if rest and not rows:
            raise ValueError
    except (ValueError, OSError):
        raise UserError(f"{folder / TIMELINE}: is damaged") from None
    return rows


@dataclasses.dataclass(frozen=True)
class StoredRecording:
    """A folder that `--record` has written.

    Attributes:
        folder: path of the folder.
        segments: its sound files, in order, not overlapping.
        rate: sample rate in Hz.
        gaps: spans [a, b) of missing samples, in order.
    """

    folder: Path
    segments: tuple[Segment, ...]
    rate: int
    gaps: list[list[int]]

    @property
    def length(self) -> int:
        """Absolute index after the last sample."""
        return self.segments[-1].end if self.segments else 0


def open_recording(folder: Path, rate: int) -> StoredRecording:
    """Read the timeline of a recording and the lengths of its segments.

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
        for row in read_timeline(folder):
            recorded_rate = int(row.get("rate", recorded_rate))
            if "gap" in row:
                start, end = (int(bound) for bound in row["gap"])
                gaps.append([start, end])
    except (ValueError, TypeError):
        raise UserError(f"{folder / TIMELINE}: is damaged") from None
    if recorded_rate != rate:
        raise UserError(f"{folder}: was recorded at {recorded_rate} Hz, the bundle wants {rate} Hz")
    segments = read_segments(folder)
    if not segments:
        raise UserError(f"{folder}: holds no samples")
    return StoredRecording(folder, tuple(segments), rate, _all_gaps(gaps, segments))


def _all_gaps(gaps: list[list[int]], segments: list[Segment]) -> list[list[int]]:
    """The declared gaps and the spans without a segment, up to the last sample, in order."""
    position = 0
    for segment in segments:
        if position < segment.start:
            gaps.append([position, segment.start])
        position = segment.end
    joined: list[list[int]] = []
    for start, end in sorted(gaps):
        end = min(end, position)
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        elif start < end:
            joined.append([start, end])
    return joined


class RecordingFile:
    """The samples of a recording as one sound file; samples without a segment are zeros.

    Attributes:
        rate: sample rate in Hz.
        channels: 1.

    Raises:
        UserError: the segments cannot be read.
    """

    channels = 1
    seekable = True

    def __init__(self, recording: StoredRecording) -> None:
        self.rate = recording.rate
        self._recording = recording
        self._position = 0
        self._number = -1
        self._file: SoundFile | None = None

    def seek(self, frame: int) -> None:
        """Continue at an absolute index, or at the end where the recording is shorter."""
        self._position = min(frame, self._recording.length)
        self._number = -1

    def read(self, frames: int) -> Samples:
        """Read the next block, (up to `frames`, 1); it is empty at the end.

        Raises:
            UserError: a segment is damaged from here on.
        """
        if self._number < 0:
            self._open()
        segments = self._recording.segments
        while self._number < len(segments) and self._position >= segments[self._number].end:
            self._number += 1
            self._open_segment(0)
        if self._number >= len(segments):
            return np.zeros((0, 1), np.float32)
        segment = segments[self._number]
        if self._position < segment.start:
            block = np.zeros((min(frames, segment.start - self._position), 1), np.float32)
        else:
            assert self._file is not None
            block = self._file.read(min(frames, segment.end - self._position))
        self._position += len(block)
        return block

    def check_channel(self, channel: Channels) -> None:
        """Raise UserError if the recording has no such channel."""
        if (needed := channels_needed(channel)) > 1:
            raise UserError(
                f"{self._recording.folder}: has no channel {needed - 1}; allowed: 0 to 0"
            )

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """Open the segment that holds the position, or the first one after it."""
        segments = self._recording.segments
        self._number = sum(segment.end <= self._position for segment in segments)
        if self._number < len(segments):
            self._open_segment(max(0, self._position - segments[self._number].start))

    def _open_segment(self, skip: int) -> None:
        self.close()
        if self._number >= len(self._recording.segments):
            return
        self._file = SoundFile(str(self._recording.segments[self._number].path))
        if skip and self._file.seekable:
            self._file.seek(skip)
        else:
            while skip:  # an unclosed segment cannot be sought in
                skip -= len(self._file.read(min(skip, COUNT_FRAMES)))

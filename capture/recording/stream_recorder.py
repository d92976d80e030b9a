"""Writes the recording of one stream: segments of sound, the timeline, the messages.

A write that fails (a full disk, a folder that was removed) is tried again every second. Meanwhile
messages wait in memory and samples in the ring; samples that the ring overwrites and messages
beyond the limit are counted as lost.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

import numpy as np

from speech_emotion.capture.recording.progress import (
    Progress,
    read_progress,
    recorded_end,
    run_of,
)
from speech_emotion.capture.recording.reader import (
    MESSAGES,
    TIMELINE,
    read_segments,
    segment_name,
)
from speech_emotion.capture.samples import FULL_SCALE, Samples
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.wire import public

log = logging.getLogger("record")

SEGMENT_S = 60.0
"""Length of a segment in seconds. A killed recorder damages the last one only."""
CHUNK = 1 << 14
"""Samples that are read from the ring and written at once."""
RETRY_S = 1.0
"""Seconds between two attempts to write, and between two checks that the folder exists."""
IDLE_S = 0.5
"""Without a message for this many seconds, the ring's write index of that time ago is trusted."""
HEADROOM_S = 1.0
"""Seconds of samples that are given up with overwritten ones, because they are overwritten next."""
MAX_LINES = 20_000
"""Lines that wait in memory while they cannot be written: nearly three hours of results."""
_WRITE_ERRORS = (OSError, RuntimeError, AssertionError)
"""soundfile reports a full disk as LibsndfileError (a RuntimeError) or as a failed assertion."""


class StreamRecorder:
    """Writes the folder of one stream. One thread uses it.

    A recorder that is started again in the same run continues in the folder of that run.

    Args:
        folder: folder to create; where it holds another run, `folder.2`, `folder.3`, …
        ring: attached reader of the stream's ring.

    Attributes:
        position: absolute index after the last sample written.
        lost: samples that were not recorded.
        lost_messages: messages that were not recorded.
        failing: writing fails at present.
    """

    def __init__(self, folder: Path, ring: RingReader) -> None:
        self.position = 0
        self.lost = 0
        self.lost_messages = 0
        self.failing = False
        self._base = folder
        self._ring = ring
        self._folder: Path | None = None
        self._inode = 0
        self._files: dict[str, IO[bytes]] = {}
        self._lines: deque[tuple[str, bytes]] = deque()
        self._segment: _SegmentWriter | None = None
        self._declared = 0
        self._anchor = (0, 0.0, 0.0)
        self._next_seq = self._utterance_end = 0
        self._announced = 0
        self._seen = (time.monotonic(), ring.index)
        self._due = 0.0
        self._buffer: Samples = np.zeros(CHUNK, np.float32)
        try:
            self._open_folder()
        except OSError as error:
            self._fail(error)

    def message(self, message: public.Result | public.Utterance | public.Info) -> None:
        """Take a published message; a result announces the samples up to its end.

        A result or an utterance that is known is ignored.
        """
        if isinstance(message, public.Result):
            if message.seq < self._next_seq:
                return
            self.lost_messages += message.seq - self._next_seq
            self._next_seq = message.next_seq
            if not message.skipped:  # those windows may end later than the samples so far
                self._announced = max(self._announced, message.end)
            self._seen = (time.monotonic(), self._ring.index)
        if isinstance(message, public.Utterance):
            if message.end <= self._utterance_end:
                return
            self._utterance_end = message.end
        self._line(MESSAGES, {"topic": message.topic, **public.to_json_map(message)})

    def turn(self, now: float) -> None:
        """Write what has come; `now` is CLOCK_MONOTONIC."""
        self._trust_idle_ring(now)
        if self.failing and now < self._due:
            return
        try:
            if self._folder is None:
                self._open_folder()
            elif now >= self._due:
                self._due = now + RETRY_S
                if self._folder.stat().st_ino != self._inode:
                    raise FileNotFoundError(2, "the folder was removed")
            self._write()
        except _WRITE_ERRORS as error:
            self._fail(error)
            self._due = now + RETRY_S
            self._give_up_overwritten()
            return
        if self.failing:
            self.failing = False
            log.warning("recording to %s again; %d samples lost so far", self._folder, self.lost)

    def finish(self) -> None:
        """Write the remaining samples of the ring and close the files."""
        self._announced = self._ring.index
        self._due = 0.0
        self.turn(time.monotonic())
        if self.position < self._announced:
            self.lost += self._announced - self.position
            log.error("%s: %d samples were not recorded", self._base, self.lost)
        with contextlib.suppress(*_WRITE_ERRORS):
            self._close()

    # Writing ----------------------------------------------------------------------------

    def _write(self) -> None:
        self._write_lines()
        while self.position < self._announced:
            samples = self._buffer[: min(CHUNK, self._announced - self.position)]
            if not self._ring.read(self.position, samples, self._announced):
                self._skip_overwritten()
                continue
            if self._segment is not None and self._segment.full:
                self._close_segment()
                self._line(TIMELINE, self._progress().row())
            if self._segment is None:
                assert self._folder is not None
                self._segment = _SegmentWriter(
                    self._folder / segment_name(self.position),
                    self.position,
                    self._ring.sample_rate,
                )
            self._segment.write(samples)
            self.position += len(samples)
        for start, end in self._ring.gaps():
            if end <= self.position:
                self._declare(start, end)
        if self._ring.anchor != self._anchor:
            self._anchor = self._ring.anchor
            self._line(TIMELINE, {"anchor": self._anchor})
        self._write_lines()

    def _trust_idle_ring(self, now: float) -> None:
        # Without results (infer is restarting, a message was lost) nothing announces samples.
        # What the ring's writer stored half a second ago is visible to every processor.
        moment, index = self._seen
        if now - moment > IDLE_S:
            self._announced = max(self._announced, index)
            self._seen = (now, self._ring.index)

    def _skip_overwritten(self) -> None:
        """Continue after the samples that the ring has overwritten, or will overwrite next."""
        headroom = round((HEADROOM_S + 0.5) * self._ring.sample_rate)
        oldest = self._ring.index - self._ring.capacity + headroom
        position, target = self.position, min(max(oldest, self.position + 1), self._announced)
        self._close_segment()
        self._lose(target)
        log.warning(
            "%s: %d samples lost: the ring has overwritten them", self._base, target - position
        )

    def _give_up_overwritten(self) -> None:
        """Count the samples that were overwritten while nothing could be written."""
        oldest = self._ring.index - self._ring.capacity
        target = min(oldest, self._announced)
        if self.position < target:
            self._lose(target)

    def _lose(self, target: int) -> None:
        """Give up the samples up to `target`; those in gaps of the ring are not lost here."""
        for start, end in [*self._ring.gaps(), (target, target)]:
            before, after = min(start, target), min(end, target)
            if self.position < before:
                self.lost += before - self.position
                self._declare(self.position, before, lost=True)
            self._declare(before, after)
            self.position = max(self.position, after)

    def _declare(self, start: int, end: int, *, lost: bool = False) -> None:
        start = max(start, self._declared)
        if start < end:
            self._declared = end
            self._line(TIMELINE, {"gap": [start, end], **({"lost": True} if lost else {})})

    def _progress(self) -> Progress:
        return Progress(
            *(self._declared, self.lost, self._next_seq, self.lost_messages, self._utterance_end)
        )

    def _line(self, file: str, table: dict[str, Any]) -> None:
        if len(self._lines) >= MAX_LINES:
            self._lines.popleft()
            self.lost_messages += 1
        self._lines.append((file, json.dumps(table).encode() + b"\n"))

    def _write_lines(self) -> None:
        while self._lines:
            name, line = self._lines[0]
            file = self._files[name]
            size = file.tell()
            try:
                written = file.write(line)
                if written != len(line):
                    raise OSError(28, os.strerror(28))
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
            self._lines.popleft()

    # Opening and closing ----------------------------------------------------------------

    def _open_folder(self) -> None:
        """Open the folder of this run, or create it."""
        folder, known = self._find_folder()
        if not known:
            folder.mkdir(parents=True)
        for name in (TIMELINE, MESSAGES):
            self._files[name] = _open_lines(folder / name)
        self._folder, self._inode = folder, folder.stat().st_ino
        if known:
            self._continue(folder)
            log.warning("RECORDING continues in %s", folder)
            return
        # In front of lines that wait: a reader finds the rate in the first line.
        head = {"rate": self._ring.sample_rate, "run": self._ring.run}
        self._lines.appendleft((TIMELINE, json.dumps(head).encode() + b"\n"))
        self._write_lines()
        log.warning("RECORDING sound and messages to %s", folder)

    def _find_folder(self) -> tuple[Path, bool]:
        """The folder of this run and True, or the first unused name and False."""
        number, folder = 1, self._base
        while folder.exists():
            if run_of(folder) == self._ring.run:
                return folder, True
            number += 1
            folder = self._base.with_name(f"{self._base.name}.{number}")
        return folder, False

    def _continue(self, folder: Path) -> None:
        """Continue after the samples and messages that are on the disk."""
        self.position = max(self.position, recorded_end(folder))
        progress = read_progress(folder)
        self._declared = max(self._declared, progress.declared)
        self._next_seq = max(self._next_seq, progress.next_seq)
        self._utterance_end = max(self._utterance_end, progress.utterance_end)
        self.lost = max(self.lost, progress.lost)
        self.lost_messages = max(self.lost_messages, progress.lost_messages)

    def _fail(self, error: BaseException) -> None:
        if not self.failing:
            reason = getattr(error, "strerror", None) or str(error) or "the disk is full"
            log.error("%s: cannot be written (%s); trying again", self._base, reason)
        self.failing = True
        if self._segment is not None:
            # The encoder holds back samples: continue after those that are on the disk.
            segment, self._segment = self._segment, None
            self.position = max(segment.start, min(self.position, segment.abandon()))
        self._close()

    def _close_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files.clear()
        self._folder = None
        self._close_segment()


class _SegmentWriter:
    """A sound file of a recording while it is written."""

    def __init__(self, path: Path, start: int, rate: int) -> None:
        import soundfile

        self.start = start
        self._path = path
        self._frames = 0
        self._limit = round(SEGMENT_S * rate)
        self._file = soundfile.SoundFile(os.fsencode(path), "w", rate, 1, "PCM_24", format="FLAC")

    @property
    def full(self) -> bool:
        return self._frames >= self._limit

    def write(self, samples: Samples) -> None:
        steps = (samples * np.float32(FULL_SCALE)).astype(np.int32)
        self._file.write(steps << 8)
        self._frames += len(samples)

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> int:
        """Close after an error: the absolute index after the last sample that can be read."""
        with contextlib.suppress(*_WRITE_ERRORS):
            self._file.close()
        try:
            segments = [s for s in read_segments(self._path.parent) if s.path == self._path]
        except OSError:
            return self.start
        if segments:
            return segments[0].end
        with contextlib.suppress(OSError):
            self._path.unlink()
        return self.start


def _open_lines(path: Path) -> IO[bytes]:
    """Open a file of lines at its end, without an incomplete last line."""
    file = path.open("ab+", buffering=0)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 20)))
    tail = file.read()
    file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
    return file

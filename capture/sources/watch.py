"""A folder in which recordings land: each one is processed once, in the order of their times.

The ledger in the folder says which samples of the stream belong to which recording. A recording is
done when its results were accepted; one that was interrupted is continued by a restarted capture
process, and processed again by a new pipeline.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_emotion.capture.read_ahead import ReadAhead
from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.capture.sound_file import SoundFile
from speech_emotion.capture.stream import POLL_S, SourceOptions, StreamJob
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

log = logging.getLogger("capture")

LEDGER = ".speech-emotion.jsonl"
LOOK_S = 1.0
"""Seconds between two looks into the folder."""
SETTLE_S = 3.0
"""A file is complete when its size and time have not changed for so many seconds."""
ENDINGS = (
    *(".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64"),
)
BLOCK_S = 0.1


@dataclasses.dataclass(frozen=True)
class Recording:
    """A file as it was when it was found: another size or time makes it another recording."""

    file: str
    size: int
    mtime_ns: int


class Ledger:
    """Which recordings a stream has begun, done and refused: lines of JSON in the folder.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, folder: Path, stream: str, run: str) -> None:
        self._path = folder / LEDGER
        self._stream, self._run = stream, run
        self._failing = False
        self.known: set[Recording] = set()
        self.open: dict[Recording, int] = {}
        try:
            with self._path.open("a+") as file:
                file.seek(0)
                for line in file:
                    with contextlib.suppress(
                        ValueError, KeyError, TypeError
                    ):  # a line that was cut
                        self._note(json.loads(line))
        except OSError as error:
            raise UserError(
                f"{folder}: the ledger {LEDGER} cannot be written ({error.strerror}); "
                "the folder must be writable, so that each recording is processed once"
            ) from None

    def write(self, recording: Recording, **fact: object) -> bool:
        """Add a line: `begin`, `done` or `refused`; False while the disk does not take it."""
        row = {"stream": self._stream, "run": self._run, **dataclasses.asdict(recording), **fact}
        line = json.dumps(row).encode() + b"\n"
        try:
            with self._path.open("ab+", buffering=0) as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a killed process or a full disk cut the last line
                        line = b"\n" + line
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self._failing:
                log.warning("%s: cannot be written (%s); trying again", self._path, error.strerror)
            self._failing = True
            return False
        self._failing = False
        self._note(row)
        return True

    def _note(self, row: dict[str, Any]) -> None:
        if row["stream"] != self._stream:
            return
        recording = Recording(row["file"], row["size"], row["mtime_ns"])
        if "begin" in row and row["run"] == self._run:
            self.open[recording] = int(row["begin"])
        elif "done" in row or "refused" in row:
            self.known.add(recording)
            self.open.pop(recording, None)


class WatchStream:
    """The recordings of a folder, one after the other, as fast as results are accepted.

    Between two recordings lies a declared gap of a window and more, up to the next hop, so that no
    window and no utterance holds sound of both.

    Args:
        send: takes every tick.

    Raises:
        UserError: the folder is missing or cannot be written.
    """

    error: UserError | None = None

    def __init__(
        self,
        job: StreamJob,
        stream_format: StreamFormat,
        send: Callable[[internal.Tick], None],
        options: SourceOptions,
    ) -> None:
        self.job = job
        self._folder = Path(job.source.partition(":")[2])
        if not self._folder.is_dir():
            raise UserError(f"{self._folder}: no such folder")
        self._ring = RingWriter.attach(job.ring)
        self._format, self._send = stream_format, send
        self._ledger = Ledger(self._folder, job.name, self._ring.run)
        self.ahead = ReadAhead(
            stream_format.grid.hop, self._ring.capacity // 2, recorder=options.recorded
        )
        self._alone = options.alone
        self.feeder = self._new_feeder(stream_format.rate)
        self._file: SoundFile | None = None
        self._current: Recording | None = None
        self._begin = 0
        self._unaccepted: list[tuple[Recording, int, int]] = []
        self._seen: dict[Recording, float] = {}
        self._look_due = 0.0
        self._since = time.monotonic()
        self._refused = 0

    @property
    def counters(self) -> dict[str, int]:
        return {"capture_files_refused": self._refused}

    @property
    def wakeup(self) -> int | None:
        return None

    @property
    def condition(self) -> Condition:
        if self._current is not None:
            return Condition(SourceState.LIVE, since=self._since, device=self._current.file)
        reason = None if self.feeder.ended else f"waiting for a recording in {self._folder}"
        return Condition(SourceState.ENDED, reason, self._since)

    def due(self, now: float) -> float:
        if self._file is not None and self.feeder.muted_since is None and self._has_credit(now):
            return 0.0
        return POLL_S

    def turn(self, now: float) -> None:
        if self.feeder.ended or self.feeder.muted_since is not None:
            return
        self._settle()
        if self._file is None and now >= self._look_due:
            self._look_due = now + LOOK_S
            recording = self._next(now)
            if recording is not None:
                self._open(recording, now)
        if self._file is not None and self._has_credit(now):
            self._feed(self._file, now)

    def mute(self, now: float, *, muted: bool) -> None:
        """While muted, recordings wait: none is processed, and none is lost."""
        self.feeder.mute(now, muted=muted)

    def finish(self) -> None:
        if not self.feeder.ended:
            self.feeder.finish()
            self._close()

    def _new_feeder(self, rate: int, skip: int = 0) -> RingFeeder:
        return RingFeeder(
            self.job.name,
            self._ring,
            rate,
            self._format,
            self._send,
            channel=self.job.channel,
            skip=skip,
        )

    def _has_credit(self, now: float) -> bool:
        if self.ahead.accepted is None and self._alone:
            return True
        return self.ahead.allows(self.feeder.position, now)

    def _next(self, now: float) -> Recording | None:
        """The oldest complete recording that is not done: an interrupted one first."""
        found = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.name.lower().endswith(ENDINGS):
                        continue
                    with contextlib.suppress(OSError):  # removed meanwhile
                        status = entry.stat()
                        if entry.is_file():
                            recording = Recording(entry.name, status.st_size, status.st_mtime_ns)
                            found[recording] = self._seen.get(recording, now)
        except OSError as error:
            log.warning("%s: cannot be read (%s); trying again", self._folder, error.strerror)
            return None
        self._seen = found
        waiting = {recording for recording, _, _ in self._unaccepted}
        complete = [
            recording
            for recording, since in found.items()
            if recording.size and now - since >= SETTLE_S
            if recording not in self._ledger.known and recording not in waiting
        ]
        order = [(r not in self._ledger.open, r.mtime_ns, r.file) for r in complete]
        return min(zip(order, complete, strict=True))[1] if complete else None

    def _open(self, recording: Recording, now: float) -> None:
        try:
            file = SoundFile(str(self._folder / recording.file))
            file.check_channel(self.job.channel)
        except UserError as error:
            self._refuse(recording, error)
            return
        begin = self._ledger.open.get(recording)
        if begin is None:
            begin = self._ring.index
            if not self._ledger.write(recording, begin=begin):
                file.close()
                return
        # A restarted process decodes again what the ring has, without writing it.
        before = self.feeder
        self.feeder = self._new_feeder(file.rate, skip=self._ring.index - begin)
        self.feeder.quality = before.quality
        self.feeder.anchor(self.feeder.position, time.monotonic(), None)
        self._file, self._current, self._begin, self._since = file, recording, begin, now
        log.info("%s: %s begins at sample %d", self.job.name, recording.file, begin)

    def _feed(self, file: SoundFile, now: float) -> None:
        try:
            block = file.read(max(1, round(BLOCK_S * file.rate)))
        except UserError as error:  # what precedes the damage was fed
            assert self._current is not None
            self._refused += 1
            log.warning("%s", error)
            self._end(now)
            return
        if len(block):
            self.feeder.feed(block)
        else:
            self._end(now)

    def _end(self, now: float) -> None:
        """Separate the recording from the next one."""
        assert self._current is not None
        feeder, grid = self.feeder, self._format.grid
        feeder.flush()
        end = feeder.position - feeder.skip
        feeder.skip = 0
        after = -(-(end + grid.window) // grid.hop) * grid.hop
        feeder.gap(after - feeder.position)
        self._unaccepted.append((self._current, self._begin, end))
        self._close()
        self._look_due, self._since = 0.0, now

    def _settle(self) -> None:
        """Write into the ledger whose results were accepted."""
        accepted = self.ahead.accepted
        for recording, begin, end in list(self._unaccepted):
            alone = accepted is None and self._alone
            is_accepted = accepted and accepted.next * self._format.grid.hop >= end
            if (alone or is_accepted) and self._ledger.write(recording, done=[begin, end]):
                self._unaccepted.remove((recording, begin, end))

    def _refuse(self, recording: Recording, error: UserError) -> None:
        if self._ledger.write(recording, refused=str(error)):
            self._refused += 1
            log.warning("%s", error)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._current = None

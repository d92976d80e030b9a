"""File sources: a sound file or a recording, in real time or at full speed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from speech_emotion.capture.read_ahead import ReadAhead
from speech_emotion.capture.recording.reader import RecordingFile, open_recording
from speech_emotion.capture.ring_feeder import ResumeMismatchError, RingFeeder, StreamFormat
from speech_emotion.capture.samples import Samples
from speech_emotion.capture.sound_file import SoundFile
from speech_emotion.capture.sources.resume import Start, starts, written_tail
from speech_emotion.capture.stream import POLL_S, StreamJob
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.spool import descriptor_path
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

REALTIME_BLOCK_S = 0.02
FULL_SPEED_BLOCK_S = 0.5

FILE_WAIT_S = 0.25
"""Longest time in seconds that samples wait before they are fed, when they complete no window. They
are read again when the process is killed."""

MOST_FRAMES = 65536
"""Most frames that are read at once: of blocks that are due together, and while a restarted process
reads past the samples that are in the ring."""


class FileStream:
    """One file, or one recording, in real time or as fast as results are accepted.

    Reading starts at the ring's write index, so that a restarted process leaves no gap.

    Args:
        blocks: sizes of the blocks in frames; None: 20 ms in real time, 500 ms at full speed.
        send: takes every tick.
        realtime: real time, else full speed.
        recorded: at full speed, wait for the recorder.

    Raises:
        UserError: the file or the recording cannot be read, or lacks the channel.
    """

    def __init__(
        self,
        job: StreamJob,
        stream_format: StreamFormat,
        blocks: Iterator[int] | None,
        send: Callable[[internal.Tick], None],
        *,
        realtime: bool,
        recorded: bool = False,
    ) -> None:
        self.job = job
        self.error: UserError | None = None
        self._gaps: list[list[int]] = []
        self._file = self._open(stream_format)
        self._file.check_channel(job.channel)
        block_s = REALTIME_BLOCK_S if realtime else FULL_SPEED_BLOCK_S
        self._blocks = blocks or itertools.repeat(round(block_s * self._file.rate))
        self._realtime = realtime
        ring = RingWriter.attach(job.ring)
        self.ahead = ReadAhead(
            stream_format.grid.hop,
            ring.capacity // 2,
            recorder=recorded and not realtime,
            waits=not realtime,
        )
        self._ring, self._format, self._send = ring, stream_format, send
        self.feeder = self._new_feeder(skip=0)
        self._began = time.monotonic()
        self._resume(ring.index)
        self._next = next(self._blocks)
        self._fed = 0
        self._block_s = self._next / self._file.rate
        self.begin(time.monotonic(), 0.0)

    def _open(self, stream_format: StreamFormat) -> SoundFile | RecordingFile:
        kind, _, path = self.job.source.partition(":")
        if kind == "replay":
            recording = open_recording(Path(path), stream_format.rate)
            self._gaps = recording.gaps
            return RecordingFile(recording)
        spooled = self.job.spooled
        return SoundFile(path, None if spooled is None else descriptor_path(spooled))

    def _new_feeder(self, skip: int, written: Samples | None = None) -> RingFeeder:
        return RingFeeder(
            self.job.name,
            self._ring,
            self._file.rate,
            self._format,
            self._send,
            channel=self.job.channel,
            skip=skip,
            written=written,
        )

    def _resume(self, position: int) -> None:
        """Continue after the samples that an earlier process has written, up to `position`."""
        if not position:
            return
        file = self._file
        if isinstance(file, RecordingFile) or (file.rate == self._format.rate and file.seekable):
            file.seek(position)
            return
        written = written_tail(self._ring.name, self._format, position, lossy=not file.seekable)
        if written is not None:
            for start in starts(file, self._format, position, len(written)):
                if self._resume_at(start, written):
                    return
        # Decode from the start. `turn` does it in blocks, so that heartbeats go on meanwhile.
        file.close()
        self._file = self._open(self._format)
        self.feeder = self._new_feeder(skip=position)

    def _resume_at(self, start: Start, written: Samples) -> bool:
        """Seek and feed up to the ring's write index; False if the samples differ."""
        assert isinstance(self._file, SoundFile)
        feeder = self._new_feeder(start.skip, written)
        try:
            self._file.seek(start.frame)
            discard = start.discard
            while discard:
                frames = len(self._file.read(min(discard, MOST_FRAMES)))
                if not frames:
                    return False
                discard -= frames
            while feeder.skip:
                block = self._file.read(self._frames_to_skip(feeder))
                if not len(block):
                    return False
                feeder.feed(block)
        except (ResumeMismatchError, UserError):
            return False
        self.feeder = feeder
        return True

    def _frames_to_skip(self, feeder: RingFeeder) -> int:
        """Frames of the file that the samples to skip need, at most a block."""
        frames = -(-feeder.skip * self._file.rate // self._format.rate)
        return min(MOST_FRAMES, frames)

    def begin(self, now: float, lead: float) -> None:
        """Set the moment of the next sample: `now` plus `lead`, rounded down to whole blocks.

        Args:
            now: CLOCK_MONOTONIC, in seconds.
            lead: seconds.
        """
        self._began = now + lead // self._block_s * self._block_s
        unix = time.time() + self._began - time.monotonic() if self._realtime else None
        self.feeder.anchor(self.feeder.position, self._began, unix)

    @property
    def counters(self) -> dict[str, int]:
        return {}

    @property
    def wakeup(self) -> int | None:
        return None

    @property
    def condition(self) -> Condition:
        if self.feeder.ended:
            return Condition(SourceState.ENDED, since=self._began)
        if self.feeder.skip:
            reason = "decoding the file up to the sample at which the last process ended"
            return Condition(SourceState.RECOVERING, reason, self._began)
        return Condition(SourceState.LIVE, since=self._began)

    def due(self, now: float) -> float:
        if self.feeder.ended:
            return POLL_S
        if self.feeder.skip:
            return 0.0
        if self._realtime:
            # A block is due at the time of its last sample. Blocks that complete no window are
            # fed together: a wake-up costs more than the work.
            blocks = -(-self.feeder.frames_until_due(FILE_WAIT_S) // self._next)
            frames = max(1, blocks) * self._next
            return self._began + (self._fed + frames) / self._file.rate - now
        return 0.0 if self._has_credit(now) else POLL_S

    def turn(self, now: float) -> None:
        if self.feeder.skip:
            if not self.feeder.ended:
                self._feed(self._frames_to_skip(self.feeder))
            if not self.feeder.skip:  # the file continues in real time from this moment
                self._fed = 0
                self.begin(time.monotonic(), 0.0)
            return
        if not self._realtime and not self.feeder.ended and self._has_credit(now):
            self._feed(self._next)
            self._next = next(self._blocks)
        while self._realtime and not self.feeder.ended and (frames := self._frames_due(now)):
            self._feed(frames)

    def mute(self, now: float, *, muted: bool) -> None:
        self.feeder.mute(now, muted=muted)

    def finish(self) -> None:
        if not self.feeder.ended:
            self.feeder.finish()
            self._file.close()

    def _frames_due(self, now: float) -> int:
        """Frames of the blocks that are due; one read of them costs as much as one of a block."""
        due, frames = (now - self._began) * self._file.rate - self._fed, 0
        while frames + self._next <= due and frames < MOST_FRAMES:
            frames += self._next
            self._next = next(self._blocks)
        return frames

    def _has_credit(self, now: float) -> bool:
        return self.ahead.allows(self.feeder.position, now)

    def _feed(self, frames: int) -> None:
        position = self.feeder.position
        for start, end in self._gaps:  # of a recording: its frames are the ring's samples
            if start <= position < end:
                self._file.seek(end)
                self.feeder.gap(end - position)
                self._fed += end - position
                return
            if position < start:
                frames = min(frames, start - position)
                break
        try:
            block = self._file.read(frames)
        except UserError as error:
            # The samples before the damage are delivered first; then the error ends the process.
            self.error = error
            self.finish()
            return
        self._fed += len(block)
        if len(block):
            self.feeder.feed(block)
            return
        self.finish()
        if not self.feeder.position:
            self.error = UserError(f"{self.job.source.partition(':')[2]}: holds no samples")

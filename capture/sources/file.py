"""File sources: a sound file or a recording, in real time or at full speed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from speech_emotion.capture.recording.reader import open_recording
from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.capture.sources.sound_file import SoundFile
from speech_emotion.capture.stream import POLL_S, StreamJob
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

REALTIME_BLOCK_S = 0.02
FULL_SPEED_BLOCK_S = 0.1

SKIP_FRAMES = 65536
"""Frames per block while a restarted process reads past the samples that are in the ring."""


class FileStream:
    """One file, or one recording, in real time or as fast as results are accepted.

    Reading starts at the ring's write index, so that a restarted process leaves no gap.

    Args:
        blocks: sizes of the blocks in frames; None: 20 ms in real time, 100 ms at full speed.
        send: takes every tick.

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
    ) -> None:
        self.job = job
        self.accepted: internal.Accepted | None = None
        self.error: UserError | None = None
        kind, _, path = job.source.partition(":")
        self._gaps: list[list[int]] = []
        if kind == "replay":
            recording = open_recording(Path(path), stream_format.rate)
            path, self._gaps = str(recording.audio), recording.gaps
        self._file = SoundFile(path)
        self._file.check_channel(job.channel)
        self._hop = stream_format.grid.hop
        block_s = REALTIME_BLOCK_S if realtime else FULL_SPEED_BLOCK_S
        self._blocks = blocks or itertools.repeat(round(block_s * self._file.rate))
        self._realtime = realtime
        ring = RingWriter.attach(job.ring)
        self._max_ahead = ring.capacity // 2
        skip = ring.index
        if skip and self._file.rate == stream_format.rate and self._file.seekable:
            self._file.seek(skip)
            skip = 0
        self.feeder = RingFeeder(
            job.name, ring, self._file.rate, stream_format, send, channel=job.channel, skip=skip
        )
        self._next = next(self._blocks)
        self._fed = 0
        # Samples that an earlier process has written are read at once, not in real time.
        while self.feeder.skip and not self.feeder.ended:
            self._feed(SKIP_FRAMES)
        self._fed = 0
        self._block_s = self._next / self._file.rate
        self.begin(time.monotonic(), 0.0)

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
        state = SourceState.ENDED if self.feeder.ended else SourceState.LIVE
        return Condition(state, since=self._began)

    def due(self, now: float) -> float:
        if self.feeder.ended:
            return POLL_S
        if self._realtime:
            # A block is due at the time of its last sample. Blocks that complete no window are
            # fed together: a wake-up costs more than the work.
            frames = max(self._next, self.feeder.frames_until_due())
            return self._began + (self._fed + frames) / self._file.rate - now
        return 0.0 if self._has_credit() else POLL_S

    def turn(self, now: float) -> None:
        if not self._realtime and not self.feeder.ended and self._has_credit():
            self._feed(self._next)
            self._next = next(self._blocks)
        while self._realtime and not self.feeder.ended and self._block_is_due(now):
            self._feed(self._next)
            self._next = next(self._blocks)

    def finish(self) -> None:
        if not self.feeder.ended:
            self.feeder.finish()
            self._file.close()

    def _block_is_due(self, now: float) -> bool:
        return self._began + (self._fed + self._next) / self._file.rate <= now

    def _has_credit(self) -> bool:
        # The ring's writer never waits. So at full speed the file waits: at most half a ring
        # ahead of the last accepted result.
        if self.accepted is None:
            return False
        return self.feeder.position < self.accepted.next * self._hop + self._max_ahead

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
        else:
            self.finish()

"""File sources: a sound file or a recording, in real time or at full speed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from speech_emotion.capture.recording.reader import open_recording
from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.capture.service import POLL_S
from speech_emotion.capture.sources.sound_file import FileSource
from speech_emotion.capture.stream import StreamJob
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

REALTIME_BLOCK_S = 0.02


FULL_SPEED_BLOCK_S = 0.1


CATCH_UP_FRAMES = 65536
"""Block in which a restarted process reads past what its predecessor has written."""


class FileStream:
    """One file, or one recording, in real time or as fast as results are accepted.

    Reading begins where the ring ends, so a restarted process goes on without a gap.

    Args:
        blocks: sizes in frames of the blocks that the source hands over; None: 20 ms in real
            time, 100 ms at full speed.
    """

    def __init__(
        self,
        job: StreamJob,
        form: StreamFormat,
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
            tape = open_recording(Path(path), form.rate)
            path, self._gaps = str(tape.audio), tape.gaps
        self._source = FileSource(path)
        self._source.check_channel(job.channel)
        self._form = form
        block_s = REALTIME_BLOCK_S if realtime else FULL_SPEED_BLOCK_S
        self._blocks = blocks or itertools.repeat(round(block_s * self._source.rate))
        self._realtime = realtime
        ring = RingWriter.attach(job.ring)
        self._room = ring.capacity // 2
        skip = ring.index
        if skip and self._source.rate == form.rate and self._source.seekable:
            self._source.seek(skip)
            skip = 0
        self.feeder = RingFeeder(
            job.name, ring, self._source.rate, form, send, channel=job.channel, skip=skip
        )
        self._next = next(self._blocks)
        self._fed = 0
        # What an earlier process has written takes no time now.
        while self.feeder.skip and not self.feeder.ended:
            self._feed(CATCH_UP_FRAMES)
        self._fed = 0
        self._block = self._next / self._source.rate
        self.begin(time.monotonic(), 0.0)

    def begin(self, now: float, lead: float) -> None:
        """Play from now on, or from the block behind `lead` seconds on."""
        self._began = now + lead // self._block * self._block
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
            # A block is there when its last sample is. Those before a window is complete wait
            # for each other: to be woken costs more than to do the work.
            frames = max(self._next, self.feeder.patience())
            return self._began + (self._fed + frames) / self._source.rate - now
        return 0.0 if self._has_credit() else POLL_S

    def turn(self, now: float) -> None:
        if not self._realtime and not self.feeder.ended and self._has_credit():
            self._feed(self._next)
            self._next = next(self._blocks)
        while self._realtime and not self.feeder.ended and self._there(now):
            self._feed(self._next)
            self._next = next(self._blocks)

    def finish(self) -> None:
        if not self.feeder.ended:
            self.feeder.finish()
            self._source.close()

    def _there(self, now: float) -> bool:
        return self._began + (self._fed + self._next) / self._source.rate <= now

    def _has_credit(self) -> bool:
        # The ring never waits, so at full speed the file does: half a ring ahead at most.
        if self.accepted is None:
            return False
        return self.feeder.position < self.accepted.next * self._form.hop + self._room

    def _feed(self, frames: int) -> None:
        position = self.feeder.position
        for start, end in self._gaps:  # of a replay, whose frames are the ring's samples
            if start <= position < end:
                self._source.seek(end)
                self.feeder.gap(end - position)
                self._fed += end - position
                return
            if position < start:
                frames = min(frames, start - position)
                break
        try:
            block = self._source.read(frames)
        except UserError as error:
            # What came before the damage is still delivered; the error ends the process then.
            self.error = error
            self.finish()
            return
        self._fed += len(block)
        if len(block):
            self.feeder.feed(block)
        else:
            self.finish()

"""Raw sound on standard input: what `arecord` or `ffmpeg` pipe to us."""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

if TYPE_CHECKING:
    from speech_emotion.capture.open_sources import SourceOptions
    from speech_emotion.capture.stream import StreamJob

ANCHOR_S = 1.0
QUIET_S = 2.5
"""A pipe in real time that gives nothing for so long is told of, within 3 s."""
SAMPLE_BYTES = 2


class StdinStream:
    """Signed 16-bit little-endian samples, channels interleaved, from a pipe.

    The pipe is read no further than half a ring ahead of the last accepted result, so a
    writer that is faster than time waits.

    Args:
        fd: the pipe; reading from it goes on where an earlier process has stopped.

    Raises:
        UserError: it is a terminal.
    """

    def __init__(
        self,
        job: StreamJob,
        form: StreamFormat,
        send: Callable[[internal.Tick], None],
        opening: SourceOptions,
        fd: int,
    ) -> None:
        self.job = job
        self.accepted: internal.Accepted | None = None
        self.error: UserError | None = None
        rate, channels = (int(part) for part in (job.source + ":1").split(":")[1:3])
        if job.channel is not None and job.channel >= channels:
            raise UserError(f"{job.source} has no channel {job.channel}")
        if os.isatty(fd):
            raise UserError(f"{job.source}: standard input is a terminal; pipe raw s16le to it")
        self._fd = fd
        self._channels = channels
        self._frame = SAMPLE_BYTES * channels
        self._form = form
        self._realtime = opening.realtime
        self._alone = opening.alone
        frames = opening.block_frames or max(1, round(opening.block_ms / 1000.0 * rate))
        self._block = frames * self._frame
        ring = RingWriter.attach(job.ring)
        self._room = ring.capacity // 2
        self.feeder = RingFeeder(job.name, ring, rate, form, send, channel=job.channel)
        index, monotonic, unix = ring.anchor
        if monotonic and unix:
            behind = index + (time.monotonic() - monotonic) * form.rate - ring.index
            self.feeder.gap(max(0, round(behind)))
        self._anchor_due = 0.0
        self._began = self._heard = time.monotonic()

    @property
    def counters(self) -> dict[str, int]:
        return {}

    @property
    def wakeup(self) -> int | None:
        return None if self.feeder.ended or not self._has_credit() else self._fd

    @property
    def condition(self) -> Condition:
        if self.feeder.ended:
            return Condition(SourceState.ENDED)
        if not self.feeder.position:
            return Condition(SourceState.STARTING, since=self._began)
        quiet = time.monotonic() - self._heard
        if self._realtime and quiet > QUIET_S:
            reason = f"nothing came through the pipe for {quiet:.0f} s"
            return Condition(SourceState.LOST, reason, self._heard)
        return Condition(SourceState.LIVE, since=self._began)

    def due(self, now: float) -> float:  # noqa: ARG002
        return 0.1

    def turn(self, now: float) -> None:
        while not self.feeder.ended and self._has_credit():
            there, closed = self._readable()
            if there < self._frame:
                if closed:  # a part of a frame is no sound
                    self.finish()
                return
            # No more than is there, and whole frames: whoever goes on begins with a frame.
            self._heard = now
            content = os.read(self._fd, min(self._block, there) // self._frame * self._frame)
            samples = np.frombuffer(content, "<i2").reshape(-1, self._channels)
            self.feeder.feed(samples.astype(np.float32) / np.float32(32768.0))
            if now >= self._anchor_due:
                self._anchor_due = now + ANCHOR_S
                unix = time.time() if self._realtime else None
                self.feeder.anchor(self.feeder.position, time.monotonic(), unix)

    def finish(self) -> None:
        if not self.feeder.ended:
            self.feeder.finish()

    def _readable(self) -> tuple[int, bool]:
        """Bytes that can be read without waiting, and whether no more will come."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        events = poll.poll(0)
        if not events:
            return 0, False
        count = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, count)
        # A file is always readable, also at its end.
        return count[0], bool(events[0][1] & select.POLLHUP) or count[0] == 0

    def _has_credit(self) -> bool:
        if self.accepted is None:
            return self._alone or self.feeder.position < self._room
        return self.feeder.position < self.accepted.next * self._form.hop + self._room

"""Raw samples on standard input, as `arecord` or `ffmpeg` write them into a pipe."""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import time
from collections.abc import Callable

import numpy as np

from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.capture.stream import POLL_S, SourceOptions, StreamJob
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

ANCHOR_S = 1.0
"""Seconds between two anchors of the sample index to the clocks."""
QUIET_S = 2.5
"""A pipe in real time is lost after this many seconds without a byte; reported within 3 s."""
SAMPLE_BYTES = 2


class StdinStream:
    """Signed 16-bit little-endian samples, channels interleaved, from a pipe.

    Reads at most half a ring ahead of the last accepted result, so that a writer that is faster
    than real time waits. A restarted process continues where the earlier one stopped reading.

    Args:
        send: takes every tick.

    Raises:
        UserError: standard input is a terminal, or lacks the channel.
    """

    def __init__(
        self,
        job: StreamJob,
        stream_format: StreamFormat,
        send: Callable[[internal.Tick], None],
        options: SourceOptions,
    ) -> None:
        self.job = job
        self.accepted: internal.Accepted | None = None
        self.error: UserError | None = None
        rate, channels = (int(part) for part in (job.source + ":1").split(":")[1:3])
        if job.channel is not None and job.channel >= channels:
            raise UserError(f"{job.source} has no channel {job.channel}")
        self._fd = options.stdin
        if os.isatty(self._fd):
            raise UserError(f"{job.source}: standard input is a terminal; pipe raw s16le to it")
        self._channels = channels
        self._frame_bytes = SAMPLE_BYTES * channels
        self._block_bytes = options.device_block(rate) * self._frame_bytes
        self._hop = stream_format.grid.hop
        self._realtime = options.realtime
        self._alone = options.alone
        ring = RingWriter.attach(job.ring)
        self._max_ahead = ring.capacity // 2
        self.feeder = RingFeeder(job.name, ring, rate, stream_format, send, channel=job.channel)
        index, monotonic, unix = ring.anchor
        if monotonic and unix:
            missing = index + (time.monotonic() - monotonic) * stream_format.rate - ring.index
            self.feeder.gap(max(0, round(missing)))
        self._anchor_due = 0.0
        self._began = self._last_read = time.monotonic()

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
        quiet_s = time.monotonic() - self._last_read
        if self._realtime and quiet_s > QUIET_S:
            reason = f"the pipe gave no samples for {quiet_s:.0f} s"
            return Condition(SourceState.LOST, reason, self._last_read)
        return Condition(SourceState.LIVE, since=self._began)

    def due(self, now: float) -> float:  # noqa: ARG002
        return POLL_S

    def turn(self, now: float) -> None:
        while not self.feeder.ended and self._has_credit():
            available, closed = self._readable()
            if available < self._frame_bytes:
                if closed:  # an incomplete frame at the end is discarded
                    self.finish()
                return
            # Read whole frames only: a restarted process must start at the start of a frame.
            self._last_read = now
            size = min(self._block_bytes, available) // self._frame_bytes * self._frame_bytes
            content = os.read(self._fd, size)
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
        """Bytes that can be read without waiting, and whether the writer has closed the pipe."""
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
            return self._alone or self.feeder.position < self._max_ahead
        return self.feeder.position < self.accepted.next * self._hop + self._max_ahead

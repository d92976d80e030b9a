"""Samples on standard input, as `arecord` or `ffmpeg` write them into a pipe."""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import time
from collections.abc import Callable

from speech_emotion.capture.read_ahead import ReadAhead
from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.capture.samples import Samples, channels_needed
from speech_emotion.capture.sources.monitor import SourceMonitor
from speech_emotion.capture.sources.noise_monitor import NoiseMonitor
from speech_emotion.capture.sources.pipe_format import FormatProbe, PipeFormat
from speech_emotion.capture.stream import POLL_S, SourceOptions, StreamJob
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.standard_input import check_standard_input
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

ANCHOR_S = 1.0
"""Seconds between two anchors of the sample index to the clocks."""
QUIET_S = 2.5
"""A pipe is silent, and in real time lost, after this many seconds without a byte; reported within
3 s."""


class StdinStream:
    """Signed 16-bit little-endian samples, channels interleaved, or a WAV file, from a pipe.

    Reads at most half a ring ahead of the last accepted result, so that a writer that is faster
    than real time waits. A restarted process continues where the earlier one stopped reading.

    Args:
        send: takes every tick.

    Raises:
        UserError: samples cannot come from standard input.
    """

    def __init__(
        self,
        job: StreamJob,
        stream_format: StreamFormat,
        send: Callable[[internal.Tick], None],
        options: SourceOptions,
    ) -> None:
        self.job = job
        self.error: UserError | None = None
        rate, channels = (int(part) for part in (job.source + ":1").split(":")[1:3])
        if (needed := channels_needed(job.channel)) > channels:
            raise UserError(f"{job.source} has no channel {needed - 1}")
        check_standard_input(options.stdin)
        self._fd = options.stdin
        self._options = options
        self._stream_format = stream_format
        self._send = send
        self._raw = PipeFormat(rate, channels)
        self._probe: FormatProbe | None = FormatProbe(self._read_exactly, self._raw)
        self._ring = RingWriter.attach(job.ring)
        self.ahead = ReadAhead(
            stream_format.grid.hop,
            self._ring.capacity // 2,
            recorder=options.recorded and not options.realtime,
        )
        self._anchor_due = 0.0
        self._began = self._last_read = time.monotonic()
        self._pending = b""
        self._muted: float | None = None
        self._left: int | None = None
        known = PipeFormat.load(options.stdin_format)
        self._use(known or self._raw)
        if known is not None:
            self._probe = None
            self._declare_gap()

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
        quiet_s = time.monotonic() - self._last_read
        if not self.feeder.position:
            if quiet_s > QUIET_S:
                reason = f"the pipe has given no samples for {quiet_s:.0f} s since the start"
                return Condition(SourceState.SILENT_INPUT, reason, self._began)
            return Condition(SourceState.STARTING, since=self._began)
        if self._options.realtime and quiet_s > QUIET_S:
            reason = f"the pipe gave no samples for {quiet_s:.0f} s"
            return Condition(SourceState.LOST, reason, self._last_read)
        if self._noise.suspected:
            reason = (
                "noise at full scale: is the sample format right? "
                "expected are signed 16-bit little-endian samples "
                f"at {self._format.rate} Hz, {self._format.channels} channel(s)"
            )
            return Condition(SourceState.STUCK, reason, self._state_since)
        if self._options.realtime and self._monitor.state is not SourceState.STARTING:
            state, reason_or_none = self._monitor.state, self._monitor.reason
            return Condition(state, reason_or_none, self._state_since, None, self._monitor.clipped)
        return Condition(SourceState.LIVE, since=self._began)

    def due(self, now: float) -> float:  # noqa: ARG002
        return POLL_S

    def turn(self, now: float) -> None:
        try:
            while not self.feeder.ended and self._has_credit():
                if self._probe is not None:
                    found = self._probe.turn()
                    if found is None:
                        if self._readable()[1]:
                            self._start(self._probe.ended())
                            continue
                        return
                    self._start(found)
                    continue
                if not self._feed(now):
                    return
        except UserError as error:
            self.error = error
            self._end()

    def mute(self, now: float, *, muted: bool) -> None:
        self._muted = now if muted else None
        self.feeder.mute(now, muted=muted)

    def finish(self) -> None:
        """End the stream because it was stopped."""
        self._end()

    def _end(self) -> None:
        if not self.feeder.ended:
            self.feeder.finish()

    def _start(self, found: PipeFormat) -> None:
        """Read samples of the format from now on."""
        assert self._probe is not None
        if (needed := channels_needed(self.job.channel)) > found.channels:
            raise UserError(f"standard input has no channel {needed - 1}")
        self._pending = self._probe.samples
        self._probe = None
        found.save(self._options.stdin_format)
        muted_samples = self.feeder.muted_samples
        self._use(found)
        self.feeder.muted_samples = muted_samples

    def _use(self, found: PipeFormat) -> None:
        self._format = found
        self._left = found.length
        self._block_bytes = self._options.device_block(found.rate) * found.frame_bytes
        self.feeder = RingFeeder(
            self.job.name,
            self._ring,
            found.rate,
            self._stream_format,
            self._send,
            channel=self.job.channel,
        )
        if self._muted is not None:
            self.feeder.mute(self._muted, muted=True)
        self._noise = NoiseMonitor(found.rate)
        # Times of the monitor are those of the samples: a pipe may be faster than real time.
        self._monitor = SourceMonitor(0.0, found.rate, 0.0, checks_rate=False)
        self._frames = 0
        self._state_since = time.monotonic()

    def _feed(self, now: float) -> bool:
        """Feed the next block; False if the pipe has to be waited for."""
        available, closed = self._readable()
        frame = self._format.frame_bytes
        if self._left is not None and self._left < frame:
            self._end_of_pipe()  # what follows the samples in the file is no sound
            return False
        if available + len(self._pending) < frame:
            if closed:  # an incomplete frame at the end is discarded
                self._end_of_pipe()
            return False
        # Read whole frames only: a restarted process must start at the start of a frame.
        size = min(self._block_bytes, available + len(self._pending)) // frame * frame
        if self._left is not None:
            size = min(size, self._left // frame * frame)
        wanted = max(0, size - len(self._pending))
        content = self._pending + (os.read(self._fd, wanted) if wanted else b"")
        whole = len(content) // frame * frame
        content, self._pending = content[:whole], content[whole:]
        if self._left is not None:
            self._left -= whole
        self._last_read = now
        samples = self._format.decode(content)
        if self.feeder.muted_since is None:
            self._judge(samples, now)
        self.feeder.feed(samples)
        if now >= self._anchor_due:
            self._anchor_due = now + ANCHOR_S
            unix = time.time() if self._options.realtime else None
            self.feeder.anchor(self.feeder.position, time.monotonic(), unix)
        return True

    def _judge(self, samples: Samples, now: float) -> None:
        before = (self._monitor.state, self._noise.suspected)
        self._frames += len(samples)
        self._monitor.add_block(self._frames / self._format.rate, samples)
        if not self._format.header:
            self._noise.add(samples)
        if before != (self._monitor.state, self._noise.suspected):
            self._state_since = now

    def _end_of_pipe(self) -> None:
        self._end()
        if not self.feeder.position:
            self.error = UserError(f"{self.job.source}: standard input ended without a sample")
        elif self._left is not None and self._left >= self._format.frame_bytes:
            seconds = self.feeder.position / self._stream_format.rate
            self.error = UserError(
                f"{self.job.source}: damaged after {seconds:.2f} s "
                f"({self._left} bytes of the WAV file are missing)"
            )

    def _declare_gap(self) -> None:
        """Declare the samples that the pipe gave while no process read it as missing."""
        index, monotonic, unix = self._ring.anchor
        if monotonic and unix:
            rate = self._stream_format.rate
            missing = index + (time.monotonic() - monotonic) * rate - self._ring.index
            self.feeder.gap(max(0, round(missing)))

    def _read_exactly(self, size: int) -> bytes | None:
        available, _ = self._readable()
        return os.read(self._fd, size) if available >= size else None

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
        # Without a supervisor there may be no hub, and then nothing limits the source.
        if self.ahead.accepted is None and self._options.alone:
            return True
        return self.ahead.allows(self.feeder.position, time.monotonic(), without_hub=True)

"""A network source: its connections one after the other, its state, and the rings that it feeds.

It has the states, the silence rules and the gap accounting of a microphone. A lost connection is
opened again in the same process.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence

from speech_emotion.capture.recording.wav_writer import WavWriter
from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.capture.samples import channels_needed
from speech_emotion.capture.sources.clock import BEGIN_S, MutedTime, SampleClock
from speech_emotion.capture.sources.monitor import (
    BEGINNING,
    REOPEN_AGAIN_S,
    REOPEN_S,
    SourceMonitor,
)
from speech_emotion.capture.sources.network.connection import (
    Chunk,
    Connection,
    End,
    Retry,
    StoredConnection,
)
from speech_emotion.capture.sources.network.continuity import Continuity, Pace, Speed, Supply
from speech_emotion.capture.stream import POLL_S, SourceOptions, StreamJob
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_address import shown
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

log = logging.getLogger("capture")

QUIET_S = 2.5
"""Seconds without a sample after which a source is lost, reported within 3 s. A radio link and
TCP delay sound by up to 2 s and then deliver it."""
ATTEMPT_S = 8.0
"""Longest time in seconds from the start of a connection to its first sample."""
DELAYS_S = (0.0, 0.5, 1.0, 1.5)
"""Delays before attempts in a row without sound; the last one repeats."""
JITTER = 0.25
"""Each delay is multiplied by 1 ± this, so that many boxes do not connect in step."""
LATER_S = 15.0
"""Delay after credentials were refused."""
SETTLED_S = 5.0
"""Seconds of sound after which a connection counts as a success: the next delay is the first."""
AHEAD_S = 10.0
"""Seconds of sound that are read at once where a server sends a burst: a third of a ring."""
DRIFT = 1.05
"""Highest speed in the long run, beyond the burst."""
SLACK_S = 1.0
"""A time stamp may be so many seconds ahead of the clock: the delay of a network varies."""
PACED_S = 0.2
LONGEST_GAP_S = 60.0
"""Longest gap within a connection that is read at its own pace from a store (HLS)."""
QUEUE_S = 1.0
"""Seconds of sound that are read and not fed yet, at most."""
SHORTEST_WAIT_S = 0.01


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a kind of network source is read.

    Attributes:
        connect: opens a connection.
        name: the source for `health`, without credentials.
        stored: its server keeps sound in segments, which arrive at once (HLS). It is read at real
            time from the first sample on, so that sound flows steadily.
        attempt_s: longest time in seconds to the first sample; None: it waits for a client.
        quiet_s: seconds without a sample after which a source is lost.
    """

    connect: Callable[[], Connection]
    name: str
    stored: bool = False
    attempt_s: float | None = ATTEMPT_S
    quiet_s: float = QUIET_S


class NetworkSource:
    """The connections of one source, its sample clock, and the feeders of its streams.

    Args:
        send: takes every tick.
        now: CLOCK_MONOTONIC.

    Attributes:
        feeders: of the streams, in the order of `jobs`.
        error: a mistake in the configuration that ended the source.
        counters: faults by name.
    """

    def __init__(
        self,
        jobs: Sequence[StreamJob],
        stream_format: StreamFormat,
        send: Callable[[internal.Tick], None],
        options: SourceOptions,
        kind: Kind,
        now: float,
    ) -> None:
        self._names = ", ".join(job.name for job in jobs)
        self._jobs = jobs
        self._rings = [RingWriter.attach(job.ring) for job in jobs]
        self._format, self._send, self._options = stream_format, send, options
        self.kind = kind
        self.error: UserError | None = None
        self.ended = False
        self.counters = {
            "capture_reconnects": 0,
            "capture_frames_repeated": 0,
            "capture_stamps_refused": 0,
        }
        self.feeders = self._new_feeders(stream_format.rate)
        restarted = any(ring.anchor[1] for ring in self._rings)
        state = SourceState.RECOVERING if restarted else SourceState.STARTING
        self._absent = Condition(state, since=now, device=kind.name)
        self._logged = state
        self._connection: Connection | None = None
        self._monitor: SourceMonitor | None = None
        self._attempts = 0
        self._connections = 0
        self._opened = self._retry_at = now
        self._queue: deque[Chunk] = deque()
        self._queued = 0
        self._reopen_after = REOPEN_S
        self._writer: WavWriter | None = None
        self._recorded = 0
        self._due = now
        self._muted_time: MutedTime | None = None

    @property
    def condition(self) -> Condition:
        """State of the source."""
        if self.ended:
            return Condition(SourceState.ENDED, device=self.kind.name)
        monitor = self._monitor
        if monitor is None or monitor.state in BEGINNING:
            return self._absent
        reason = monitor.reason
        if reason is None and monitor.state is SourceState.LIVE:
            reason = self._supply.fault or self._speed.fault
        return Condition(monitor.state, reason, monitor.since, self.kind.name, monitor.clipped)

    def due(self, now: float) -> float:
        """Seconds from `now` until `turn` has something to do."""
        return max(0.0, self._due - now)

    def turn(self, now: float) -> None:
        """Read, feed and check the source; open a connection when one is due."""
        if self.ended:
            return
        if self._muted_time is not None:
            self._muted_time.turn(now)
            self._due = now + POLL_S
            return
        if self._connection is None and now >= self._retry_at:
            self._open(now)
        if self._connection is not None:
            self._read(self._connection, now)
            self._check(now)
        wait = POLL_S
        if self._monitor is not None:
            frames = min(feeder.frames_until_due() for feeder in self.feeders)
            wait = max(SHORTEST_WAIT_S, min(frames / self._rate, POLL_S))
        self._due = now + wait

    def mute(self, now: float, *, muted: bool) -> None:
        """End the connection and take no sound, or connect again; may be repeated."""
        if muted == (self._muted_time is not None) or self.ended:
            return
        self._due = now
        if muted:
            self._disconnect()
            self._muted_time = MutedTime(self.feeders, self._format.rate, now, POLL_S)
            return
        self._muted_time = None
        for feeder in self.feeders:
            feeder.mute(now, muted=False)
        self._attempts, self._retry_at = 0, now
        self._set_absent(SourceState.STARTING, None, now)

    def finish(self) -> None:
        """End all streams and the connection."""
        if not self.ended:
            self.ended = True
            for feeder in self.feeders:
                feeder.finish()
            if self._writer is not None:
                self._writer.close()
            self._disconnect()

    def _new_feeders(self, rate: int) -> list[RingFeeder]:
        return [
            RingFeeder(
                job.name, ring, rate, self._format, self._send, channel=job.channel, mix=job.mix
            )
            for job, ring in zip(self._jobs, self._rings, strict=True)
        ]

    # Connecting ---------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        self._connections += 1
        self.counters["capture_reconnects"] = self._connections - 1
        self._attempts += 1
        self._opened = now
        try:
            self._connection = self.kind.connect()
        except (OSError, UserError) as error:  # no descriptor or process is left; no ffmpeg
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._lose(now, End(f"no connection could be opened ({reason})"))
            return
        if self._absent.state is SourceState.LOST:
            self._set_absent(SourceState.RECOVERING, self._absent.reason, now)

    def _read(self, connection: Connection, now: float) -> None:
        # At the start a whole burst is read, because its length tells when it was captured.
        bound_s = AHEAD_S if self._monitor is None and not self.kind.stored else QUEUE_S
        room_s = bound_s - self._queued / (connection.rate or 1)
        if room_s > 0.0:
            for chunk in connection.read(now, room_s):
                self._queue.append(chunk)
                self._queued += len(chunk.samples)
        if self._queue and self._monitor is None:
            self._begin(connection, now)
        if self._monitor is not None:
            if self.kind.stored and isinstance(connection, StoredConnection):
                self._watch_supply(connection.received, now)
            self._feed_queue(now)

    def _begin(self, connection: Connection, now: float) -> None:
        """Start the clock of a new connection as soon as the time of its first frame is known."""
        assert connection.rate is not None
        rate = self._rate = connection.rate
        channels = self._queue[0].samples.shape[1]
        for job in self._jobs:
            if (needed := channels_needed(job.channel)) > channels:
                text = f"{shown(job.source)} has no channel {needed - 1} (it has {channels})"
                self._lose(now, End(text, Retry.NEVER))
                return
        feeders = self._new_feeders(rate)
        clock = SampleClock(feeders, rate, self._format.rate, paced=not self.kind.stored)
        arriving_s = now - self._queue[0].arrived
        if not self.kind.stored and arriving_s < BEGIN_S:
            return  # of a burst, the end was captured now and the beginning earlier
        frames, starts = 0, []
        for chunk in self._queue:
            frames += len(chunk.samples)
            starts.append(chunk.arrived - frames / rate)
        began = self._queue[0].arrived if self.kind.stored else min(starts)
        if not self.kind.stored:
            began += self._drop_heard(clock.heard_s(began))
        if not self._queue:
            return
        for feeder, earlier in zip(feeders, self.feeders, strict=True):
            feeder.quality, feeder.muted_samples = earlier.quality, earlier.muted_samples
        self.feeders, self._clock = feeders, clock
        clock.begin(began)
        self._continuity = Continuity(rate)
        self._speed, self._supply = Speed(rate, now), Supply(now)
        stored = self.kind.stored
        self._pace = (
            Pace(rate, 1.0, PACED_S, now, full=False)
            if stored
            else Pace(rate, DRIFT, AHEAD_S, now, full=True)
        )
        self._monitor = SourceMonitor(
            now,
            rate,
            0.0,
            restarted=clock.returned,
            checks_rate=False,
            quiet_s=self.kind.quiet_s,
            source="the source",
        )
        if self._options.record and self._writer is None:
            self._writer = WavWriter(self._options.record, rate, channels)

    def _watch_supply(self, received: int, now: float) -> None:
        before = self._supply.fault
        self._supply.add(received, now)
        if self._supply.fault and not before:
            log.warning("%s: %s", self._names, self._supply.fault)

    def _drop_heard(self, seconds: float) -> float:
        """Drop frames of a burst that an earlier connection gave already; their seconds.

        Sound that a server repeats would be heard twice, and the sample index would run ahead of
        the clock.
        """
        left = dropped = round(max(0.0, seconds) * self._rate)
        while left and self._queue:
            chunk = self._queue.popleft()
            kept = chunk.samples[left:]
            gone = len(chunk.samples) - len(kept)
            left -= gone
            self._queued -= gone
            if len(kept):
                index = None if chunk.index is None else chunk.index + gone
                self._queue.appendleft(Chunk(kept, chunk.arrived, index))
        self.counters["capture_frames_repeated"] += dropped - left
        return (dropped - left) / self._rate

    # Feeding ------------------------------------------------------------------------------

    def _feed_queue(self, now: float) -> None:
        while self._queue:
            frames = len(self._queue[0].samples)
            if not self._pace.allows(frames, now):
                self._speed.add(0, now, limited=not self.kind.stored)
                return
            chunk = self._queue.popleft()
            self._queued -= frames
            self._feed(chunk, now)
            if self.ended:
                return

    def _feed(self, chunk: Chunk, now: float) -> None:
        assert self._monitor is not None
        samples, clock = chunk.samples, self._clock
        frames = len(samples)
        missing = 0
        if chunk.index is not None:
            limit = clock.frames + LONGEST_GAP_S * self._rate
            if not self.kind.stored:
                limit = clock.frames_at(chunk.arrived) + SLACK_S * self._rate
            most = round(limit) - clock.frames
            refused = self._continuity.refused
            missing = self._continuity.missing(chunk.index, frames, clock.frames, most)
            self.counters["capture_stamps_refused"] += self._continuity.refused - refused
        if missing:
            log.warning("%s: %d frames are missing by their time stamps", self._names, missing)
            clock.missing(missing)
        limit_s = self._options.seconds
        last = limit_s is not None and self._recorded + frames >= limit_s * self._rate
        if last:
            assert limit_s is not None
            samples = samples[: round(limit_s * self._rate) - self._recorded]
        self._recorded += len(samples)
        self._pace.take(len(samples) + missing)
        self._speed.add(len(samples) + missing, now, limited=False)
        # A burst holds sound of some seconds; the monitor measures the time between arrivals.
        self._monitor.add_block(now if self.kind.stored else chunk.arrived, samples)
        if self._writer is not None:
            self._writer.write(samples)
        for feeder in self.feeders:
            feeder.feed(samples)
        clock.advance(len(samples), now if self.kind.stored else chunk.arrived)
        if last:
            self.finish()

    # Judging ------------------------------------------------------------------------------

    def _check(self, now: float) -> None:
        connection, monitor = self._connection, self._monitor
        if connection is None or self.ended:
            return
        if connection.end is not None and not self._queue:
            self._lose(now, connection.end)
            return
        if monitor is None:
            self._check_attempt(connection, now)
            return
        if self._absent.state is not SourceState.LIVE and monitor.state not in BEGINNING:
            self._absent = Condition(SourceState.LIVE, since=now, device=self.kind.name)
        if now - self._opened > SETTLED_S:
            self._attempts = 0
        if not self._queue:  # else the source gives sound, and its pace is limited
            monitor.check(now, active=True)
        if monitor.state is not self._logged and monitor.state is not SourceState.LOST:
            self._log(monitor.state, monitor.reason)
        if monitor.state is SourceState.LOST:
            self._lose(now, End(monitor.reason or "lost"))
        elif (silent_s := monitor.silent_for(now)) > self._reopen_after:
            self._reopen_after = REOPEN_AGAIN_S
            self._lose(now, End(f"digital silence for {silent_s:.0f} s: connecting again"))
        elif monitor.state is SourceState.LIVE:
            self._reopen_after = REOPEN_S

    def _check_attempt(self, connection: Connection, now: float) -> None:
        waited = now - self._opened
        limit = self.kind.attempt_s
        if limit is not None and waited > limit:
            self._lose(now, End(f"{connection.doing}: no samples for {waited:.0f} s"))
        elif self._absent.state is SourceState.STARTING and waited > QUIET_S:
            self._set_absent(SourceState.LOST, f"{connection.doing}: no samples yet", now)

    def _lose(self, now: float, end: End) -> None:
        """Close the connection; `finish` where no further one can help."""
        if self._monitor is not None:
            for feeder in self.feeders:
                feeder.flush()
                feeder.level_db = None
            self._reset_monitor()
        self._disconnect()
        if end.retry is Retry.NEVER:
            self.error = UserError(f"{self.kind.name}: {end.reason}")
            self.finish()
            return
        recovering = self._absent.state is SourceState.RECOVERING
        state = SourceState.RECOVERING if recovering else SourceState.LOST
        self._set_absent(state, end.reason, now)
        delay = DELAYS_S[min(self._attempts, len(DELAYS_S) - 1)]
        if end.retry is Retry.LATER:
            delay = LATER_S
        self._retry_at = now + delay * random.uniform(1.0 - JITTER, 1.0 + JITTER)

    def _reset_monitor(self) -> None:
        self._monitor = None
        # What was read and not fed belongs to the lost connection.
        self._queue.clear()
        self._queued = 0

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._reset_monitor()

    def _set_absent(self, state: SourceState, reason: str | None, now: float) -> None:
        before = self._absent
        since = before.since if state is before.state else now
        self._absent = Condition(state, reason, since, self.kind.name)
        if state is not before.state or reason != before.reason:
            self._log(state, reason)

    def _log(self, state: SourceState, reason: str | None) -> None:
        self._logged = state
        level = logging.INFO if state is SourceState.LIVE else logging.WARNING
        cause = reason or "samples arrive"
        log.log(level, "%s: source is now %s (%s)", self._names, state.value, cause)

"""The capture process: one loop that feeds, announces and ends its streams."""

from __future__ import annotations

import dataclasses
import logging
import os
import select
import time
from collections.abc import Callable

import zmq

from speech_emotion.capture.mute_gate import MuteGate
from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.stream import Stream
from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, DeviceError
from speech_emotion.common.ring.layout import FOLDER
from speech_emotion.common.source_address import shown
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire import codec, internal
from speech_emotion.common.wire.link import Link
from speech_emotion.common.wire.sockets import connect, drain, send

log = logging.getLogger("capture")

REPEAT_S = 0.2
"""Seconds between two `Open` messages, and between two ticks of an ended stream, until the hub
answers."""

CHECK_S = 0.5
"""Seconds between two checks for what has to be repeated, while the hub owes no answer."""

DRAIN_S = 5.0
"""Longest time in seconds, after a stop, for the results of complete windows to be accepted."""

RING_CHECK_S = 1.0
"""Seconds between two checks that the rings still exist."""

HUB_SILENT_S = 2.0
"""Seconds without an answer of the hub after which `Open` is sent again: it may have restarted."""

HUB_WAIT_S = 5.0
"""A capture without a supervisor logs after this many seconds that no hub answers."""


class CaptureService:
    """The loop over the streams of one process.

    Args:
        make_streams: opens the streams; its argument takes every tick.
        stream_format: rate and window grid of all streams.
        features: endpoint of the features stage.
        hub: endpoint of the results hub.
        stage: name of this stage, `capture` or `capture/NAME`.
        alone: no supervisor; where no hub answers, end when the sources end.
        show: called after every turn, for the level meter.
        mute: tells whether sound may be taken; None: always.

    Raises:
        UserError: a source cannot be opened.
        DeviceError: an absent device, to be waited for.
    """

    def __init__(
        self,
        make_streams: Callable[[Callable[[internal.Tick], None]], list[Stream]],
        stream_format: StreamFormat,
        *,
        features: str,
        hub: str,
        stage: str = "capture",
        alone: bool = False,
        show: Callable[[list[Stream]], None] | None = None,
        mute: MuteGate | None = None,
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._features: dict[str, Link] = {}
        self._worker: dict[str, Link] = {}
        self._hub = connect(self._context, hub, "hub")
        self._hub_endpoint = hub
        self._hub_descriptor: int = self._hub.FD
        self._heartbeat = HeartbeatSender(stage, self._hub)
        self._format = stream_format
        self._alone = alone
        self._show = show
        self._mute = mute or MuteGate(None)
        self._repeat_due = self._ring_due = 0.0
        self._answered: dict[str, float] = {}
        self._states: dict[str, SourceState] = {}
        self._due: dict[str, float] = {}
        self._muted = False
        self._began = time.monotonic()
        self._hub_wait_logged = False
        try:
            self._streams = {s.job.name: s for s in make_streams(self._send_tick)}
            for name, stream in self._streams.items():
                self._worker[name] = self._connected(stream.job.features or features)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _connected(self, features: str) -> Link:
        if features not in self._features:
            self._features[features] = Link(self._context, features, "features")
        return self._features[features]

    def run(self, stop: StopRequest) -> int:
        """Feed until every source has ended and its results are accepted, or until a stop.

        Returns:
            The exit code: 1 if a ring was removed, else 0.

        Raises:
            UserError: a source is damaged; the samples before the damage were delivered.
            DeviceError: the device is lost.
        """
        self._heartbeat.state = "ready"
        self._send_heartbeat(now=True)
        log.info("ready: %s", ", ".join(shown(s.job.source) for s in self._streams.values()))
        self._began = time.monotonic()
        deadline = None
        try:
            while not self._is_over(deadline):
                self._wait(stop)
                now = time.monotonic()
                if stop.requested and deadline is None:
                    deadline = now + DRAIN_S
                    for stream in self._streams.values():
                        stream.finish()
                    self._due.clear()
                changed = self._turn(now)
                self._repeat(now)
                self._send_heartbeat(now=changed)
                if self._show is not None:
                    self._show(list(self._streams.values()))
                if self._removed_ring(now):
                    return EXIT_FAULT
            self._send_heartbeat(now=True)
        except DeviceError:
            self._send_heartbeat(now=True)  # the last heartbeat carries the reason
            raise
        finally:
            self._context.destroy(linger=200)
        for stream in self._streams.values():
            if stream.error is not None:
                raise stream.error
        return EXIT_OK

    def _removed_ring(self, now: float) -> bool:
        """Whether another program removed or replaced the segment of a ring; looks once a second.

        Samples written to it would reach no stage that restarts.
        """
        if now < self._ring_due:
            return False
        self._ring_due = now + RING_CHECK_S
        for name, stream in self._streams.items():
            if stream.feeder.ring.removed():
                log.error("stream %s: its ring was removed from %s; restart", name, FOLDER)
                return True
        return False

    def _is_over(self, deadline: float | None) -> bool:
        streams = self._streams.values()
        if not all(s.feeder.ended for s in streams):
            return False
        if deadline is not None and time.monotonic() > deadline:
            return True
        if self._alone and not any(s.ahead.accepted for s in streams):
            return True
        return all(s.ahead.accepted is not None and s.ahead.accepted.ended for s in streams)

    def _turn(self, now: float) -> bool:
        """Take the turn of the streams that are due; whether the state of a source changed.

        With hundreds of streams most wake-ups are for a few of them.
        """
        muted, changed = self._mute.muted(now), False
        if muted != self._muted:
            self._muted = muted
            self._due.clear()
        for name, stream in self._streams.items():
            if self._due.get(name, 0.0) > now:
                continue
            stream.mute(now, muted=muted)
            stream.turn(now)
            self._due[name] = now + stream.due(now)
            state = _condition(stream).state
            changed |= self._states.get(name) is not state
            self._states[name] = state
        return changed

    def _wait(self, stop: StopRequest) -> None:
        # Read what has come, then wait on ZeroMQ's descriptors. At fifty turns per second,
        # ZeroMQ's own poll would cost more CPU time than the samples.
        self._receive()
        due = min(self._due.values()) if len(self._due) == len(self._streams) else 0.0
        next_turn = min(due, self._repeat_due) - time.monotonic()
        wait = max(0.0, min(next_turn, self._heartbeat.wait_s))
        links = {link.descriptor: link for link in self._features.values()}
        sources = {n: fd for n, s in self._streams.items() if (fd := s.wakeup) is not None}
        waited = [self._hub_descriptor, *links, *set(sources.values())]
        if not stop.requested:
            waited.append(stop.fileno())
        ready = _wait_for(waited, wait)
        for name, descriptor in sources.items():
            if descriptor in ready:
                self._due[name] = 0.0
        for descriptor, link in links.items():
            if descriptor in ready and link.renewed():
                self._introduce(link)

    def _introduce(self, link: Link) -> None:
        """Send the ticks that a restarted features process has to know."""
        for name, stream in self._streams.items():
            if self._worker.get(name) is link:
                stream.feeder.tick(now=True)

    def _receive(self) -> None:
        for frames in drain(self._hub):
            try:
                message = internal.decode(frames[0])
            except codec.ProtocolError as error:
                self._heartbeat.counters["capture_malformed"] += 1
                log.warning("refused a message: %s", error)
                continue
            if isinstance(message, internal.Accepted | internal.Recorded):
                stream = self._streams.get(message.stream)
                if stream is None or message.run != stream.feeder.ring.run:
                    continue
                self._due[message.stream] = 0.0
                if isinstance(message, internal.Accepted):
                    stream.ahead.accepted = message
                    self._answered[message.stream] = time.monotonic()
                else:
                    stream.ahead.recorded = message

    def _send_tick(self, tick: internal.Tick) -> None:
        self._heartbeat.count += 1
        # Opening a stream already sends ticks; without a socket they are dropped and repeated.
        worker = self._worker.get(tick.stream)
        if worker is not None and not worker.send(tick):
            # features does not read. A tick is complete in itself, so the next one is enough.
            self._heartbeat.counters["capture_ticks_unsent"] += 1

    def _repeat(self, now: float) -> None:
        if now < self._repeat_due:
            return
        self._repeat_due = now + CHECK_S
        for stream in self._streams.values():
            feeder = stream.feeder
            accepted = stream.ahead.accepted
            if now - self._answered.get(stream.job.name, -HUB_SILENT_S) > HUB_SILENT_S:
                opened = internal.Open(
                    stream=stream.job.name,
                    run=feeder.ring.run,
                    # Messages are UTF-8; the name of a file need not be.
                    source=os.fsencode(shown(stream.job.source)).decode("utf-8", "replace"),
                    rate=self._format.rate,
                    window=self._format.grid.window,
                    hop=self._format.grid.hop,
                    next=accepted.next if accepted is not None else 0,
                    # A hub that ends with infer continues at what capture knows.
                    waits=self._alone or stream.ahead.waits,
                )
                send(self._hub, opened)
                self._repeat_due = now + REPEAT_S
            # Repeated even without new samples, in case that one was lost.
            feeder.tick(now=feeder.ended)
            if feeder.ended:
                self._repeat_due = now + REPEAT_S
        if self._alone and now - self._began > HUB_WAIT_S and not self._hub_wait_logged:
            self._hub_wait_logged = True
            if not any(s.ahead.accepted or s.feeder.position for s in self._streams.values()):
                log.warning("waiting for infer at %s", self._hub_endpoint)

    def _send_heartbeat(self, *, now: bool = False) -> None:
        if not now and not self._heartbeat.due():
            return
        statuses = []
        for stream in self._streams.values():
            gaps, condition = stream.feeder.ring.gaps(), _condition(stream)
            self._heartbeat.counters.update(
                {name: n - self._heartbeat.counters[name] for name, n in stream.counters.items()}
            )
            statuses.append(
                internal.SourceStatus(
                    stream=stream.job.name,
                    state=condition.state.value,
                    reason=condition.reason,
                    state_s=round(time.monotonic() - condition.since, 1),
                    device=condition.device,
                    position=stream.feeder.position,
                    level_db=stream.feeder.level_db,
                    clipped=round(condition.clipped, 4),
                    gaps=len(gaps),
                    lost=stream.feeder.ring.lost,
                    quality={**stream.feeder.quality.figures, **stream.feeder.drift},
                )
            )
        streams = self._streams.values()
        if muted := sum(stream.feeder.muted_samples for stream in streams):
            self._heartbeat.counters["capture_muted_samples"] = muted
        self._heartbeat.beat(statuses, now=True)


def _wait_for(descriptors: list[int], seconds: float) -> set[int]:
    """Wait until a descriptor is readable, `seconds` at most. Returns the readable ones.

    `select` has microseconds, but fails from descriptor 1024 on: 340 files have so many.
    """
    deadline = time.monotonic() + seconds
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    ready = {descriptor for descriptor, _ in poller.poll(int(1000.0 * seconds))}
    if not ready:  # the rest is shorter than a millisecond
        time.sleep(max(0.0, deadline - time.monotonic()))
    return ready


def _condition(stream: Stream) -> Condition:
    """State of a source; MUTED, or CANCELLED where its channels cancel each other."""
    condition, mix = stream.condition, stream.feeder.mix
    if stream.feeder.muted_since is not None and condition.state is not SourceState.ENDED:
        return Condition(
            SourceState.MUTED, since=stream.feeder.muted_since, device=condition.device
        )
    if condition.state is not SourceState.LIVE:
        return condition
    if mix.cancelled:
        return dataclasses.replace(
            condition, state=SourceState.CANCELLED, reason=mix.reason, since=mix.since
        )
    if condition.reason is None:  # a mix that was mended is worth a look
        return dataclasses.replace(condition, reason=mix.reason)
    return condition

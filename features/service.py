"""The features stage: reads windows from the ring, analyses them, sends them to infer.

The stage keeps no persistent state. The newest `Tick` gives the position of the stream, the
newest `Credit` the next window to send and the limit. Both are repeated, so a restarted process
has all its state within 0.2 s.
"""

from __future__ import annotations

import dataclasses
import logging
import select
import time

import numpy as np
import zmq

from speech_emotion.common.bundle.grid import missing_samples
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, UserError
from speech_emotion.common.ring.layout import FOLDER
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.segment import owner_alive
from speech_emotion.common.security.curve import CurveServerKeys
from speech_emotion.common.security.zap import ZapAuthenticator
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire import codec, internal
from speech_emotion.common.wire.connections import Connections
from speech_emotion.common.wire.sockets import bind, configure, drain, watch_link
from speech_emotion.features.extractor import ExtractorFactory, FeatureExtractor, Samples
from speech_emotion.features.messages import WindowBuilder

log = logging.getLogger("features")

POLL_S = 0.1
"""Longest wait in seconds where an infer host may connect: its handshakes are served by turns."""
REMOVED_CHECKS = 2
"""Heartbeats in a row without a stream's ring after which the stage ends."""


@dataclasses.dataclass
class Stream:
    """One stream: its ring, its position, and the credit of the infer stage that reads it."""

    name: str
    extractor: FeatureExtractor
    tick: internal.Tick | None = None
    ring: RingReader | None = None
    credit: internal.Credit | None = None
    client: bytes = b""
    next: int = 0
    ended: bool = False
    refused: str = ""
    removed_checks: int = 0

    def accept(self, credit: internal.Credit, client: bytes) -> None:
        """Take the newest credit. A new session resumes at the window that it names.

        Raises:
            ValueError: its `gate` is not a checkpoint of this stream's gate; nothing changes.
        """
        if self.credit is None or credit.session != self.credit.session:
            self.extractor.resume(credit.gate)
            self.next, self.ended = credit.next, False
        self.credit, self.client = credit, client

    def ring_removed(self) -> bool:
        """Whether the ring that a live capture writes cannot be attached, or was removed.

        The ring of an owner that has ended does not count: its ticks are old.
        """
        if self.tick is None or self.tick.ended:
            return False
        lost = self.refused == self.tick.ring if self.ring is None else self.ring.removed()
        return lost and owner_alive(self.tick.ring)

    def detach(self) -> None:
        if self.ring is not None:
            self.ring.close()
            self.ring = None


class FeaturesService:
    """The loop of the stage: at most one window per stream and turn, so all streams are served.

    The socket file of an ipc endpoint stays after the end: the supervisor, which removes it, takes
    a missing one for a fault. The next process binds the endpoint again.

    A turn looks only at streams with a new message or with more windows to send.

    Args:
        remote: endpoint for an infer host, and the keys that it accepts.

    Raises:
        UserError: the endpoint is malformed or taken.
    """

    def __init__(
        self,
        bundle: Bundle,
        extractors: ExtractorFactory,
        endpoint: str,
        hub: zmq.Socket[bytes],
        context: zmq.Context[zmq.Socket[bytes]],
        stage: str = "features",
        remote: tuple[str, CurveServerKeys] | None = None,
    ) -> None:
        self._grid = bundle.spec.grid
        self._bundle = bundle
        self._extractors = extractors
        self._streams: dict[str, Stream] = {}
        self._due: dict[str, Stream] = {}
        self._samples: Samples = np.zeros(bundle.spec.window, np.float32)
        self._heartbeat = HeartbeatSender(stage, hub)
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        configure(self._socket)
        bind(self._socket, endpoint, "features")
        self._descriptor: int = self._socket.FD
        self._authenticator = ZapAuthenticator(context) if remote else None
        self._connections = Connections(self._socket, tcp_only=True) if remote else None
        if remote is not None:
            watch_link(self._socket, remote[0])
            bind(
                *(self._socket, remote[0], "infer_host.features"),
                lock=remote[1],
                authenticator=self._authenticator,
            )

    def run(self, stop: StopRequest) -> int:
        """Serve until a stop is requested, or until the ring of a stream was removed.

        Returns:
            The exit code.
        """
        self._heartbeat.state = "ready"
        self._heartbeat.beat(now=True)
        log.info("ready: bundle %s", self._bundle.id)
        code = EXIT_OK
        while not stop.requested:
            if self._receive() == 0 and not self._due:
                self._wait(stop)
                self._receive()
            # A stream that sent a window has its next turn after all other streams.
            due, self._due = self._due, {}
            for name, stream in due.items():
                if self._advance(stream):
                    self._due[name] = stream
            if self._authenticator is not None:
                self._authenticator.turn()
            if self._connections is not None:
                self._connections.turn()
                counters = self._heartbeat.counters
                counters["connections_refused"] += self._connections.take_refused()
                counters["connections_cut"] += self._connections.take_cut()
            if self._heartbeat.due() and self._ring_removed():
                code = EXIT_FAULT
                break
            self._heartbeat.beat()
        if self._authenticator is not None:
            self._authenticator.close()
        if self._connections is not None:
            self._connections.close()
        for stream in self._streams.values():
            stream.detach()
        self._socket.close()
        return code

    def _wait(self, stop: StopRequest) -> None:
        """Wait for a message, a stop, or the next heartbeat.

        ZeroMQ's descriptor is readable when something happens, not while messages wait: read them
        all before.
        """
        longest = self._heartbeat.wait_s
        if self._connections is not None:
            longest = min(longest, POLL_S)
        select.select([self._descriptor, stop.fileno()], [], [], longest)

    def _ring_removed(self) -> bool:
        """Whether a ring was missing at two checks in a row; a capture that ends removes it."""
        for stream in self._streams.values():
            stream.removed_checks = stream.removed_checks + 1 if stream.ring_removed() else 0
            if stream.removed_checks >= REMOVED_CHECKS:
                log.error(
                    "stream %s: its ring was removed from %s; restart the pipeline",
                    stream.name,
                    FOLDER,
                )
                return True
        return False

    # Messages received ------------------------------------------------------------------

    def _receive(self) -> int:
        """Take the messages that wait, up to a limit. Returns their number."""
        number = 0
        for frames in (self._connections.drain if self._connections else drain)(self._socket):
            number += 1
            try:
                if len(frames) != 2:
                    raise codec.ProtocolError(f"{len(frames)} frames instead of 2")
                self._handle(frames[0], internal.decode(frames[1]))
            except ValueError as error:  # also an invalid checkpoint of the gate
                self._heartbeat.counters["features_malformed"] += 1
                if self._heartbeat.counters["features_malformed"] % 100 == 1:
                    log.warning("refused a message: %s", error)
        return number

    def _handle(self, identity: bytes, message: codec.Message) -> None:
        match message:
            case internal.Tick():
                if any(len(span) != 2 for span in message.gaps):
                    raise codec.ProtocolError("a gap is not two positions")
                stream = self._stream(message.stream)
                if stream.tick is None or stream.tick.run != message.run:
                    stream.detach()
                stream.tick = message
            case internal.Credit():
                if message.next < 0:
                    raise codec.ProtocolError(f"window {message.next} is before the first")
                if message.bundle != self._bundle.id:
                    # From an infer before or after a bundle swap, or with another bundle.
                    self._heartbeat.counters["features_other_bundle"] += 1
                    return
                stream = self._stream(message.stream)
                repeated = stream.credit == message
                stream.accept(message, identity)
                if repeated:
                    self._send(
                        stream, internal.SentUpTo(message.stream, message.session, stream.next)
                    )
            case _:
                self._heartbeat.counters["features_malformed"] += 1

    def _stream(self, name: str) -> Stream:
        if name not in self._streams:
            self._streams[name] = Stream(name, self._extractors())
        self._due[name] = self._streams[name]
        return self._streams[name]

    # Messages sent ----------------------------------------------------------------------

    def _advance(self, stream: Stream) -> bool:
        """Send a stream's next window if it is complete and within the credit. True if sent."""
        tick, credit = stream.tick, stream.credit
        if tick is None or credit is None or tick.run != credit.run or stream.next >= credit.limit:
            return False
        k = stream.next
        available = self._grid.total if tick.ended else self._grid.complete
        if k < available(tick.position):
            ring = self._ring(stream, tick)
            if ring is None:
                return False
            window = self._window(stream, tick, ring, k)
        elif tick.ended and not stream.ended:
            window = self._builder(stream, tick).end(k, tick.position)
            stream.ended = True
        else:
            return False
        stream.next = window.next_seq
        self._heartbeat.count += 1
        self._heartbeat.lag_ms = (time.monotonic() - window.captured) * 1000.0
        self._send(stream, window)
        return True

    def _window(
        self, stream: Stream, tick: internal.Tick, ring: RingReader, k: int
    ) -> internal.Window:
        start, end = self._grid.start(k), self._grid.end(k)
        missing = missing_samples(tick.gaps, start, end)
        after_gap = self._after_long_gap(tick, k, ring.capacity)
        if after_gap > k:
            end = self._grid.end(after_gap - 1)
            return self._skip(stream, tick, k, after_gap, missing_samples(tick.gaps, start, end))
        available = min(end, tick.position) - start
        self._samples[available:] = 0.0  # only where the whole source is shorter than a window
        if not ring.read(start, self._samples[:available], tick.position):
            # Overrun: resume half a ring before the write position, and report the loss.
            resume_at = tick.position - ring.capacity // 2
            following = max(k + 1, -(-resume_at // self._grid.hop))
            following = self._after_long_gap(tick, following, ring.capacity)
            lost = self._grid.start(following) - start
            self._heartbeat.drops += following - k
            self._heartbeat.counters["windows_overrun"] += following - k
            self._heartbeat.counters["samples_overrun"] += lost
            log.warning(
                "stream %s: %d windows overwritten before they were read",
                stream.name,
                following - k,
            )
            return self._skip(stream, tick, k, following, lost)
        analysis = stream.extractor.analyze(self._samples, missing=missing)
        return self._builder(stream, tick).analysed(k, analysis, lost=missing)

    def _after_long_gap(self, tick: internal.Tick, k: int, capacity: int) -> int:
        """`k`, or the first window after a gap that is longer than the ring and covers window k."""

        def covered() -> bool:
            span = self._grid.start(k), self._grid.end(k)
            return self._grid.is_gap(missing_samples([[a, b]], *span))

        for a, b in tick.gaps:
            if b - a > capacity and covered():
                k = max(k, (b - self._grid.window) // self._grid.hop)
                while covered():
                    k += 1
        return min(k, self._grid.total(tick.position)) if tick.ended else k

    def _skip(
        self, stream: Stream, tick: internal.Tick, k: int, following: int, lost: int
    ) -> internal.Window:
        gate = stream.extractor.skip()
        return self._builder(stream, tick).skipped(k, following, lost=lost, gate=gate)

    def _builder(self, stream: Stream, tick: internal.Tick) -> WindowBuilder:
        assert stream.credit is not None

        def times(end: int) -> tuple[float, float | None]:
            after_anchor = (end - tick.anchor_index) / self._bundle.spec.sample_rate
            unix = tick.anchor_unix
            if unix is None:  # sound without a clock: a window's age counts from its analysis
                return time.monotonic(), None
            return tick.anchor_monotonic + after_anchor, unix + after_anchor

        session = stream.credit.session
        return WindowBuilder(
            stream.name, tick.run, session, self._grid, self._bundle.id, times=times
        )

    def _ring(self, stream: Stream, tick: internal.Tick) -> RingReader | None:
        if stream.ring is None and tick.ring != stream.refused:
            try:
                stream.ring = RingReader.attach(tick.ring)
            except UserError as error:
                # A tick of an unknown or an earlier capture; the next valid one replaces it.
                stream.refused = tick.ring
                self._heartbeat.counters["features_rings_refused"] += 1
                log.warning("stream %s: %s", stream.name, error)
        return stream.ring

    def _send(self, stream: Stream, message: codec.Message) -> None:
        try:
            self._socket.send_multipart([stream.client, internal.encode(message)], zmq.DONTWAIT)
        except zmq.Again:
            # infer stopped reading; its next session requests this window again.
            self._heartbeat.counters["features_unsent"] += 1

"""features as a process: the ring in, analysed windows out, as far as infer wants them.

It keeps no truth of its own. Where the stream stands comes with the newest `Tick`, where to
go on with the newest `Credit`; both are repeated, so a fresh process knows all within 0.2 s.
"""

from __future__ import annotations

import dataclasses
import logging
import time

import numpy as np
import zmq

from speech_emotion.common.bundle.grid import WindowGrid, missing_samples
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.errors import UserError
from speech_emotion.common.levels import SILENCE_DBFS
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.security.curve import CurveServerKeys
from speech_emotion.common.security.zap import ZapAuthenticator, count_refused
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire import codec, internal
from speech_emotion.common.wire.sockets import bind, configure, remove_file, watch_link
from speech_emotion.features.extractor import ExtractorFactory, FeatureExtractor, Samples

log = logging.getLogger("features")

POLL_MS = 100


@dataclasses.dataclass
class Stream:
    """One stream: its ring and position, and who wants which of its windows."""

    name: str
    analyzer: FeatureExtractor
    tick: internal.Tick | None = None
    ring: RingReader | None = None
    want: internal.Credit | None = None
    client: bytes = b""
    next: int = 0
    ended: bool = False
    refused: str = ""

    def follow(self, want: internal.Credit, client: bytes) -> None:
        """Take the newest want; a new session starts where it says.

        Raises:
            ValueError: its gate is no checkpoint of this stream's; nothing is changed.
        """
        if self.want is None or want.session != self.want.session:
            self.analyzer.resume(want.gate)
            self.next, self.ended = want.next, False
        self.want, self.client = want, client

    def detach(self) -> None:
        if self.ring is not None:
            self.ring.close()
            self.ring = None


class FeaturesService:
    """The loop of the stage: at most one window per stream and turn, so all streams are served.

    Only streams of which there is news are looked at.

    Args:
        remote: where an infer host gets its windows, and who may.

    Raises:
        UserError: the endpoint is malformed or taken.
    """

    def __init__(
        self,
        bundle: Bundle,
        analyzers: ExtractorFactory,
        endpoint: str,
        hub: zmq.Socket[bytes],
        context: zmq.Context[zmq.Socket[bytes]],
        stage: str = "features",
        remote: tuple[str, CurveServerKeys] | None = None,
    ) -> None:
        self._grid = WindowGrid(bundle.spec.window, bundle.spec.hop)
        self._bundle = bundle
        self._analyzers = analyzers
        self._streams: dict[str, Stream] = {}
        self._due: dict[str, Stream] = {}
        self._samples: Samples = np.zeros(bundle.spec.window, np.float32)
        self._heartbeat = HeartbeatSender(stage, hub)
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        configure(self._socket)
        bind(self._socket, endpoint, "features")
        self._endpoint = endpoint
        self._authenticator = ZapAuthenticator(context) if remote else None
        if remote is not None:
            watch_link(self._socket, remote[0])
            bind(
                *(self._socket, remote[0], "infer_host.features"),
                lock=remote[1],
                authenticator=self._authenticator,
            )

    def run(self, stop: StopRequest) -> int:
        """Serve until told to stop."""
        self._heartbeat.state = "ready"
        self._heartbeat.beat(now=True)
        log.info("ready: bundle %s", self._bundle.id)
        while not stop.requested:
            if self._socket.poll(0 if self._due else POLL_MS):
                self._receive()
            # Those that have had one window come again when all others have had theirs.
            due, self._due = self._due, {}
            for name, stream in due.items():
                if self._advance(stream):
                    self._due[name] = stream
            if self._authenticator is not None:
                self._authenticator.turn()
                count_refused(self._authenticator, self._heartbeat.counters)
            self._heartbeat.beat()
        if self._authenticator is not None:
            self._authenticator.close()
        for stream in self._streams.values():
            stream.detach()
        self._socket.close()
        remove_file(self._endpoint)
        return 0

    # What comes in ----------------------------------------------------------------------

    def _receive(self) -> None:
        for _ in range(100):
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                if len(parts) != 2:
                    raise codec.ProtocolError(f"{len(parts)} frames instead of 2")
                self._handle(parts[0], internal.decode(parts[1]))
            except ValueError as error:  # also a checkpoint that is none
                self._heartbeat.counters["features_malformed"] += 1
                if self._heartbeat.counters["features_malformed"] % 100 == 1:
                    log.warning("refused a message: %s", error)

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
                    # An infer of before or behind an exchange, or of a box with another bundle.
                    self._heartbeat.counters["features_other_bundle"] += 1
                    return
                stream = self._stream(message.stream)
                repeated = stream.want == message
                stream.follow(message, identity)
                if repeated:
                    self._send(
                        stream, internal.SentUpTo(message.stream, message.session, stream.next)
                    )
            case _:
                self._heartbeat.counters["features_malformed"] += 1

    def _stream(self, name: str) -> Stream:
        if name not in self._streams:
            self._streams[name] = Stream(name, self._analyzers())
        self._due[name] = self._streams[name]
        return self._streams[name]

    # What goes out ----------------------------------------------------------------------

    def _advance(self, stream: Stream) -> bool:
        """Send the next window of a stream if it is there and wanted. True if one was sent."""
        tick, want = stream.tick, stream.want
        if tick is None or want is None or tick.run != want.run or stream.next >= want.limit:
            return False
        k = stream.next
        there = self._grid.total if tick.ended else self._grid.complete
        if k < there(tick.position):
            ring = self._ring(stream, tick)
            if ring is None:
                return False
            window = self._window(stream, tick, ring, k)
        elif tick.ended and not stream.ended:
            window = self._end(stream, tick, k)
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
            # Too late, the writer came round: go on half a ring behind it, and say so.
            behind = tick.position - ring.capacity // 2
            first = max(k + 1, -(-behind // self._grid.hop))
            first = self._after_long_gap(tick, first, ring.capacity)
            lost = self._grid.start(first) - start
            self._heartbeat.drops += first - k
            self._heartbeat.counters["windows_overrun"] += first - k
            self._heartbeat.counters["samples_overrun"] += lost
            log.warning(
                "stream %s: %d windows overwritten before they were read", stream.name, first - k
            )
            return self._skip(stream, tick, k, first, lost)
        analysis = stream.analyzer.analyze(self._samples, missing=missing)
        return self._message(
            stream,
            tick,
            k,
            end,
            kind=analysis.kind,
            rms_db=analysis.rms_db,
            clipped=analysis.clipped,
            lost=missing,
            features_ms=analysis.milliseconds,
            gate=analysis.gate,
            features=None if analysis.features is None else analysis.features.tobytes(),
        )

    def _after_long_gap(self, tick: internal.Tick, k: int, capacity: int) -> int:
        """`k`, or the first window behind the gap, longer than the ring, that voids window k."""

        def voided() -> bool:
            span = self._grid.start(k), self._grid.end(k)
            return self._grid.is_gap(missing_samples([[a, b]], *span))

        for a, b in tick.gaps:
            if b - a > capacity and voided():
                k = max(k, (b - self._grid.window) // self._grid.hop)
                while voided():
                    k += 1
        return min(k, self._grid.total(tick.position)) if tick.ended else k

    def _skip(
        self, stream: Stream, tick: internal.Tick, k: int, first: int, lost: int
    ) -> internal.Window:
        return self._message(
            stream,
            tick,
            k,
            self._grid.end(first - 1),
            kind="gap",
            lost=lost,
            skipped=first - k,
            gate=stream.analyzer.skip(),
        )

    def _end(self, stream: Stream, tick: internal.Tick, k: int) -> internal.Window:
        return self._message(stream, tick, k, tick.position, kind="end")

    def _message(
        self,
        stream: Stream,
        tick: internal.Tick,
        k: int,
        end: int,
        *,
        kind: str,
        rms_db: float = SILENCE_DBFS,
        clipped: float = 0.0,
        lost: int = 0,
        skipped: int = 0,
        features_ms: float = 0.0,
        gate: list[float] | None = None,
        features: bytes | None = None,
    ) -> internal.Window:
        assert stream.want is not None
        after_anchor = (end - tick.anchor_index) / self._bundle.spec.sample_rate
        unix = tick.anchor_unix
        # Where time means nothing a window is as old as its analysis.
        captured = time.monotonic() if unix is None else tick.anchor_monotonic + after_anchor
        return internal.Window(
            stream=stream.name,
            run=tick.run,
            session=stream.want.session,
            seq=k,
            start=self._grid.start(k),
            end=end,
            kind=kind,
            rms_db=rms_db,
            clipped=clipped,
            lost=lost,
            skipped=skipped,
            captured=captured,
            time=None if unix is None else unix + after_anchor,
            features_ms=features_ms,
            gate=gate or [],
            features=features,
            bundle=self._bundle.id,
        )

    def _ring(self, stream: Stream, tick: internal.Tick) -> RingReader | None:
        if stream.ring is None and tick.ring != stream.refused:
            try:
                stream.ring = RingReader.attach(tick.ring)
            except UserError as error:
                # A tick from a stranger or from a past life; the next good one mends it.
                stream.refused = tick.ring
                self._heartbeat.counters["features_rings_refused"] += 1
                log.warning("stream %s: %s", stream.name, error)
        return stream.ring

    def _send(self, stream: Stream, message: codec.Message) -> None:
        try:
            self._socket.send_multipart([stream.client, internal.encode(message)], zmq.DONTWAIT)
        except zmq.Again:
            # infer stopped reading; its next session asks for this window again.
            self._heartbeat.counters["features_unsent"] += 1

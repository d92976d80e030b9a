"""capture as a process: one loop that feeds its streams, ticks, opens them and sees them off."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import zmq

from capture.pump import Format, Pump
from capture.sources import FileSource
from capture.tape import open_tape
from common import messages as m
from common.errors import DeviceError, UserError
from common.ring import RingWriter
from common.sockets import connect, send
from common.source import Condition, SourceState
from common.stage import Heart, Stop

log = logging.getLogger("capture")

POLL_S = 0.1
REPEAT_S = 0.2
"""`Open`, and the tick of an ended stream, are repeated so often until they are answered."""
DRAIN_S = 5.0
"""After a stop, so long may the windows already complete take to be delivered."""
WAITING_S = 5.0
"""Alone at full speed and unanswered for so long, it says what it waits for."""
REALTIME_BLOCK_S = 0.02
FULL_SPEED_BLOCK_S = 0.1
CATCH_UP_FRAMES = 65536
"""Block in which a restarted process reads past what its predecessor has written."""


@dataclasses.dataclass(frozen=True)
class StreamJob:
    """One stream of this process: its name, its source as configured, its ring.

    Attributes:
        features: where its worker listens; empty: where all streams' features does.
    """

    name: str
    source: str
    ring: str
    channel: int | None = None
    features: str = ""


class Stream(Protocol):
    """A source on its way into its ring, as the service's loop sees it."""

    job: StreamJob
    pump: Pump
    accepted: m.Accepted | None
    error: UserError | None

    def due(self, now: float) -> float:
        """Seconds until `turn` has something to do."""
        ...

    def turn(self, now: float) -> None:
        """Feed what is due."""
        ...

    def finish(self) -> None:
        """The source is over, or is told to be."""
        ...

    @property
    def counters(self) -> dict[str, int]:
        """What went wrong at the source, by name, since this process began."""
        ...

    @property
    def wakeup(self) -> int | None:
        """A file descriptor that is readable when there is something to do before it is due."""
        ...

    @property
    def condition(self) -> Condition: ...


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
        form: Format,
        blocks: Iterator[int] | None,
        send: Callable[[m.Tick], None],
        *,
        realtime: bool,
    ) -> None:
        self.job = job
        self.accepted: m.Accepted | None = None
        self.error: UserError | None = None
        kind, _, path = job.source.partition(":")
        self._gaps: list[list[int]] = []
        if kind == "replay":
            tape = open_tape(Path(path), form.rate)
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
        self.pump = Pump(
            job.name, ring, self._source.rate, form, send, channel=job.channel, skip=skip
        )
        self._next = next(self._blocks)
        self._fed = 0
        # What an earlier process has written takes no time now.
        while self.pump.skip and not self.pump.ended:
            self._feed(CATCH_UP_FRAMES)
        self._fed = 0
        self._block = self._next / self._source.rate
        self.begin(time.monotonic(), 0.0)

    def begin(self, now: float, lead: float) -> None:
        """Play from now on, or from the block behind `lead` seconds on."""
        self._began = now + lead // self._block * self._block
        unix = time.time() + self._began - time.monotonic() if self._realtime else None
        self.pump.anchor(self.pump.position, self._began, unix)

    @property
    def counters(self) -> dict[str, int]:
        return {}

    @property
    def wakeup(self) -> int | None:
        return None

    @property
    def condition(self) -> Condition:
        state = SourceState.ENDED if self.pump.ended else SourceState.LIVE
        return Condition(state, since=self._began)

    def due(self, now: float) -> float:
        if self.pump.ended:
            return POLL_S
        if self._realtime:
            # A block is there when its last sample is. Those before a window is complete wait
            # for each other: to be woken costs more than to do the work.
            frames = max(self._next, self.pump.patience())
            return self._began + (self._fed + frames) / self._source.rate - now
        return 0.0 if self._has_credit() else POLL_S

    def turn(self, now: float) -> None:
        if not self._realtime and not self.pump.ended and self._has_credit():
            self._feed(self._next)
            self._next = next(self._blocks)
        while self._realtime and not self.pump.ended and self._there(now):
            self._feed(self._next)
            self._next = next(self._blocks)

    def finish(self) -> None:
        if not self.pump.ended:
            self.pump.finish()
            self._source.close()

    def _there(self, now: float) -> bool:
        return self._began + (self._fed + self._next) / self._source.rate <= now

    def _has_credit(self) -> bool:
        # The ring never waits, so at full speed the file does: half a ring ahead at most.
        if self.accepted is None:
            return False
        return self.pump.position < self.accepted.next * self._form.hop + self._room

    def _feed(self, frames: int) -> None:
        position = self.pump.position
        for start, end in self._gaps:  # of a replay, whose frames are the ring's samples
            if start <= position < end:
                self._source.seek(end)
                self.pump.gap(end - position)
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
            self.pump.feed(block)
        else:
            self.finish()


class CaptureService:
    """The loop around the streams of one process.

    Args:
        make_streams: called with the function that takes every tick.
        alone: nobody supervises; without a hub that answers, the end of the source is the end.
    """

    def __init__(
        self,
        make_streams: Callable[[Callable[[m.Tick], None]], list[Stream]],
        form: Format,
        *,
        features: str,
        hub: str,
        stage: str = "capture",
        alone: bool = False,
        watch: Callable[[list[Stream]], None] | None = None,
    ) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._features = {features: connect(self._context, features, "features")}
        self._worker: dict[str, zmq.Socket[bytes]] = {}
        self._hub = connect(self._context, hub, "hub")
        self._hub_endpoint = hub
        self._heart = Heart(stage, self._hub)
        self._form = form
        self._alone = alone
        self._watch = watch
        self._repeat_due = 0.0
        self._states: list[SourceState] = []
        self._began = time.monotonic()
        self._waiting_told = False
        try:
            self._streams = {s.job.name: s for s in make_streams(self._tick)}
            for name, stream in self._streams.items():
                self._worker[name] = self._connected(stream.job.features or features)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _connected(self, features: str) -> zmq.Socket[bytes]:
        if features not in self._features:
            self._features[features] = connect(self._context, features, "features")
        return self._features[features]

    def run(self, stop: Stop) -> int:
        """Feed until every source has ended and its results are accepted, or until told to stop.

        Raises:
            UserError: a source was damaged; everything before that was delivered.
        """
        self._heart.state = "ready"
        self._beat(now=True)
        log.info("ready: %s", ", ".join(s.job.source for s in self._streams.values()))
        self._began = time.monotonic()
        deadline = None
        try:
            while not self._over(deadline):
                self._wait()
                now = time.monotonic()
                if stop.requested and deadline is None:
                    deadline = now + DRAIN_S
                    for stream in self._streams.values():
                        stream.finish()
                for stream in self._streams.values():
                    stream.turn(now)
                self._repeat(now)
                self._beat(now=self._states_changed())
                if self._watch is not None:
                    self._watch(list(self._streams.values()))
            self._beat(now=True)
        except DeviceError:
            self._beat(now=True)  # the last thing to say is why
            raise
        finally:
            self._context.destroy(linger=200)
        for stream in self._streams.values():
            if stream.error is not None:
                raise stream.error
        return 0

    def _over(self, deadline: float | None) -> bool:
        streams = self._streams.values()
        if not all(s.pump.ended for s in streams):
            return False
        if deadline is not None and time.monotonic() > deadline:
            return True
        if self._alone and not any(s.accepted for s in streams):
            return True
        return all(s.accepted is not None and s.accepted.ended for s in streams)

    def _wait(self) -> None:
        # A look for messages, and then a wait for more by ZeroMQ's descriptor: fifty times a
        # second its own poll would take more time than the sound.
        self._receive()
        now = time.monotonic()
        wait = max(0.0, min([POLL_S, *(s.due(now) for s in self._streams.values())]))
        wakeups = {s.wakeup for s in self._streams.values() if s.wakeup is not None}
        select.select([self._hub.FD, *wakeups], [], [], wait)

    def _receive(self) -> None:
        for _ in range(100):
            try:
                frame = self._hub.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                message = m.decode(frame)
            except m.ProtocolError as error:
                self._heart.counters["capture_malformed"] += 1
                log.warning("refused a message: %s", error)
                continue
            if isinstance(message, m.Accepted):
                stream = self._streams.get(message.stream)
                if stream is not None and message.run == stream.pump.ring.run:
                    stream.accepted = message

    def _tick(self, tick: m.Tick) -> None:
        self._heart.count += 1
        # While streams are opened they tick as well; what they say is repeated.
        worker = self._worker.get(tick.stream)
        if worker is not None and not send(worker, tick):
            # features does not read; the next tick says all that this one said.
            self._heart.counters["capture_ticks_unsent"] += 1

    def _repeat(self, now: float) -> None:
        if now < self._repeat_due:
            return
        self._repeat_due = now + REPEAT_S
        for stream in self._streams.values():
            pump, form = stream.pump, self._form
            if stream.accepted is None:
                opened = m.Open(
                    stream=stream.job.name,
                    run=pump.ring.run,
                    source=stream.job.source,
                    rate=form.rate,
                    window=form.window,
                    hop=form.hop,
                )
                send(self._hub, opened)
            # Also without news: a features process just restarted knows nothing else.
            pump.tick(now=pump.ended)
        if self._alone and now - self._began > WAITING_S and not self._waiting_told:
            self._waiting_told = True
            if not any(s.accepted or s.pump.position for s in self._streams.values()):
                log.warning("waiting for infer at %s", self._hub_endpoint)

    def _states_changed(self) -> bool:
        before = self._states
        self._states = [stream.condition.state for stream in self._streams.values()]
        return self._states != before

    def _beat(self, *, now: bool = False) -> None:
        if not now and not self._heart.due():
            return
        statuses = []
        for stream in self._streams.values():
            gaps, condition = stream.pump.ring.gaps(), stream.condition
            self._heart.counters.update(
                {name: n - self._heart.counters[name] for name, n in stream.counters.items()}
            )
            statuses.append(
                m.SourceStatus(
                    stream=stream.job.name,
                    state=condition.state.value,
                    reason=condition.reason,
                    state_s=round(time.monotonic() - condition.since, 1),
                    device=condition.device,
                    position=stream.pump.position,
                    level_db=stream.pump.level_db,
                    clipped=round(condition.clipped, 4),
                    gaps=len(gaps),
                    lost=stream.pump.ring.lost,
                )
            )
        self._heart.beat(statuses, now=True)


@dataclasses.dataclass(frozen=True)
class Opening:
    """How sources are opened.

    Attributes:
        realtime: the pace of files.
        block_frames: frames per block; None: `block_ms`, and for files 20 ms in real time,
            100 ms at full speed.
        latency: of devices, in seconds, or PortAudio's `low` and `high`.
        wait_for_device: an absent device is waited for.
        record: sound file that takes what a device gives.
        seconds: a device is listened to for so long.
        stdin: descriptor that `stdin:…` reads from.
        alone: nobody may be there to accept results.
    """

    realtime: bool = True
    block_frames: int | None = None
    block_ms: float = 20.0
    latency: float | str = "high"
    wait_for_device: bool = False
    record: str | None = None
    seconds: float | None = None
    stdin: int = 0
    alone: bool = False


def open_streams(
    jobs: list[StreamJob], form: Format, send: Callable[[m.Tick], None], opening: Opening
) -> list[Stream]:
    """The streams of one process from their jobs: files, or the streams of one device.

    Raises:
        UserError: a source cannot be opened.
        DeviceError: a device that is waited for is not there.
    """
    if jobs[0].source.startswith("mic"):
        from capture.live import LiveDevice, LiveStream

        device = LiveDevice(jobs, form, send, opening)
        return [LiveStream(j, device, p) for j, p in zip(jobs, device.pumps, strict=True)]
    if jobs[0].source.startswith("stdin"):
        from capture.stdin import StdinStream

        return [StdinStream(job, form, send, opening, opening.stdin) for job in jobs[:1]]
    files = []
    for job in jobs:
        frames = opening.block_frames
        blocks = itertools.repeat(frames) if frames else None
        files.append(FileStream(job, form, blocks, send, realtime=opening.realtime))
    # One clock for the blocks of all; their windows spread over a hop, as those of devices are.
    now, hop = time.monotonic(), form.hop / form.rate
    for at, file in enumerate(files):
        file.begin(now, at * hop / len(files) if opening.realtime else 0.0)
    return [*files]

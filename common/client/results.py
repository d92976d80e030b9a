"""A client for other programs: typed messages, losses counted, and how fresh all of it is.

    with Results("tcp://127.0.0.1:5555", "main") as results:
        for result in results:
            print(result.emotion, result.confidence, results.status().state.value)

Needs pyzmq, msgpack, `common.messages` and `common.keys` only; docs/PROTOCOL.md has the messages.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator

import msgpack
import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import CurveClientKeys
from speech_emotion.common.wire import codec, public
from speech_emotion.common.wire.states import FINE_STAGES, FINE_STREAMS

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"
ENDPOINT = re.compile(r"tcp://[^\s/]+:(\d{1,5})|ipc://\S+")
GONE_AFTER_S = 3.0
"""`health` comes once a second; after so long without a message nobody is there."""
STALE_AFTER_S = 2.0
STALE_HOPS = 3
"""A result is stale at the longer of `STALE_AFTER_S` and so many hops."""
RECONNECT_MS = (50, 1000)
"""First and longest delay between two attempts to connect."""
HEARTBEAT_MS = (5000, 10000)
"""A silent peer is asked for a sign of life so often, and dropped after so long without one: a
box that lost its power never says goodbye, and TCP alone would wait for it for hours."""


class NewerProtocolError(codec.ProtocolError):
    """The publisher speaks a protocol version that is not known here."""


@dataclasses.dataclass(frozen=True)
class Event:
    """A message as it came; a replay is a last value sent again, of unknown age."""

    message: public.Public
    replay: bool


class Freshness(enum.Enum):
    """How far the newest result can be taken for the present, best first."""

    FRESH = "fresh"
    DEGRADED = "degraded"
    """Results come in time, but part of the pipeline is not well."""
    STALE = "stale"
    """The publisher is there; its newest result is old, or there is none."""
    GONE = "gone"
    """Nothing comes, or nothing that can be read."""


@dataclasses.dataclass(frozen=True)
class Status:
    """Freshness, and why.

    Attributes:
        reason: None where fresh; else a text that changes only when its cause does.
        age_s: age of the newest result's last sample in seconds, by the monotonic clock and
            never too small; None without a result.
    """

    state: Freshness
    reason: str | None = None
    age_s: float | None = None


class LossCounter:
    """Windows that were published and did not arrive: jumps of `seq` within a run.

    What a gap message covers (`skipped`) has arrived with it. What came before the first
    message of a run is unknown and not counted. Replays are not to be fed.
    """

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self._next: dict[str, tuple[str, int]] = {}

    def feed(self, result: public.Result) -> int:
        """Count and return the windows missing just before `result`."""
        run, expected = self._next.get(result.stream, (result.run, result.seq))
        if run != result.run:
            expected = result.seq
        missing = max(0, result.seq - expected)
        self.lost[result.stream] += missing
        self._next[result.stream] = result.run, max(expected, result.next_seq)
        return missing


class Results:
    """A subscription: iterating gives every new `Result`, `events()` gives everything.

    The pipeline may start later, end and start again: ZeroMQ connects whenever it is there.
    Use from one thread.

    Args:
        endpoint: where the pipeline publishes.
        stream: name of one stream; None: all.
        timeout: longest wait in seconds for what is iterated over; None: for ever.
        stale_after: age in seconds at which a result is stale; None: 2, or three hops where
            that is longer.
        client_keys: keys, where the endpoint wants them; see docs/SECURITY.md.

    Attributes:
        info: the newest `Info` of each stream, replays included.
        health: the newest `Health`, replays included.
        malformed: how many messages were refused because they are none.

    Raises:
        ValueError: the endpoint is malformed, or a key.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        stream: str | None = None,
        *,
        timeout: float | None = None,
        stale_after: float | None = None,
        client_keys: CurveClientKeys | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.stream = stream
        self.info: dict[str, public.Info] = {}
        self.health: public.Health | None = None
        self.malformed = 0
        self._timeout = timeout
        self._stale_after = stale_after
        self._losses = LossCounter()
        self._newest: dict[str, tuple[public.Result, float]] = {}
        self._refusal: str | None = None
        self._heard: float | None = None
        self._emptied = time.monotonic()
        self._topics = {b"health"}
        self._topics |= {f"{t}/{stream or ''}".encode() for t in public.PUBLIC if t != "health"}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        try:
            self._connect(client_keys)
        except ValueError:
            self.close()
            raise

    @property
    def lost(self) -> Counter[str]:
        """Windows lost between the pipeline and here, by stream."""
        return self._losses.lost

    def __iter__(self) -> Iterator[public.Result]:
        """Every new result as it comes; replays are left out.

        Raises:
            TimeoutError: none came within `timeout`.
            NewerProtocolError: the publisher is newer than this client; told once.
        """
        for event in self._events(lambda e: isinstance(e.message, public.Result) and not e.replay):
            assert isinstance(event.message, public.Result)
            yield event.message

    def events(self) -> Iterator[Event]:
        """Every message as it comes, replays too. Raises what iterating raises."""
        return self._events(lambda _: True)

    def receive(self, timeout: float | None = None) -> Event | None:
        """The next message, or None where none comes within `timeout` seconds.

        Raises:
            NewerProtocolError: the publisher is newer than this client; told once.
        """
        return self._next(timeout, lambda _: True)

    def status(self, stream: str | None = None) -> Status:
        """How fresh one stream is; without a name the subscribed one, or the worst of all."""
        stream = stream or self.stream
        if self._refusal is not None:
            return Status(Freshness.GONE, self._refusal)
        if self._heard is None:
            return Status(Freshness.GONE, f"nothing heard from {self.endpoint} yet")
        # What waits here unread is no silence; it only makes its result old.
        if time.monotonic() - self._heard > GONE_AFTER_S and not self._socket.poll(0):
            return Status(Freshness.GONE, f"nothing heard for {GONE_AFTER_S:g} s")
        known = [row.name for row in self.health.streams] if self.health else [*self._newest]
        if stream is None:
            none = Status(Freshness.STALE, self._trouble(None) or "no stream yet")
            every = [self._status_of(name) for name in known]
            return max(every, key=lambda status: list(Freshness).index(status.state), default=none)
        if known and stream not in known:
            return Status(Freshness.STALE, f"no stream {stream!r}; there are: {', '.join(known)}")
        return self._status_of(stream)

    def close(self) -> None:
        """Let go of the endpoint at once."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    # Receiving --------------------------------------------------------------------------

    def _connect(self, client_keys: CurveClientKeys | None) -> None:
        socket = self._socket
        if client_keys is not None:
            try:
                client_keys.apply(socket)
            except UserError as error:
                raise ValueError(str(error)) from None
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, codec.MAX_FRAME)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS[0])
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1])
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS[0])
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_MS[1])
        for topic in self._topics:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        try:
            match = ENDPOINT.fullmatch(self.endpoint)
            if match is None or int(match[1] or 0) > 65535:
                raise zmq.ZMQError(zmq.EINVAL)
            socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            raise ValueError(
                f"endpoint {self.endpoint!r} is not usable ({zmq.strerror(error.errno or 0)}); "
                "allowed: tcp://ADDRESS:PORT or ipc://PATH"
            ) from None

    def _events(self, wanted: Callable[[Event], bool]) -> Iterator[Event]:
        while True:
            event = self._next(self._timeout, wanted)
            if event is None:
                why = self.status().reason or "other messages came"
                raise TimeoutError(f"{self.endpoint}: none within {self._timeout:g} s ({why})")
            yield event

    def _next(self, timeout: float | None, wanted: Callable[[Event], bool]) -> Event | None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while self._wait(deadline):
            event = self._take()
            if event is not None and wanted(event):
                return event
            if time.monotonic() >= deadline:
                break  # a flood of what is not wanted must not hold the caller
        return None

    def _wait(self, deadline: float) -> bool:
        """Whether a message is there; notes when the queue was last seen empty."""
        if self._socket.poll(0):
            return True
        left = deadline - time.monotonic()
        there = self._socket.poll(None if left == math.inf else max(0, math.ceil(left * 1000.0)))
        self._emptied = time.monotonic()
        return bool(there)

    def _take(self) -> Event | None:
        parts = self._socket.recv_multipart()
        # A topic is a prefix in ZeroMQ: who asks for main gets main-2 as well.
        if self.stream is not None and parts[0] not in self._topics:
            return None
        try:
            event = _decode(parts)
        except NewerProtocolError as error:
            told, self._refusal = self._refusal is not None, str(error)
            if told:
                return None
            raise
        except codec.ProtocolError:
            self.malformed += 1
            return None
        self._heard, self._refusal = time.monotonic(), None
        match event.message:
            case public.Health():
                self.health = event.message
            case public.Info():
                self.info[event.message.stream] = event.message
            case public.Result() if not event.replay:
                self._losses.feed(event.message)
                # It came after the queue was last empty; a slow reader must not take it for new.
                self._newest[event.message.stream] = event.message, self._emptied
        return event

    # Freshness --------------------------------------------------------------------------

    def _status_of(self, stream: str) -> Status:
        trouble = self._trouble(stream)
        if stream not in self._newest:
            return Status(Freshness.STALE, trouble or f"stream {stream}: no result yet")
        result, came = self._newest[stream]
        late_ms = (result.timing_ms or {}).get("total", 0.0)
        age = time.monotonic() - came + late_ms / 1000.0
        limit = self._limit(stream)
        if age > limit:
            old = f"stream {stream}: newest result older than {limit:g} s"
            return Status(Freshness.STALE, trouble or self._ended(stream) or old, age)
        if trouble is not None:
            return Status(Freshness.DEGRADED, trouble, age)
        return Status(Freshness.FRESH, None, age)

    def _limit(self, stream: str) -> float:
        if self._stale_after is not None:
            return self._stale_after
        info = self.info.get(stream)
        return max(STALE_AFTER_S, STALE_HOPS * info.hop / info.rate if info else 0.0)

    def _trouble(self, stream: str | None) -> str | None:
        """The first thing that is not well, as `health` says."""
        if self.health is None:
            return None
        for stage in self.health.stages:
            if stage.state not in FINE_STAGES:
                return f"{stage.name} {stage.state}" + (f": {stage.reason}" if stage.reason else "")
        for row in self.health.streams:
            if row.name == stream and row.state not in FINE_STREAMS:
                return f"stream {stream} {row.state}"
        return None

    def _ended(self, stream: str) -> str | None:
        rows = self.health.streams if self.health else []
        ended = any(row.name == stream and row.state == "ended" for row in rows)
        return f"stream {stream} has ended" if ended else None


def _decode(parts: list[bytes]) -> Event:
    """A message and whether it is a replay.

    Raises:
        NewerProtocolError: its version is higher than ours.
        ProtocolError: it is none.
    """
    if len(parts) != 2:
        raise codec.ProtocolError(f"{len(parts)} frames where topic and payload belong")
    topic, payload = parts
    try:
        message, replay = public.decode_public(topic, payload)
    except codec.ProtocolError as error:
        if _version(payload) > codec.VERSION:
            raise NewerProtocolError(str(error)) from None
        raise
    assert isinstance(message, public.Public)
    stream = "" if isinstance(message, public.Health) else f"/{message.stream}"
    if topic != f"{message.topic}{stream}".encode():
        raise codec.ProtocolError(f"{message.topic}{stream} on another topic")
    return Event(message, replay)


def _version(payload: bytes) -> int:
    try:
        version = msgpack.unpackb(payload)["v"]
    except Exception:  # whatever is wrong with it, it was refused already
        return 0
    return version if type(version) is int else 0

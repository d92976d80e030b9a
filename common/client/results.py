"""The client for other programs: typed messages, counted losses, freshness.

    with Results("tcp://127.0.0.1:5555", "main") as results:
        for result in results:
            print(result.emotion, result.confidence, results.status().state.value)

It needs pyzmq and msgpack only. docs/PROTOCOL.md describes the messages.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgpack
import zmq

from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import CurveClientKeys
from speech_emotion.common.wire import codec, public
from speech_emotion.common.wire.states import FINE_STAGES, FINE_STREAMS

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"
ENDPOINT = re.compile(r"tcp://[^\s/]+:(\d{1,5})|ipc://[^@\s]\S*")
GONE_AFTER_S = 3.0
"""Seconds without any message after which the publisher counts as gone; `health` comes every
second."""
STALE_AFTER_S = 2.0
STALE_HOPS = 3
"""A result is stale at the longer of `STALE_AFTER_S` seconds and `STALE_HOPS` hops."""
RECONNECT_MS = (50, 1000)
"""First and longest delay between two attempts to connect, in milliseconds."""
HEARTBEAT_MS = (5000, 10000)
"""ZMTP heartbeat in milliseconds: ping interval, and time without an answer before the
connection is closed. A box that lost power closes nothing, and TCP alone would wait for hours."""


class NewerProtocolError(codec.ProtocolError):
    """The publisher uses a protocol version higher than `codec.VERSION`; update this client."""


@dataclasses.dataclass(frozen=True)
class Event:
    """A received message.

    Attributes:
        replay: it is the last message of its topic, sent again to a new subscriber; its age is
            unknown.
    """

    message: public.Public
    replay: bool


class Freshness(enum.Enum):
    """How current the newest result is, best first."""

    FRESH = "fresh"
    DEGRADED = "degraded"
    """Results come in time, but a stage or the source is not in order."""
    STALE = "stale"
    """The publisher is connected; its newest result is old, or none has come."""
    GONE = "gone"
    """No message comes, or none that this version can read."""


@dataclasses.dataclass(frozen=True)
class Status:
    """Freshness and its reason.

    Attributes:
        reason: None if fresh; else a text that changes only when its cause changes.
        age_s: age of the newest result's last sample in seconds, an upper bound by the monotonic
            clock; None without a result.
    """

    state: Freshness
    reason: str | None = None
    age_s: float | None = None


class LossCounter:
    """Counts windows that were published and did not arrive: jumps of `seq` within a run.

    Windows that a gap message stands for (`skipped`) are not lost. Windows before the first
    message of a run are unknown and not counted. Do not feed replays.

    Attributes:
        lost: windows lost, by stream.
    """

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self._next: dict[str, tuple[str, int]] = {}

    def feed(self, result: public.Result) -> int:
        """Count the windows missing directly before `result`; their number."""
        run, expected = self._next.get(result.stream, (result.run, result.seq))
        if run != result.run:
            expected = result.seq
        missing = max(0, result.seq - expected)
        self.lost[result.stream] += missing
        self._next[result.stream] = result.run, max(expected, result.next_seq)
        return missing


class Results(Closing):
    """A subscription: iteration yields each new `Result`, `events()` every message.

    The pipeline may start later, end and start again: ZeroMQ connects when it can. Use it from
    one thread, and as a context manager or with `close()`.

    Args:
        endpoint: endpoint of the pipeline, `tcp://ADDRESS:PORT` or `ipc://PATH`.
        stream: name of one stream; None: all streams.
        timeout: longest wait for one item of an iteration, in seconds; None: no limit.
        stale_after: age in seconds at which a result is stale; None: 2 s or three hops, the
            longer of the two.
        client_keys: keys for an endpoint that requires them; see docs/SECURITY.md.

    Attributes:
        endpoint, stream: as given.
        info: the newest `Info` by stream, replays included.
        health: the newest `Health`, replays included; None before the first.
        malformed: number of received messages that were refused as malformed.

    Raises:
        ValueError: the endpoint or a key is malformed.
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
        self._last_message: float | None = None
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
        """Windows lost between the pipeline and this client, by stream."""
        return self._losses.lost

    def __iter__(self) -> Iterator[public.Result]:
        """Each new result; replays are left out.

        Raises:
            TimeoutError: no result came within `timeout` seconds.
            NewerProtocolError: the publisher is newer than this client; raised once.
        """
        for event in self._events(lambda e: isinstance(e.message, public.Result) and not e.replay):
            assert isinstance(event.message, public.Result)
            yield event.message

    def events(self) -> Iterator[Event]:
        """Each message, replays included. Raises the same errors as the iteration of results."""
        return self._events(lambda _: True)

    def receive(self, timeout: float | None = None) -> Event | None:
        """The next message; None if none comes within `timeout` seconds.

        Raises:
            NewerProtocolError: the publisher is newer than this client; raised once.
        """
        return self._next(timeout, lambda _: True)

    def status(self, stream: str | None = None) -> Status:
        """How fresh a stream is, now.

        Args:
            stream: its name; None: the subscribed stream, or the worst of all streams.
        """
        stream = stream or self.stream
        if self._refusal is not None:
            return Status(Freshness.GONE, self._refusal)
        if self._last_message is None:
            return Status(Freshness.GONE, f"no message from {self.endpoint} yet")
        # A message that waits unread shows that the publisher lives.
        if time.monotonic() - self._last_message > GONE_AFTER_S and not self._socket.poll(0):
            return Status(Freshness.GONE, f"no message for {GONE_AFTER_S:g} s")
        known = [row.name for row in self.health.streams] if self.health else [*self._newest]
        if stream is None:
            none = Status(Freshness.STALE, self._trouble(None) or "no stream yet")
            every = [self._status_of(name) for name in known]
            return max(every, key=lambda status: list(Freshness).index(status.state), default=none)
        if known and stream not in known:
            return Status(
                Freshness.STALE, f"no stream {stream!r}; known streams: {', '.join(known)}"
            )
        return self._status_of(stream)

    def close(self) -> None:
        """Close the subscription now; unread messages are dropped."""
        self._context.destroy(linger=0)

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
            socket.setsockopt(zmq.IPV6, int(self.endpoint.startswith("tcp://[")))
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
                reason = self.status().reason or "other messages came"
                raise TimeoutError(f"{self.endpoint}: none within {self._timeout:g} s ({reason})")
            yield event

    def _next(self, timeout: float | None, wanted: Callable[[Event], bool]) -> Event | None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while self._wait(deadline):
            event = self._take()
            if event is not None and wanted(event):
                return event
            if time.monotonic() >= deadline:
                break  # a flood of unwanted messages must not hold the caller
        return None

    def _wait(self, deadline: float) -> bool:
        """Whether a message waits; records when the queue was last empty."""
        if self._socket.poll(0):
            return True
        left = deadline - time.monotonic()
        events = self._socket.poll(None if left == math.inf else max(0, math.ceil(left * 1000.0)))
        self._emptied = time.monotonic()
        return bool(events)

    def _take(self) -> Event | None:
        parts = self._socket.recv_multipart()
        # A ZeroMQ subscription is a prefix: `main` matches `main-2` too.
        if self.stream is not None and parts[0] not in self._topics:
            return None
        try:
            event = _decode(parts)
        except NewerProtocolError as error:
            raised_before, self._refusal = self._refusal is not None, str(error)
            if raised_before:
                return None
            raise
        except codec.ProtocolError:
            self.malformed += 1
            return None
        self._last_message, self._refusal = time.monotonic(), None
        match event.message:
            case public.Health():
                self.health = event.message
            case public.Info():
                self.info[event.message.stream] = event.message
            case public.Result() if not event.replay:
                self._losses.feed(event.message)
                # It came after the queue was last empty; that bounds its age for a slow reader.
                self._newest[event.message.stream] = event.message, self._emptied
        return event

    # Freshness --------------------------------------------------------------------------

    def _status_of(self, stream: str) -> Status:
        trouble = self._trouble(stream)
        if stream not in self._newest:
            return Status(Freshness.STALE, trouble or f"stream {stream}: no result yet")
        result, arrival = self._newest[stream]
        delay_ms = (result.timing_ms or {}).get("total", 0.0)
        age = time.monotonic() - arrival + delay_ms / 1000.0
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
        """The first stage or source that is not in order, from `health`; None if all are."""
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
    """The event of a received message.

    Raises:
        NewerProtocolError: its version is higher than `codec.VERSION`.
        ProtocolError: it is not a message.
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
    except Exception:  # it was refused already; any fault means "no version"
        return 0
    return version if type(version) is int else 0

"""An XPUB socket that sends the last messages of each topic to new subscribers, within bounds."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable

import zmq

from speech_emotion.common.wire import public
from speech_emotion.common.wire.connections import Connection, Connections
from speech_emotion.common.wire.sockets import drain_frames

SUBSCRIBER_HIGH_WATER_MARK = 1000
"""Messages queued per slow subscriber; beyond it that subscriber alone sees a jump in `seq`."""

INNER_HIGH_WATER_MARK = 10_000
"""The same for this pipeline's own subscribers (recorder, history, page)."""

INNER_REPLAYS = 600
"""Results and utterances that this pipeline's own subscribers get again when they connect: what
was published while their process restarted. Five minutes of one stream, five seconds of 64."""

SUBSCRIBE, UNSUBSCRIBE = b"\x01", b"\x00"
"""First byte of a subscription as an XPUB receives it; the prefix follows."""

MAX_REQUEST = 512
"""Longest message in bytes that a subscriber may send: a CURVE handshake needs about 300, a
subscription below 100. libzmq closes the connection of a longer one."""

REQUESTS_HIGH_WATER_MARK, REQUESTS_BUFFER = 10, 32 * 1024
"""Requests queued per connection, and its receive buffer in bytes. libzmq moves the queue into
one without limit about once per millisecond; the hub must read faster than that."""

MAX_PREFIX = 64
"""Longest prefix in bytes; no topic is longer."""

MAX_PREFIXES = 1024
"""Most prefixes of one connection: results and utterances of 512 streams."""

MAX_ALL_PREFIXES = 8192
"""Most prefixes of all connections; libzmq needs about 35 bytes for each byte of a prefix."""

MAX_REQUESTS, REQUESTS_PER_S = 2000, 200.0
"""Subscriptions that one connection may send at once, and per second."""

MAX_REPLAYS, REPLAYS_PER_S = 20.0, 2.0
"""Replays of one topic at once, and per second: subscriptions that come and go in a loop must not
fill the queues of other subscribers."""

REQUESTS_PER_TURN = 2000
"""Requests read in one turn; more is a flood."""

FULL_TURNS = 5
"""Turns of a flood in succession after which every connection is cut; clients connect again."""


class Publisher:
    """Sends public messages, and the last message of a topic to each new subscriber.

    Args:
        socket: an XPUB, bound or not.
        connections: of that socket, to close those that break a bound; None: trust them all, and
            keep `INNER_REPLAYS` messages for them.
    """

    def __init__(self, socket: zmq.Socket[bytes], connections: Connections | None = None) -> None:
        self._socket = socket
        self._connections = connections
        self._last_values: dict[bytes, public.Public] = {}
        kept = INNER_REPLAYS if connections is None else 0
        self._recent: deque[tuple[bytes, public.Public]] = deque(maxlen=kept)
        self._wanted: set[bytes] = set()
        self._full_turns = 0
        self._budgets: dict[bytes, tuple[float, float]] = {}
        # Where connections are trusted, a subscription begins when `turn` reads it. Else libzmq
        # could send a new message before the kept ones, and those would look lost and then late.
        socket.setsockopt(zmq.XPUB_MANUAL if connections is None else zmq.XPUB_VERBOSER, 1)

    @property
    def pending(self) -> bool:
        """Whether a replay waits for its budget; then call `turn()` several times a second."""
        return bool(self._wanted)

    def publish(self, topic: bytes, payload: bytes, message: public.Public) -> None:
        """Send an encoded message to all subscribers of its topic."""
        self._last_values[topic] = message
        if isinstance(message, public.Result | public.Utterance):
            self._recent.append((topic, message))
        self._socket.send_multipart([topic, payload])

    def turn(self) -> None:
        """Read subscriptions, then send the kept messages of each topic that they match."""
        number = 0
        for frames in drain_frames(self._socket, REQUESTS_PER_TURN):
            number += 1
            request = frames[0].bytes
            if self._connections is None or self._permitted(frames[0], self._connections):
                self._subscribed(request)
        if self._connections is not None:
            self._bound_all(self._connections)
            self._end_flood(self._connections, full=number == REQUESTS_PER_TURN)
        now = time.monotonic()
        due = {topic for topic in self._wanted if self._may_replay(topic, now)}
        self._wanted -= due
        for message in self._replays_of(due):
            self._socket.send_multipart(public.encode_public(message, replay=True))

    def _replays_of(self, topics: set[bytes]) -> Iterable[public.Public]:
        """The kept messages of some topics, in the order in which they were published."""
        if not topics:
            return
        recent = [(topic, message) for topic, message in self._recent if topic in topics]
        for topic in topics - {topic for topic, _ in recent}:
            yield self._last_values[topic]
        for _, message in recent:
            yield message

    def _end_flood(self, connections: Connections, *, full: bool) -> None:
        """Cut connections while requests come faster than they can be read.

        The sender of a flood is known only when its requests are read, after all older ones. So
        cut first the connections without a subscription, and if that does not help, all.
        """
        self._full_turns = self._full_turns + 1 if full else 0
        for connection in list(connections.all()) if full else []:
            if not connection.active or self._full_turns >= FULL_TURNS:
                connections.cut(connection)

    def _subscribed(self, request: bytes) -> None:
        if self._connections is None and request[:1] in (SUBSCRIBE, UNSUBSCRIBE):
            begins = request[:1] == SUBSCRIBE
            self._socket.setsockopt(zmq.SUBSCRIBE if begins else zmq.UNSUBSCRIBE, request[1:])
        if request[:1] == SUBSCRIBE:
            prefix = request[1:]
            self._wanted |= {topic for topic in self._last_values if topic.startswith(prefix)}

    def _may_replay(self, topic: bytes, now: float) -> bool:
        if self._connections is None:
            return True
        left, updated = self._budgets.get(topic, (MAX_REPLAYS, now))
        left = min(MAX_REPLAYS, left + (now - updated) * REPLAYS_PER_S)
        self._budgets[topic] = (left - 1.0 if left >= 1.0 else left), now
        return left >= 1.0

    def _permitted(self, frame: zmq.Frame, connections: Connections) -> bool:
        """Enter a request for its connection; cut the connection if it breaks a bound."""
        connection, request = connections.sender(frame), frame.bytes
        if connection is None:
            return False  # closed, or an unsubscription that libzmq made at the close
        connection.active = True
        prefix = request[1:]
        if request[:1] == SUBSCRIBE:
            connection.prefixes.add(prefix)
        else:
            connection.prefixes.discard(prefix)
        if (
            request[:1] not in (SUBSCRIBE, UNSUBSCRIBE)
            or len(prefix) > MAX_PREFIX
            or len(connection.prefixes) > MAX_PREFIXES
            or not _within_budget(connection)
        ):
            connections.cut(connection)
            return False
        return True

    @staticmethod
    def _bound_all(connections: Connections) -> None:
        """Cut the connection with the most prefixes where all together have too many."""
        numbers = [len(each.prefixes) for each in connections.all()]
        if sum(numbers) > MAX_ALL_PREFIXES:
            connections.cut(max(connections.all(), key=lambda each: len(each.prefixes)))


def _within_budget(connection: Connection) -> bool:
    """Take one request from the budget of a connection; False if it is used up."""
    now = time.monotonic()
    elapsed = now - connection.updated if connection.updated else float(MAX_REQUESTS)
    connection.requests = min(MAX_REQUESTS, connection.requests + elapsed * REQUESTS_PER_S) - 1.0
    connection.updated = now
    return connection.requests >= 0.0


def completed(
    message: public.Result | public.Utterance, captured: float
) -> public.Result | public.Utterance:
    """The message of a window with the time from the capture of its last sample to now."""
    if isinstance(message, public.Utterance) or message.timing_ms is None:
        return message
    total = (time.monotonic() - captured) * 1000.0
    return dataclasses.replace(message, timing_ms={**message.timing_ms, "total": total})

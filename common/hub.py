"""The results hub: accepts results in order and once, keeps checkpoints, serves subscribers.

A thread of the supervisor (or of infer, where infer stands alone). `Ledger` is its pure
core: what is accepted, and from which checkpoint a restarted stage goes on. `Hub` is the
rim: one ROUTER that the stages talk to, one XPUB that the world subscribes to.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import zmq

from common import messages as m
from common.errors import UserError
from common.keys import Doorman, Lock, count_refused
from common.sockets import bind, configure, remove_file, watch_link
from common.wakeup import Wakeup

log = logging.getLogger("hub")

SUBSCRIBER_HIGH_WATER_MARK = 1000
"""Messages kept per slow subscriber; beyond it that subscriber alone sees a jump in `seq`."""
MOST_ALONE = 256
"""Stages, and streams, that a hub keeps in mind where nobody told it what to expect."""
NEWS = 1000
"""Messages kept for a view in this process that has not looked yet."""


class Verdict(enum.Enum):
    """What became of a submitted result."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"
    UNKNOWN = "unknown"
    OTHER_BUNDLE = "other_bundle"


@dataclasses.dataclass
class StreamLedger:
    """Where one stream stands: the next `seq` and the checkpoint to go on from.

    Attributes:
        bundle: id of the bundle to go on with.
        made_by: id of the bundle behind the checkpoint; empty at the start.
    """

    opened: m.Open
    bundle: str = ""
    made_by: str = ""
    next: int = 0
    ended: bool = False
    gate: list[float] = dataclasses.field(default_factory=list)
    decision: dict[str, Any] = dataclasses.field(default_factory=dict)

    def resume(self) -> m.Resume:
        return m.Resume(
            stream=self.opened.stream,
            run=self.opened.run,
            next=self.next,
            ended=self.ended,
            gate=self.gate,
            decision=self.decision,
            bundle=self.bundle,
            made_by=self.made_by,
        )

    def accepted(self) -> m.Accepted:
        return m.Accepted(self.opened.stream, self.opened.run, self.next, self.ended)


class Ledger:
    """Exactly-once acceptance: pure bookkeeping, no sockets and no clock.

    Args:
        bundle: id of the bundle in force; results of another are not accepted.
    """

    def __init__(self, bundle: str = "") -> None:
        self.bundle = bundle
        self.streams: dict[str, StreamLedger] = {}

    def use(self, bundle: str, *, keep_gate: bool) -> None:
        """Go on with another bundle from the next window of every stream.

        Args:
            keep_gate: its voice gate goes on from the checkpoint of the old one's.
        """
        self.bundle = bundle
        for stream in self.streams.values():
            stream.bundle = bundle
            if not keep_gate:
                stream.gate = []

    def open(self, message: m.Open) -> bool:
        """Register a stream; a new `run` starts it anew. True if anything changed."""
        known = self.streams.get(message.stream)
        if known is not None and known.opened.run == message.run:
            return False
        self.streams[message.stream] = StreamLedger(message, self.bundle)
        return True

    def submit(self, message: m.Submit) -> Verdict:
        """Accept the result of the next window, and nothing else."""
        stream = self.streams.get(message.stream)
        if stream is None or stream.opened.run != message.run:
            return Verdict.UNKNOWN
        if message.bundle != self.bundle:
            return Verdict.OTHER_BUNDLE
        if stream.ended or message.seq < stream.next:
            return Verdict.DUPLICATE
        if message.seq > stream.next:
            return Verdict.OUT_OF_ORDER
        stream.next = message.seq if message.result is None else message.result.next_seq
        stream.ended = message.ended
        stream.gate = message.gate
        stream.decision = message.decision
        stream.made_by = message.bundle
        return Verdict.ACCEPTED


@dataclasses.dataclass(frozen=True)
class Beat:
    """The newest heartbeat of a stage and when it came (CLOCK_MONOTONIC)."""

    heartbeat: m.Heartbeat
    received: float


class Hub(threading.Thread):
    """Owns both sockets; every public message goes out through here.

    Args:
        results: public endpoint to bind, such as `tcp://127.0.0.1:5555`.
        stages: internal endpoint to bind.
        info: makes the `Info` of a newly opened stream.
        health: makes the current `Health`; called once a second and on `health_changed()`.
        bundle: id of the bundle in force.
        inner: where this pipeline's own processes subscribe, without keys.
        remote: where an infer host hands in results, and who may.
        lock: who may subscribe over TCP; None: everybody who can connect.
        unprotected: everybody, even from the network.

    Attributes:
        turned: when the thread last took a turn (CLOCK_MONOTONIC); at least once a second.

    Raises:
        UserError: an endpoint is malformed, taken, or open to the network without a word.
    """

    def __init__(
        self,
        results: str,
        stages: str,
        *,
        info: Callable[[m.Open], m.Info],
        health: Callable[[Hub], m.Health],
        bundle: str = "",
        inner: str | None = None,
        remote: tuple[str, Lock] | None = None,
        lock: Lock | None = None,
        unprotected: bool = False,
    ) -> None:
        super().__init__(name="hub", daemon=True)
        self.ledger = Ledger(bundle)
        self.beats: dict[str, Beat] = {}
        self.sources: dict[str, m.SourceStatus] = {}
        self.news: deque[m.Result | m.Utterance] = deque(maxlen=NEWS)
        self.counters: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self.turned = time.monotonic()
        self._expected_stages: frozenset[str] | None = None
        self._expected_runs: Mapping[str, str] | None = None
        self.stage_changed: Callable[[], None] = lambda: None
        """Called by the hub's thread when a stage says that its state is another."""
        self._info = info
        self._health = health
        self._health_due = 0.0
        self._last_values: dict[bytes, m.Public] = {}
        self._listeners: dict[str, bytes] = {}
        self._sources: dict[str, bytes] = {}
        self._exchange: tuple[str, bool] | None = None
        self._stopping = False
        self._wakeup = Wakeup()
        self._context = zmq.Context()
        self._endpoints: list[str] = []
        try:
            self._doorman = Doorman(self._context) if lock or remote else None
            self._public = self._socket(zmq.XPUB)
            if inner is not None:
                self._bind(self._public, inner, "inner results")
            self._bind(self._public, results, "results", lock, unprotected=unprotected)
            self._stages = self._socket(zmq.ROUTER)
            self._bind(self._stages, stages, "hub")
            if remote is not None:
                watch_link(self._stages, remote[0])
                self._bind(self._stages, remote[0], "infer_host.hub", remote[1])
        except UserError:
            self._context.destroy(linger=0)
            self._remove_files()
            raise
        self._public.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.endpoint: str = self._public.getsockopt_string(zmq.LAST_ENDPOINT)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        configure(socket)
        socket.setsockopt(zmq.SNDHWM, SUBSCRIBER_HIGH_WATER_MARK)
        return socket

    def _bind(
        self,
        socket: zmq.Socket[bytes],
        endpoint: str,
        name: str,
        lock: Lock | None = None,
        *,
        unprotected: bool = False,
    ) -> None:
        bind(socket, endpoint, name, lock=lock, doorman=self._doorman, unprotected=unprotected)
        self._endpoints.append(endpoint)

    def expect(self, stages: Iterable[str], runs: Mapping[str, str]) -> None:
        """Hear these stages only, and open only these streams with these runs. Before `start()`."""
        self._expected_stages, self._expected_runs = frozenset(stages), dict(runs)

    # Called from other threads ----------------------------------------------------------

    def take_news(self) -> Iterator[m.Result | m.Utterance]:
        """The results and utterances published since the last call."""
        while self.news:
            yield self.news.popleft()

    def health_changed(self) -> None:
        """Publish `health` at once instead of at the next second."""
        self._health_due = 0.0
        self._wakeup.set()

    def use(self, bundle: str, *, keep_gate: bool) -> None:
        """Go on with another bundle; `ledger.bundle` says when that is so. See `Ledger.use`."""
        self._exchange = bundle, keep_gate
        self._wakeup.set()

    def stop(self) -> None:
        """End the thread after what is queued went out, and close both sockets."""
        self._stopping = True
        self._wakeup.set()
        if self.is_alive():
            self.join(timeout=5)
        elif not self._context.closed:
            self._close()  # it was never started

    # The thread -------------------------------------------------------------------------

    def run(self) -> None:
        try:
            poller = zmq.Poller()
            poller.register(self._public, zmq.POLLIN)
            poller.register(self._stages, zmq.POLLIN)
            poller.register(self._wakeup, zmq.POLLIN)
            for socket in self._doorman.sockets if self._doorman else []:
                poller.register(socket, zmq.POLLIN)
            while not self._stopping:
                until_health = max(0.0, self._health_due - time.monotonic())
                self._turn(dict(poller.poll(math.ceil(1000.0 * until_health))))
            self._publish(self._health(self))
        except BaseException as error:  # the supervisor sees `failure` and ends
            self.failure = error
        finally:
            self._close()

    def _close(self) -> None:
        if self._doorman is not None:
            self._doorman.close()
        # Give the last results a moment to leave; a dead subscriber cannot hold us.
        self._public.close(linger=500)
        self._stages.close(linger=0)
        self._context.term()
        self._remove_files()

    def _remove_files(self) -> None:
        for endpoint in self._endpoints:
            remove_file(endpoint)

    def _turn(self, ready: dict[Any, int]) -> None:
        self.turned = time.monotonic()
        if self._wakeup.fileno() in ready:
            self._wakeup.clear()
        if self._doorman is not None:
            self._doorman.turn()
            count_refused(self._doorman, self.counters)
        if self._exchange is not None:
            (bundle, keep_gate), self._exchange = self._exchange, None
            self.ledger.use(bundle, keep_gate=keep_gate)
            for stream in self.ledger.streams.values():
                self._publish(self._info(stream.opened))
                self._resume_all(stream)
        if self._public in ready:
            self._replay(self._public.recv())
        if self._stages in ready:
            for identity, frame in self._drain():
                self._handle(identity, frame)
        now = time.monotonic()
        if now >= self._health_due:
            self._health_due = now + 1.0
            self._publish(self._health(self))

    def _drain(self) -> Iterable[tuple[bytes, bytes]]:
        for _ in range(100):
            try:
                parts = self._stages.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            if len(parts) == 2:
                yield parts[0], parts[1]
            else:
                self.counters["hub_malformed"] += 1

    def _handle(self, identity: bytes, frame: bytes) -> None:
        try:
            message = m.decode(frame)
        except m.ProtocolError as error:
            self.counters["hub_malformed"] += 1
            if self.counters["hub_malformed"] % 100 == 1:
                log.warning("refused a message from a stage: %s", error)
            return
        if self._strange(message):
            self.counters["hub_strangers"] += 1
            return
        match message:
            case m.Submit():
                self._submit(identity, message)
            case m.Heartbeat():
                self._heartbeat(message)
                if self._listeners.get(message.stage, identity) != identity:
                    # It has connected anew: who is told of streams is told there from now on.
                    self._listeners[message.stage] = identity
                    for stream in self.ledger.streams.values():
                        self._send(identity, stream.resume())
            case m.Open():
                self._open(identity, message)
            case m.Hello():
                self._listeners[message.stage] = identity
                for name, stream in self.ledger.streams.items():
                    if message.stream in ("", name):
                        self._send(identity, stream.resume())
            case _:
                self.counters["hub_malformed"] += 1

    def _strange(self, message: m.Message) -> bool:
        """Whether it is of a stage or a stream that nobody started."""
        match message:
            case m.Heartbeat() | m.Hello():
                known, name = self._expected_stages, message.stage
                return name not in known if known is not None else len(self.beats) > MOST_ALONE
            case m.Open():
                runs = self._expected_runs
                if runs is None:
                    return len(self.ledger.streams) > MOST_ALONE
                return runs.get(message.stream) != message.run
        return False

    def _open(self, identity: bytes, message: m.Open) -> None:
        if self.ledger.open(message):
            self._publish(self._info(message))
            self._resume_all(self.ledger.streams[message.stream])
        self._sources[message.stream] = identity
        self._send(identity, self.ledger.streams[message.stream].accepted())

    def _resume_all(self, stream: StreamLedger) -> None:
        for listener in self._listeners.values():
            self._send(listener, stream.resume())

    def _submit(self, identity: bytes, message: m.Submit) -> None:
        verdict = self.ledger.submit(message)
        self.counters[f"results_{verdict.value}"] += 1
        if verdict is Verdict.UNKNOWN:
            return
        stream = self.ledger.streams[message.stream]
        if verdict in (Verdict.OUT_OF_ORDER, Verdict.OTHER_BUNDLE):
            self._send(identity, stream.resume())
            return
        if verdict is Verdict.ACCEPTED:
            for public in message.messages:
                self._publish(_completed(public, message.captured))
        self._send(identity, stream.accepted())
        if source := self._sources.get(message.stream):
            self._send(source, stream.accepted())

    def _heartbeat(self, message: m.Heartbeat) -> None:
        previous = self.beats.get(message.stage)
        if previous is None or previous.heartbeat.state != message.state:
            self.health_changed()
            self.stage_changed()
        if previous is not None and previous.heartbeat.pid != message.pid:
            # A fresh process counts from zero; what its predecessor counted stays counted.
            self.counters.update(previous.heartbeat.counters)
        self.beats[message.stage] = Beat(message, time.monotonic())
        for status in message.streams:
            known = self.sources.get(status.stream)
            if known is not None and known.state != status.state:
                self.health_changed()
            self.sources[status.stream] = status

    def _publish(self, message: m.Public) -> None:
        topic, payload = m.encode_public(message)
        self._last_values[topic] = message
        if isinstance(message, m.Result | m.Utterance):
            self.news.append(message)
        self._public.send_multipart([topic, payload])

    def _replay(self, subscription: bytes) -> None:
        # XPUB delivers b"\x01" + prefix for every new subscription.
        if subscription[:1] != b"\x01":
            return
        for topic, message in self._last_values.items():
            if topic.startswith(subscription[1:]):
                self._public.send_multipart(m.encode_public(message, replay=True))

    def _send(self, identity: bytes, message: m.Message) -> None:
        try:
            self._stages.send_multipart([identity, m.encode(message)], zmq.DONTWAIT)
        except zmq.Again:
            # The stage stopped reading; it asks again when it comes back.
            self.counters["hub_unsent"] += 1


def _completed(message: m.Result | m.Utterance, captured: float) -> m.Result | m.Utterance:
    if isinstance(message, m.Utterance) or message.timing_ms is None:
        return message
    total = (time.monotonic() - captured) * 1000.0
    return dataclasses.replace(message, timing_ms={**message.timing_ms, "total": total})

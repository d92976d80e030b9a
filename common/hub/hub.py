"""The results hub: one ROUTER socket for the stages, one XPUB socket for subscribers.

A thread of the supervisor, or of infer where infer runs alone.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.hub.ledger import Ledger, StreamLedger, Verdict
from speech_emotion.common.linux.eventfd import Wakeup
from speech_emotion.common.security.curve import CurveServerKeys
from speech_emotion.common.security.zap import ZapAuthenticator, count_refused
from speech_emotion.common.wire import codec, internal, public
from speech_emotion.common.wire.sockets import bind, configure, drain, remove_file, watch_link

log = logging.getLogger("hub")


SUBSCRIBER_HIGH_WATER_MARK = 1000
"""Messages kept per slow subscriber; beyond it that subscriber alone sees a jump in `seq`."""


MOST_ALONE = 256
"""Stages, and streams, that a hub keeps in mind where nobody told it what to expect."""


NEWS = 1000
"""Messages kept for a view in this process that has not looked yet."""


@dataclasses.dataclass(frozen=True)
class ReceivedHeartbeat:
    """The newest heartbeat of a stage and when it came (CLOCK_MONOTONIC)."""

    heartbeat: internal.Heartbeat
    received: float


class Hub:
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
        info: Callable[[internal.Open], public.Info],
        health: Callable[[Hub], public.Health],
        bundle: str = "",
        inner: str | None = None,
        remote: tuple[str, CurveServerKeys] | None = None,
        lock: CurveServerKeys | None = None,
        unprotected: bool = False,
    ) -> None:
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self.ledger = Ledger(bundle)
        self.beats: dict[str, ReceivedHeartbeat] = {}
        self.sources: dict[str, internal.SourceStatus] = {}
        self.news: deque[public.Result | public.Utterance] = deque(maxlen=NEWS)
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
        self._last_values: dict[bytes, public.Public] = {}
        self._listeners: dict[str, bytes] = {}
        self._sources: dict[str, bytes] = {}
        self._exchange: tuple[str, bool] | None = None
        self._stopping = False
        self._wakeup = Wakeup()
        self._context = zmq.Context()
        self._endpoints: list[str] = []
        try:
            self._authenticator = ZapAuthenticator(self._context) if lock or remote else None
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
        lock: CurveServerKeys | None = None,
        *,
        unprotected: bool = False,
    ) -> None:
        bind(
            socket,
            endpoint,
            name,
            lock=lock,
            authenticator=self._authenticator,
            unprotected=unprotected,
        )
        self._endpoints.append(endpoint)

    def expect(self, stages: Iterable[str], runs: Mapping[str, str]) -> None:
        """Hear these stages only, and open only these streams with these runs. Before `start()`."""
        self._expected_stages, self._expected_runs = frozenset(stages), dict(runs)

    # Called from other threads ----------------------------------------------------------

    def start(self) -> None:
        """Start the hub's thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the hub's thread runs."""
        return self._thread.is_alive()

    def drain_results(self) -> Iterator[public.Result | public.Utterance]:
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
        if self.alive:
            self._thread.join(timeout=5)
        elif not self._context.closed:
            self._close()  # it was never started

    # The thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            poller = zmq.Poller()
            poller.register(self._public, zmq.POLLIN)
            poller.register(self._stages, zmq.POLLIN)
            poller.register(self._wakeup, zmq.POLLIN)
            for socket in self._authenticator.sockets if self._authenticator else []:
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
        if self._authenticator is not None:
            self._authenticator.close()
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
        if self._authenticator is not None:
            self._authenticator.turn()
            count_refused(self._authenticator, self.counters)
        if self._exchange is not None:
            (bundle, keep_gate), self._exchange = self._exchange, None
            self.ledger.use(bundle, keep_gate=keep_gate)
            for stream in self.ledger.streams.values():
                self._publish(self._info(stream.opened))
                self._resume_all(stream)
        if self._public in ready:
            self._replay(self._public.recv())
        if self._stages in ready:
            for frames in drain(self._stages):
                self._receive(frames)
        now = time.monotonic()
        if now >= self._health_due:
            self._health_due = now + 1.0
            self._publish(self._health(self))

    def _receive(self, frames: list[bytes]) -> None:
        try:
            if len(frames) != 2:
                raise codec.ProtocolError(f"{len(frames)} frames instead of 2")
            message = internal.decode(frames[1])
        except codec.ProtocolError as error:
            self.counters["hub_malformed"] += 1
            if self.counters["hub_malformed"] % 100 == 1:
                log.warning("refused a message from a stage: %s", error)
            return
        if self._strange(message):
            self.counters["hub_strangers"] += 1
            return
        self._handle(frames[0], message)

    def _handle(self, identity: bytes, message: codec.Message) -> None:
        match message:
            case internal.Submit():
                self._submit(identity, message)
            case internal.Heartbeat():
                self._heartbeat(message)
                if self._listeners.get(message.stage, identity) != identity:
                    # It has connected anew: who is told of streams is told there from now on.
                    self._listeners[message.stage] = identity
                    for stream in self.ledger.streams.values():
                        self._send(identity, stream.resume())
            case internal.Open():
                self._open(identity, message)
            case internal.Hello():
                self._listeners[message.stage] = identity
                for name, stream in self.ledger.streams.items():
                    if message.stream in ("", name):
                        self._send(identity, stream.resume())
            case _:
                self.counters["hub_malformed"] += 1

    def _strange(self, message: codec.Message) -> bool:
        """Whether it is of a stage or a stream that nobody started."""
        match message:
            case internal.Heartbeat() | internal.Hello():
                known, name = self._expected_stages, message.stage
                return name not in known if known is not None else len(self.beats) > MOST_ALONE
            case internal.Open():
                runs = self._expected_runs
                if runs is None:
                    return len(self.ledger.streams) > MOST_ALONE
                return runs.get(message.stream) != message.run
        return False

    def _open(self, identity: bytes, message: internal.Open) -> None:
        if self.ledger.open(message):
            self._publish(self._info(message))
            self._resume_all(self.ledger.streams[message.stream])
        self._sources[message.stream] = identity
        self._send(identity, self.ledger.streams[message.stream].accepted())

    def _resume_all(self, stream: StreamLedger) -> None:
        for listener in self._listeners.values():
            self._send(listener, stream.resume())

    def _submit(self, identity: bytes, message: internal.Submit) -> None:
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

    def _heartbeat(self, message: internal.Heartbeat) -> None:
        previous = self.beats.get(message.stage)
        if previous is None or previous.heartbeat.state != message.state:
            self.health_changed()
            self.stage_changed()
        if previous is not None and previous.heartbeat.pid != message.pid:
            # A fresh process counts from zero; what its predecessor counted stays counted.
            self.counters.update(previous.heartbeat.counters)
        self.beats[message.stage] = ReceivedHeartbeat(message, time.monotonic())
        for status in message.streams:
            known = self.sources.get(status.stream)
            if known is not None and known.state != status.state:
                self.health_changed()
            self.sources[status.stream] = status

    def _publish(self, message: public.Public) -> None:
        topic, payload = public.encode_public(message)
        self._last_values[topic] = message
        if isinstance(message, public.Result | public.Utterance):
            self.news.append(message)
        self._public.send_multipart([topic, payload])

    def _replay(self, subscription: bytes) -> None:
        # XPUB delivers b"\x01" + prefix for every new subscription.
        if subscription[:1] != b"\x01":
            return
        for topic, message in self._last_values.items():
            if topic.startswith(subscription[1:]):
                self._public.send_multipart(public.encode_public(message, replay=True))

    def _send(self, identity: bytes, message: codec.Message) -> None:
        try:
            self._stages.send_multipart([identity, internal.encode(message)], zmq.DONTWAIT)
        except zmq.Again:
            # The stage stopped reading; it asks again when it comes back.
            self.counters["hub_unsent"] += 1


def _completed(
    message: public.Result | public.Utterance, captured: float
) -> public.Result | public.Utterance:
    if isinstance(message, public.Utterance) or message.timing_ms is None:
        return message
    total = (time.monotonic() - captured) * 1000.0
    return dataclasses.replace(message, timing_ms={**message.timing_ms, "total": total})

"""The results hub: a ROUTER socket for the stages, two XPUB sockets for subscribers, one thread.

It runs in the supervisor, or in infer where infer runs alone.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeAlias

import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.hub.acceptances import Acceptances
from speech_emotion.common.hub.ledger import Ledger, StreamLedger, Verdict
from speech_emotion.common.hub.observed import Observed, Snapshot
from speech_emotion.common.hub.publisher import (
    INNER_HIGH_WATER_MARK,
    MAX_REQUEST,
    REQUESTS_BUFFER,
    REQUESTS_HIGH_WATER_MARK,
    SUBSCRIBER_HIGH_WATER_MARK,
    Publisher,
    completed,
)
from speech_emotion.common.linux.eventfd import Wakeup
from speech_emotion.common.security.curve import CurveServerKeys
from speech_emotion.common.security.zap import Noted, ZapAuthenticator
from speech_emotion.common.wire import codec, internal, public
from speech_emotion.common.wire.connections import Connections
from speech_emotion.common.wire.sockets import bind, configure, drain, remove_file, watch_link

log = logging.getLogger("hub")


MAX_UNEXPECTED = 256
"""Stages, and streams, that a hub accepts where `expect()` was not called."""


MAX_UNREAD = 1000
"""Messages kept for `drain_results()`; older ones are dropped."""


LINGER_MS = 2000
REPLAY_TURN_S = 0.1
"""Interval in seconds of turns while a replay waits for its budget."""

Forgotten: TypeAlias = Future[dict[str, int]]


class Hub:
    """Owns the sockets and the ledger; every public message goes out through its thread.

    Other programs reach only the sockets of `results` and `remote`. The first has a ZeroMQ context
    and an I/O thread of its own, so that what happens there does not delay the stages.

    Its own thread alone uses the sockets and the ledger. Other threads call the methods of the
    section "Called from other threads"; what they read comes from `Observed`, whose lock makes
    that safe.

    Args:
        results: public endpoint to bind, such as `tcp://127.0.0.1:5555`.
        stages: internal endpoint to bind.
        info: makes the `Info` of a newly opened stream; called from the hub's thread.
        health: makes the current `Health`; called from the hub's thread once a second, and soon
            after `health_changed()`.
        bundle: id of the bundle in force.
        baseline: infer keeps a baseline of each stream, where the bundle can.
        inner: endpoint where this pipeline's own processes subscribe, without keys.
        remote: endpoint where an infer host submits results, and the keys of that endpoint.
        lock: keys of the public endpoint where it is TCP; None: any client may subscribe.
        unprotected: allow the public endpoint without keys even beyond loopback.

    Attributes:
        turned: when the thread last took a turn (CLOCK_MONOTONIC); at least once a second.
        failure: the exception that ended the thread.
        stage_changed: called from the hub's thread when the state of a stage changes.

    Raises:
        UserError: an endpoint is malformed, in use, or open to the network without consent.
    """

    def __init__(
        self,
        results: str,
        stages: str,
        *,
        info: Callable[[internal.Open], public.Info],
        health: Callable[[Snapshot], public.Health],
        bundle: str = "",
        baseline: bool = False,
        inner: str | None = None,
        remote: tuple[str, CurveServerKeys] | None = None,
        lock: CurveServerKeys | None = None,
        unprotected: bool = False,
    ) -> None:
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self.failure: BaseException | None = None
        self.turned = time.monotonic()
        self.stage_changed: Callable[[], None] = lambda: None
        self._observed = Observed(bundle)
        self._ledger = Ledger(bundle, baseline=baseline)
        self._unread: deque[public.Result | public.Utterance] = deque(maxlen=MAX_UNREAD)
        self._expected_stages: frozenset[str] | None = None
        self._expected_runs: Mapping[str, str] | None = None
        self._info = info
        self._health = health
        self._health_due = 0.0
        self._health_wanted = False
        self._listeners: dict[str, bytes] = {}
        self._captures: dict[str, bytes] = {}
        self._acceptances = Acceptances(self._send)
        self._next_bundle: tuple[str, bool] | None = None
        self._forgetting: queue.SimpleQueue[tuple[str | None, Forgotten]] = queue.SimpleQueue()
        self._stopping = False
        self._wakeup = Wakeup()
        self._contexts: list[zmq.Context[Any]] = [zmq.Context(), zmq.Context()]
        self._authenticators: list[ZapAuthenticator] = []
        self._connections: list[Connections] = []
        self._publishers: list[Publisher] = []
        self._remote: Connections | None = None
        self._endpoints: list[str] = []
        try:
            self._public = self._bind_public(results, lock, unprotected=unprotected)
            self._inner = self._bind_inner(inner) if inner is not None else None
            self._stages = self._bind_stages(stages, remote)
        except UserError:
            self._close_all(0)
            raise
        self.endpoint: str = self._public.getsockopt_string(zmq.LAST_ENDPOINT)

    def _bind_public(
        self, endpoint: str, lock: CurveServerKeys | None, *, unprotected: bool
    ) -> zmq.Socket[bytes]:
        context = self._contexts[0]
        socket: zmq.Socket[bytes] = context.socket(zmq.XPUB)
        configure(socket)
        socket.setsockopt(zmq.SNDHWM, SUBSCRIBER_HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST)
        socket.setsockopt(zmq.RCVHWM, REQUESTS_HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVBUF, REQUESTS_BUFFER)
        connections = self._watch(socket)
        authenticator = self._authenticate(context) if lock else None
        bind(
            *(socket, endpoint, "results"),
            lock=lock,
            authenticator=authenticator,
            unprotected=unprotected,
        )
        self._endpoints.append(endpoint)
        self._publishers.append(Publisher(socket, connections))
        return socket

    def _bind_inner(self, endpoint: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._contexts[1].socket(zmq.XPUB)
        configure(socket)
        socket.setsockopt(zmq.SNDHWM, INNER_HIGH_WATER_MARK)
        bind(socket, endpoint, "inner results")
        self._endpoints.append(endpoint)
        self._publishers.append(Publisher(socket))
        return socket

    def _bind_stages(
        self, endpoint: str, remote: tuple[str, CurveServerKeys] | None
    ) -> zmq.Socket[bytes]:
        context = self._contexts[1]
        socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        configure(socket)
        socket.setsockopt(zmq.SNDHWM, SUBSCRIBER_HIGH_WATER_MARK)
        if remote is not None:
            self._remote = self._watch(socket, tcp_only=True)
        bind(socket, endpoint, "hub")
        self._endpoints.append(endpoint)
        if remote is not None:
            authenticator = self._authenticate(context)
            watch_link(socket, remote[0])
            bind(
                *(socket, remote[0], "infer_host.hub"), lock=remote[1], authenticator=authenticator
            )
        return socket

    def _watch(self, socket: zmq.Socket[bytes], *, tcp_only: bool = False) -> Connections:
        self._connections.append(Connections(socket, tcp_only=tcp_only))
        return self._connections[-1]

    def _authenticate(self, context: zmq.Context[Any]) -> ZapAuthenticator:
        self._authenticators.append(ZapAuthenticator(context))
        return self._authenticators[-1]

    def expect(self, stages: Iterable[str], runs: Mapping[str, str]) -> None:
        """Accept only these stages, and only these streams with these runs. Before `start()`."""
        self._expected_stages, self._expected_runs = frozenset(stages), dict(runs)

    def watch_keys(self, noted: Noted) -> None:
        """Report every key that a client shows, from the hub's thread. Before `start()`."""
        for authenticator in self._authenticators:
            authenticator.noted = noted

    # Called from other threads ----------------------------------------------------------

    def start(self) -> None:
        """Start the hub's thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the hub's thread runs."""
        return self._thread.is_alive()

    def snapshot(self) -> Snapshot:
        """A copy of what the hub has received; any thread may call it."""
        return self._observed.snapshot()

    def set_counter(self, name: str, value: int) -> None:
        """Set a counter of `health` that the caller counts itself; any thread may call it."""
        self._observed.set_counter(name, value)

    def forget(self, stage: str) -> None:
        """Remove the heartbeat of a stage that has ended for good; any thread may call it."""
        self._observed.forget(stage)

    def drain_results(self) -> Iterator[public.Result | public.Utterance]:
        """The results and utterances published since the last call. One thread calls it."""
        while self._unread:
            yield self._unread.popleft()

    def health_changed(self) -> None:
        """Publish `health` now instead of at the next second."""
        self._health_wanted = True
        self._wakeup.set()

    def use(self, bundle: str, *, keep_gate: bool) -> None:
        """Continue with another bundle; `snapshot().bundle` tells when. See `Ledger.use`."""
        self._next_bundle = bundle, keep_gate
        self._wakeup.set()

    def forget_baseline(self, stream: str | None) -> Forgotten:
        """Forget the baseline of a stream, or of all, before its next window.

        Returns:
            A future: stream → number of the window before which its baseline was forgotten.
        """
        done: Forgotten = Future()
        self._forgetting.put((stream, done))
        self._wakeup.set()
        return done

    def stop(self) -> None:
        """End the thread after queued messages were sent, and close both sockets."""
        self._stopping = True
        self._wakeup.set()
        if self.alive:
            self._thread.join(timeout=5)
        elif not self._contexts[0].closed:
            self._close_all(0)  # the thread was never started, or has closed everything

    # The thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            poller = zmq.Poller()
            for readable in (*self._sockets(), self._wakeup):
                poller.register(readable, zmq.POLLIN)
            while not self._stopping:
                now = time.monotonic()
                wait = min(max(0.0, self._health_due - now), self._acceptances.wait_s(now))
                if any(publisher.pending for publisher in self._publishers):
                    wait = min(wait, REPLAY_TURN_S)
                self._turn(dict(poller.poll(math.ceil(1000.0 * wait))))
            self._publish_health()
        except BaseException as error:  # the supervisor reads `failure` and ends
            self.failure = error
        finally:
            self._stages.close(linger=0)
            # Time for the last results to be sent, also where the machine does not run this process
            # for a while; a subscriber that is stuck cannot delay the end further.
            self._close_all(LINGER_MS)

    def _sockets(self) -> list[zmq.Socket[bytes]]:
        inner = [self._inner] if self._inner is not None else []
        return [
            *(self._public, *inner, self._stages),
            *(authenticator.socket for authenticator in self._authenticators),
            *(connections.events for connections in self._connections),
        ]

    def _close_all(self, linger_ms: int) -> None:
        for context in self._contexts:
            context.destroy(linger=linger_ms)
        for endpoint in self._endpoints:
            remove_file(endpoint)

    def _turn(self, ready: dict[Any, int]) -> None:
        self.turned = time.monotonic()
        if self._wakeup.fileno() in ready:
            self._wakeup.clear()
        for authenticator in self._authenticators:
            authenticator.turn()
        for connections in self._connections:
            connections.turn()
            self._count("connections_refused", connections.take_refused())
            self._count("connections_cut", connections.take_cut())
        if self._next_bundle is not None:
            (bundle, keep_gate), self._next_bundle = self._next_bundle, None
            self._use(bundle, keep_gate=keep_gate)
        while not self._forgetting.empty():
            self._forget_baseline(*self._forgetting.get())
        if self._stages in ready:
            for frames in (self._remote.drain if self._remote else drain)(self._stages):
                self._receive(frames)
        self._acceptances.turn(self._captures)
        for publisher in self._publishers:
            publisher.turn()
        if self._health_wanted or time.monotonic() >= self._health_due:
            self._publish_health()

    def _use(self, bundle: str, *, keep_gate: bool) -> None:
        self._ledger.use(bundle, keep_gate=keep_gate)
        self._observed.use(bundle)
        for stream in self._ledger.streams.values():
            self._publish(self._info(stream.opened))
            self._resume_all(stream)

    def _forget_baseline(self, name: str | None, done: Forgotten) -> None:
        windows = self._ledger.forget_baseline(name)
        for stream in windows:
            self._resume_all(self._ledger.streams[stream])
        done.set_result(windows)

    def _publish(self, message: public.Public) -> None:
        topic, payload = public.encode_public(message)
        for publisher in self._publishers:
            publisher.publish(topic, payload, message)

    def _publish_health(self) -> None:
        # Cleared first: a change that comes while the message is made is published again.
        self._health_wanted = False
        self._health_due = time.monotonic() + 1.0
        self._publish(self._health(self.snapshot()))

    # Messages of the stages -------------------------------------------------------------

    def _receive(self, frames: list[bytes]) -> None:
        try:
            if len(frames) != 2:
                raise codec.ProtocolError(f"{len(frames)} frames instead of 2")
            message = internal.decode(frames[1])
            if not self._expects(message):
                self._count("hub_strangers")
                return
            self._handle(frames[0], message)
        except codec.ProtocolError as error:
            if self._count("hub_malformed") % 100 == 1:
                log.warning("refused a message from a stage: %s", error)

    def _handle(self, identity: bytes, message: codec.Message) -> None:
        match message:
            case internal.Submit():
                self._submit(identity, message)
            case internal.Heartbeat():
                self._heartbeat(identity, message)
            case internal.Open():
                self._open(identity, message)
            case internal.Recorded():
                if capture := self._captures.get(message.stream):
                    self._send(capture, message)
            case internal.Hello():
                self._listeners[message.stage] = identity
                for name, stream in self._ledger.streams.items():
                    if message.stream in ("", name):
                        self._send(identity, stream.resume())
            case _:
                raise codec.ProtocolError(f"{type(message).__name__} is not for the hub")

    def _expects(self, message: codec.Message) -> bool:
        """Whether the message's stage or stream was announced by `expect()`."""
        match message:
            case internal.Heartbeat() | internal.Hello():
                if self._expected_stages is not None:
                    return message.stage in self._expected_stages
                return len(self.snapshot().heartbeats) <= MAX_UNEXPECTED
            case internal.Open():
                if self._expected_runs is not None:
                    return self._expected_runs.get(message.stream) == message.run
                return len(self._ledger.streams) <= MAX_UNEXPECTED
        return True

    def _open(self, identity: bytes, message: internal.Open) -> None:
        if self._ledger.open(message):
            self._observed.opened(message.stream, message.run)
            self._publish(self._info(message))
            self._resume_all(self._ledger.streams[message.stream])
        self._captures[message.stream] = identity
        self._send(identity, self._ledger.streams[message.stream].accepted())

    def _resume_all(self, stream: StreamLedger) -> None:
        for listener in self._listeners.values():
            self._send(listener, stream.resume())

    def _submit(self, identity: bytes, message: internal.Submit) -> None:
        verdict = self._ledger.submit(message)
        self._count(f"results_{verdict.value}")
        if verdict is Verdict.UNKNOWN:
            return
        stream = self._ledger.streams[message.stream]
        if verdict in (Verdict.OUT_OF_ORDER, Verdict.OTHER_BUNDLE, Verdict.FORGOTTEN):
            self._send(identity, stream.resume())
            return
        if verdict is Verdict.ACCEPTED:
            self._observed.accepted(message.stream)
            for result in message.messages:
                result = completed(result, message.captured)
                self._unread.append(result)
                self._publish(result)
        self._acceptances.add(identity, stream)

    def _heartbeat(self, identity: bytes, message: internal.Heartbeat) -> None:
        stage_changed, sources_changed = self._observed.heartbeat(message)
        if stage_changed or sources_changed:
            self._health_wanted = True
        if stage_changed:
            self.stage_changed()
        if self._listeners.get(message.stage, identity) != identity:
            # The stage has connected anew: `Resume` goes to the new connection from now on.
            self._listeners[message.stage] = identity
            for stream in self._ledger.streams.values():
                self._send(identity, stream.resume())

    def _send(self, identity: bytes, message: codec.Message) -> None:
        try:
            self._stages.send_multipart([identity, internal.encode(message)], zmq.DONTWAIT)
        except zmq.Again:
            # The stage has stopped reading; it asks again when it comes back.
            self._count("hub_unsent")

    def _count(self, name: str, number: int = 1) -> int:
        return self._observed.count(name, number) if number else 0

"""The infer stage: windows from features, submissions to the hub, checkpoints from the hub.

infer pulls. It sends features a `Credit` with the next window and a limit, and starts a new
`session` after any loss. So features, infer and the hub may each be killed at any moment: infer
never requests a window that the hub has accepted, and requests every other window until the hub
accepts it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import zmq

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.security.curve import CurveClientKeys
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire import codec, internal
from speech_emotion.common.wire.link import Link
from speech_emotion.common.wire.sockets import connect, drain, send
from speech_emotion.infer.classify import submission
from speech_emotion.infer.model import Model
from speech_emotion.infer.session import CREDIT_S, CREDIT_WINDOWS, IN_FLIGHT, Session

log = logging.getLogger("infer")

REPEAT_S = 0.2
"""Interval in seconds at which is checked what has to be repeated while the hub owes an answer."""
CHECK_S = 0.5
"""The same while it owes none."""
STALLED_S = 2.0
"""Time without an acknowledgement after which the checkpoint is requested from the hub."""


class InferService:
    """The loop of the stage. All state of a stream is in its `Session`.

    Args:
        models: loaded bundles and models by bundle id; the hub names the bundle to use.
        features: endpoint of features, or the endpoint for each of this worker's streams.
        known: further bundles, for utterances that began with them.
        client_keys: CURVE keys, if hub and features are across a network.
        context: context of a host that serves several boxes. None creates one.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[Bundle, Model]],
        hub: str,
        features: str | dict[str, str],
        stage: str = "infer",
        *,
        known: Iterable[Bundle] = (),
        client_keys: CurveClientKeys | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self._models = models
        self._known = {bundle.id: bundle for bundle in known}
        self._known |= {name: bundle for name, (bundle, _) in models.items()}
        self._own_context = zmq.Context() if context is None else None
        context = context or self._own_context
        assert context is not None
        self._hub = connect(context, hub, "hub", client_keys)
        endpoints = [features] if isinstance(features, str) else sorted(set(features.values()))
        workers = {end: Link(context, end, "features", client_keys) for end in endpoints}
        self._workers = list(workers.values())
        # This worker's streams and their features worker. None: all streams, one worker.
        self._worker_of = (
            None
            if isinstance(features, str)
            else {stream: workers[end] for stream, end in features.items()}
        )
        # The monotonic clocks of two machines cannot be compared.
        self._knows_lag = client_keys is None
        self._heartbeat = HeartbeatSender(stage, self._hub)
        self._sessions: dict[str, Session] = {}
        self._requested: dict[str, float] = {}
        self._repeat_due = 0.0
        self._last_from_hub = -math.inf
        self._missing_bundle = ""

    def run(self, stop: StopRequest) -> int:
        """Serve until a stop is requested."""
        poller = zmq.Poller()
        for socket in self.begin():
            poller.register(socket, zmq.POLLIN)
        poller.register(stop, zmq.POLLIN)
        while not stop.requested:
            wait_s = min(self._heartbeat.wait_s, max(0.0, self._repeat_due - time.monotonic()))
            self.turn(dict(poller.poll(math.ceil(1000.0 * wait_s))))
        self.end()
        return 0

    def begin(self) -> list[zmq.Socket[bytes]]:
        """Report ready and request all streams. Returns the sockets to poll."""
        self._heartbeat.state = "ready"
        self._heartbeat.beat(now=True)
        for bundle, model in self._models.values():
            log.info("ready: bundle %s on %s", bundle.id, model.runtime)
        self._request("")
        events = [link.events for link in self._workers]
        return [self._hub, *events, *(link.socket for link in self._workers)]

    def turn(self, ready: Mapping[Any, int]) -> None:
        """Handle the messages of the sockets in `ready`, then send what is due."""
        # The hub first: an acceptance frees credit, a resume invalidates windows.
        for socket in (self._hub, *(link.socket for link in self._workers)):
            if socket in ready:
                self._receive(socket)
        for link in self._workers:
            if link.events in ready and link.renewed():
                self._introduce(link)
        self._repeat()
        self._heartbeat.beat()

    def end(self) -> None:
        """Close the sockets after sending what is queued, for at most 0.2 s."""
        self._hub.close(linger=200)
        for link in self._workers:
            link.close(200)
        if self._own_context is not None:
            self._own_context.term()

    @property
    def hub_silent_s(self) -> float:
        """Seconds since the last message from the hub."""
        return time.monotonic() - self._last_from_hub

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        for frames in drain(socket, 2 * IN_FLIGHT):
            if socket is self._hub:
                self._last_from_hub = time.monotonic()
            try:
                if len(frames) != 1:
                    raise codec.ProtocolError(f"{len(frames)} frames instead of 1")
                self._handle(internal.decode(frames[0]))
            except codec.ProtocolError as error:
                self._heartbeat.counters["infer_malformed"] += 1
                if self._heartbeat.counters["infer_malformed"] % 100 == 1:
                    log.warning("refused a message: %s", error)

    def _handle(self, message: codec.Message) -> None:
        match message:
            case internal.Window():
                self._window(message)
            case internal.Accepted():
                self._accepted(message)
            case internal.AcceptedTogether():
                for accepted in message.streams:
                    self._accepted(accepted)
            case internal.Resume():
                self._resume(message)
            case internal.SentUpTo():
                session = self._sessions.get(message.stream)
                if session and session.id == message.session and message.next > session.expected:
                    # features sent all windows below `next` before this message.
                    self._lost(session.stream)
            case _:
                self._heartbeat.counters["infer_malformed"] += 1

    def _resume(self, message: internal.Resume) -> None:
        self._requested.pop(message.stream, None)
        self._requested.pop("", None)
        if self._worker_of is not None and message.stream not in self._worker_of:
            return  # of another worker
        if message.bundle not in self._models:
            self._refuse(message)
            return
        current = self._sessions.get(message.stream)
        if current is not None and current.idle and current.matches(message):
            return  # a repeated message
        bundle, _ = self._models[message.bundle]
        checkpoint_bundle = self._known.get(message.checkpoint_bundle)
        if (
            checkpoint_bundle is None
            and message.checkpoint_bundle
            and message.decision.get("speaking")
        ):
            self._heartbeat.counters["infer_utterances_cut"] += 1
        session = Session.resume(message, bundle, checkpoint_bundle)
        self._sessions[message.stream] = session
        if not session.ended:
            self._send_credit(session)

    def _refuse(self, message: internal.Resume) -> None:
        """Request a stream again later: its bundle is not loaded, but a swap may change that."""
        self._heartbeat.counters["infer_bundle_missing"] += 1
        self._sessions.pop(message.stream, None)
        self._requested[message.stream] = time.monotonic()
        if self._missing_bundle != message.bundle:
            self._missing_bundle = message.bundle
            log.warning(
                "bundle %s is requested and not loaded; loaded: %s",
                message.bundle,
                ", ".join(self._models),
            )

    def _accepted(self, message: internal.Accepted) -> None:
        session = self._sessions.get(message.stream)
        if session is None or session.run != message.run or message.next < session.accepted:
            return
        if message.next > session.accepted:
            session.gate = session.gates.get(message.next, session.gate)
            session.gates = {k: g for k, g in session.gates.items() if k > message.next}
        session.accepted, session.ended = message.next, message.ended
        session.progress = time.monotonic()
        if not session.ended and session.accepted - session.credited >= CREDIT_WINDOWS:
            self._send_credit(session)

    def _window(self, window: internal.Window) -> None:
        session = self._sessions.get(window.stream)
        if session is None or (session.id, session.bundle.id) != (window.session, window.bundle):
            self._heartbeat.counters["infer_stale_windows"] += 1
            return
        if window.seq != session.expected:
            self._lost(session.stream)
            return
        bundle, model = self._models[session.bundle.id]
        submit, session.state = submission(window, session.state, model, bundle)
        utterances = [*session.pending_utterances, *submit.utterances]
        submit = dataclasses.replace(submit, utterances=utterances, forgets=session.forgets)
        session.pending_utterances = []
        if session.idle:
            session.progress = time.monotonic()
        session.expected = window.next_seq
        session.gates[session.expected] = window.gate
        self._heartbeat.count += 1
        if self._knows_lag:
            self._heartbeat.lag_ms = (time.monotonic() - window.captured) * 1000.0
        send(self._hub, submit)

    def _repeat(self) -> None:
        now = time.monotonic()
        if now < self._repeat_due:
            return
        self._repeat_due = now + (REPEAT_S if self._requested else CHECK_S)
        if now - max(self._last_from_hub, self._requested.get("", 0.0)) > STALLED_S:
            self._request("")  # a restarted hub does not know this process
        for stream, requested in list(self._requested.items()):
            if now - requested > STALLED_S:
                self._request(stream)
        for session in list(self._sessions.values()):
            if session.ended:
                continue
            if session.expected > session.accepted and now - session.progress > STALLED_S:
                self._lost(session.stream)
            elif now >= session.credit_due:
                self._send_credit(session)

    def _introduce(self, link: Link) -> None:
        """Send the credits that a restarted features process has to know."""
        for session in self._sessions.values():
            if not session.ended and self._link_of(session.stream) is link:
                self._send_credit(session)

    def _link_of(self, stream: str) -> Link:
        if self._worker_of is None:
            (link,) = self._workers
            return link
        return self._worker_of[stream]

    def _send_credit(self, session: Session) -> None:
        if self._link_of(session.stream).send(session.credit()):
            session.credited = session.accepted
            session.credit_due = time.monotonic() + CREDIT_S

    def _lost(self, stream: str) -> None:
        """A window is missing or not acknowledged: continue at the checkpoint of the hub."""
        self._heartbeat.counters["infer_resumed"] += 1
        log.warning(
            "stream %s: a window is missing or was not acknowledged for %g s; "
            "continuing at the checkpoint of the hub",
            stream,
            STALLED_S,
        )
        del self._sessions[stream]
        self._request(stream)

    def _request(self, stream: str) -> None:
        """Request the checkpoint of a stream from the hub; empty: of all streams."""
        sent = send(self._hub, internal.Hello(self._heartbeat.stage, stream))
        # Before the hub is connected, repeat soon.
        self._requested[stream] = time.monotonic() - (0.0 if sent else STALLED_S - REPEAT_S)

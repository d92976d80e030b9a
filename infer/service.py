"""infer as a process: windows from features, results to the hub, checkpoints back.

infer is the end that asks. It says to features `Credit(next, limit)`, and a new `session`
where it lost the thread, so that either side, or the hub, may die at any moment: what is
accepted is never asked for again, and what is not accepted is asked for until it is.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any

import zmq

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.security.curve import CurveClientKeys
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire import codec, internal, public
from speech_emotion.common.wire.sockets import connect, send
from speech_emotion.infer.decision import State, calibrate, decide, finish, speech_of
from speech_emotion.infer.model import Array, Model

log = logging.getLogger("infer")

POLL_MS = 100
IN_FLIGHT = 16
"""Windows that features may have sent and the hub not yet accepted, per stream."""
REPEAT_S = 0.2
"""An unanswered `Credit` is repeated so often."""
STALLED_S = 2.0
"""Results unacknowledged for so long are taken for lost."""


@dataclasses.dataclass
class Session:
    """One stream between two restarts of anything: what was accepted, what comes next.

    Attributes:
        pending_utterances: utterances that a bundle swap has ended; sent with the next
            result.
    """

    stream: str
    run: str
    bundle: Bundle
    accepted: int
    gate: list[float]
    state: State
    ended: bool
    pending_utterances: list[public.Utterance] = dataclasses.field(default_factory=list)
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    expected: int = 0
    gates: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    progress: float = dataclasses.field(default_factory=time.monotonic)

    @classmethod
    def of(cls, resume: internal.Resume, bundle: Bundle, before: Bundle | None = None) -> Session:
        """Go on from a checkpoint with `bundle`.

        Args:
            before: the bundle that made the checkpoint, where it is another one. For decisions
                an exchange is what a gap is: smoothing starts anew, the utterance ends.
        """
        state, pending_utterances = State.from_map(resume.decision), []
        if resume.checkpoint_bundle not in ("", bundle.id):
            pending_utterances = finish(state, resume, before) if before is not None else []
            state = State()
        return cls(
            stream=resume.stream,
            run=resume.run,
            bundle=bundle,
            accepted=resume.next,
            gate=resume.gate,
            state=state,
            ended=resume.ended,
            pending_utterances=pending_utterances,
            expected=resume.next,
        )

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way to the hub."""
        return self.expected == self.accepted

    def want(self) -> internal.Credit:
        limit = self.accepted + IN_FLIGHT
        return internal.Credit(
            self.stream, self.run, self.id, self.accepted, limit, self.gate, self.bundle.id
        )


def submission(
    window: internal.Window, state: State, model: Model, bundle: Bundle, *, timed: bool = True
) -> tuple[internal.Submit, State]:
    """What the hub is told of one window, and the state behind it. Pure but for the clock.

    Args:
        timed: whether the result says what it took; offline it does not.
    """
    began = time.perf_counter()
    if window.kind == "end":
        result, utterances, state = None, finish(state, window, bundle), State()
    else:
        probabilities, speech = None, 1.0
        if window.kind == "speech":
            output = model.predict(_matrix(window, bundle))
            probabilities, speech = calibrate(output, bundle), speech_of(output, bundle)
        result, utterances, state = decide(state, window, probabilities, bundle, speech)
        if timed:
            milliseconds = (time.perf_counter() - began) * 1000.0
            timing = {"features": window.features_ms, "infer": milliseconds}
            result = dataclasses.replace(result, timing_ms=timing)
    submit = internal.Submit(
        stream=window.stream,
        run=window.run,
        seq=window.seq,
        result=result,
        utterances=utterances,
        ended=window.kind == "end",
        gate=window.gate,
        decision=state.to_map(),
        captured=window.captured,
        bundle=bundle.id,
    )
    return submit, state


def _matrix(window: internal.Window, bundle: Bundle) -> Array:
    import numpy as np

    shape = (bundle.spec.n_frames, bundle.spec.dims)
    if window.features is None or len(window.features) != 4 * shape[0] * shape[1]:
        raise codec.ProtocolError(f"window {window.seq} without features of shape {shape}")
    return np.frombuffer(window.features, dtype="<f4").reshape(shape)


class InferService:
    """The loop of the stage; everything it knows of a stream is in its `Session`.

    Args:
        models: what can be served, by the bundle's id; the hub says which one is in force.
        features: where features listens, or for each of this worker's streams where its does.
        known: further bundles, for utterances that began under them.
        client_keys: keys, where hub and features are across a network.
        context: that of a host that serves several boxes; None: an own one.
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
        self._own = zmq.Context() if context is None else None
        context = context or self._own
        assert context is not None
        self._hub = connect(context, hub, "hub", client_keys)
        endpoints = [features] if isinstance(features, str) else sorted(set(features.values()))
        workers = {end: connect(context, end, "features", client_keys) for end in endpoints}
        self._workers = list(workers.values())
        # The streams that are ours, and who makes their features; None: all are, by one.
        self._worker_of = (
            None
            if isinstance(features, str)
            else {stream: workers[end] for stream, end in features.items()}
        )
        # Across a network the clocks of both machines have nothing to do with each other.
        self._knows_lag = client_keys is None
        self._heartbeat = HeartbeatSender(stage, self._hub)
        self._sessions: dict[str, Session] = {}
        self._asked: dict[str, float] = {}
        self._repeat_due = 0.0
        self._heard = -math.inf
        self._refused = ""

    def run(self, stop: StopRequest) -> int:
        """Serve until told to stop."""
        poller = zmq.Poller()
        for socket in self.begin():
            poller.register(socket, zmq.POLLIN)
        while not stop.requested:
            self.turn(dict(poller.poll(POLL_MS)))
        self.end()
        return 0

    def begin(self) -> list[zmq.Socket[bytes]]:
        """Say ready and ask for work; the sockets to poll."""
        self._heartbeat.state = "ready"
        self._heartbeat.beat(now=True)
        for bundle, model in self._models.values():
            log.info("ready: bundle %s on %s", bundle.id, model.runtime)
        self._ask("")
        return [self._hub, *self._workers]

    def turn(self, ready: Mapping[Any, int]) -> None:
        """Do what there is to do."""
        # The hub first: an acceptance frees credit, a resume makes windows void.
        for socket in (self._hub, *self._workers):
            if socket in ready:
                self._receive(socket)
        self._repeat()
        self._heartbeat.beat()

    def end(self) -> None:
        """Let what is on its way go out, and close."""
        for socket in (self._hub, *self._workers):
            socket.close(linger=200)
        if self._own is not None:
            self._own.term()

    @property
    def heard_s(self) -> float:
        """Seconds since the hub last said anything."""
        return time.monotonic() - self._heard

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(2 * IN_FLIGHT):
            try:
                frame = socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            if socket is self._hub:
                self._heard = time.monotonic()
            try:
                self._handle(internal.decode(frame))
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
            case internal.Resume():
                self._resume(message)
            case internal.SentUpTo():
                session = self._sessions.get(message.stream)
                if session and session.id == message.session and message.next > session.expected:
                    # Everything below `next` was sent before this; what is missing is lost.
                    self._lost(session.stream)
            case _:
                self._heartbeat.counters["infer_malformed"] += 1

    def _resume(self, message: internal.Resume) -> None:
        self._asked.pop(message.stream, None)
        self._asked.pop("", None)
        if self._worker_of is not None and message.stream not in self._worker_of:
            return  # another worker's
        if message.bundle not in self._models:
            self._refuse(message)
            return
        before = self._sessions.get(message.stream)
        if before is not None and before.idle and _stands(before, message):
            return  # we have only heard it again
        bundle, _ = self._models[message.bundle]
        checkpoint_bundle = self._known.get(message.checkpoint_bundle)
        if (
            checkpoint_bundle is None
            and message.checkpoint_bundle
            and message.decision.get("speaking")
        ):
            self._heartbeat.counters["infer_utterances_cut"] += 1
        session = Session.of(message, bundle, checkpoint_bundle)
        self._sessions[message.stream] = session
        if not session.ended:
            self._want(session)

    def _refuse(self, message: internal.Resume) -> None:
        """A bundle that is not here: ask again, somebody may change that on either side."""
        self._heartbeat.counters["infer_bundle_missing"] += 1
        self._sessions.pop(message.stream, None)
        self._asked[message.stream] = time.monotonic()
        if self._refused != message.bundle:
            self._refused = message.bundle
            log.warning(
                "bundle %s is wanted and not here; there is %s",
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
        if not session.ended:
            self._want(session)

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
        if session.pending_utterances:
            submit = dataclasses.replace(
                submit, utterances=[*session.pending_utterances, *submit.utterances]
            )
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
        self._repeat_due = now + REPEAT_S
        if now - max(self._heard, self._asked.get("", 0.0)) > STALLED_S:
            self._ask("")  # a hub that has started anew does not know us
        for stream, asked in list(self._asked.items()):
            if now - asked > STALLED_S:
                self._ask(stream)
        for session in list(self._sessions.values()):
            if session.ended:
                continue
            if session.expected > session.accepted and now - session.progress > STALLED_S:
                self._lost(session.stream)
            else:
                self._want(session)

    def _want(self, session: Session) -> None:
        if self._worker_of is None:
            (worker,) = self._workers
        else:
            worker = self._worker_of[session.stream]
        send(worker, session.want())

    def _lost(self, stream: str) -> None:
        """Something between features and hub is gone: ask the hub where to go on."""
        self._heartbeat.counters["infer_resumed"] += 1
        log.warning("stream %s: a message was lost, going on from the last checkpoint", stream)
        del self._sessions[stream]
        self._ask(stream)

    def _ask(self, stream: str) -> None:
        asked = send(self._hub, internal.Hello(self._heartbeat.stage, stream))
        # Where nobody is connected yet it is tried again soon.
        self._asked[stream] = time.monotonic() - (0.0 if asked else STALLED_S - REPEAT_S)


def _stands(session: Session, resume: internal.Resume) -> bool:
    """Whether a session is just where the hub says that its stream stands."""
    return (session.run, session.bundle.id, session.accepted, session.ended) == (
        resume.run,
        resume.bundle,
        resume.next,
        resume.ended,
    )

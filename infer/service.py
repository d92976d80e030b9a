"""infer as a process: windows from features, results to the hub, checkpoints back.

infer is the end that asks. It says to features `Want(next, limit)`, and a new `session`
where it lost the thread, so that either side, or the hub, may die at any moment: what is
accepted is never asked for again, and what is not accepted is asked for until it is.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time

import zmq

from common import messages as m
from common.bundle import Bundle
from common.sockets import connect, send
from common.stage import Heart, Stop
from infer.decision import State, calibrate, decide, finish, speech_of
from infer.model import Array, Model

log = logging.getLogger("infer")

POLL_MS = 100
IN_FLIGHT = 16
"""Windows that features may have sent and the hub not yet accepted, per stream."""
REPEAT_S = 0.2
"""An unanswered `Want` is repeated so often."""
STALLED_S = 2.0
"""Results unacknowledged for so long are taken for lost."""


@dataclasses.dataclass
class Session:
    """One stream between two restarts of anything: what was accepted, what comes next."""

    stream: str
    run: str
    accepted: int
    gate: list[float]
    state: State
    ended: bool
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    expected: int = 0
    gates: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    progress: float = dataclasses.field(default_factory=time.monotonic)

    @classmethod
    def of(cls, resume: m.Resume) -> Session:
        return cls(
            stream=resume.stream,
            run=resume.run,
            accepted=resume.next,
            gate=resume.gate,
            state=State.from_map(resume.decision),
            ended=resume.ended,
            expected=resume.next,
        )

    def want(self) -> m.Want:
        limit = self.accepted + IN_FLIGHT
        return m.Want(self.stream, self.run, self.id, self.accepted, limit, self.gate)


def submission(
    window: m.Window, state: State, model: Model, bundle: Bundle, *, timed: bool = True
) -> tuple[m.Submit, State]:
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
    submit = m.Submit(
        stream=window.stream,
        run=window.run,
        seq=window.seq,
        result=result,
        utterances=utterances,
        ended=window.kind == "end",
        gate=window.gate,
        decision=state.to_map(),
        captured=window.captured,
    )
    return submit, state


def _matrix(window: m.Window, bundle: Bundle) -> Array:
    import numpy as np

    shape = (bundle.spec.n_frames, bundle.spec.dims)
    if window.features is None or len(window.features) != 4 * shape[0] * shape[1]:
        raise m.ProtocolError(f"window {window.seq} without features of shape {shape}")
    return np.frombuffer(window.features, dtype="<f4").reshape(shape)


class InferService:
    """The loop of the stage; everything it knows of a stream is in its `Session`.

    Args:
        features: where features listens, or for each of this worker's streams where its does.
    """

    def __init__(
        self,
        bundle: Bundle,
        model: Model,
        hub: str,
        features: str | dict[str, str],
        stage: str = "infer",
    ) -> None:
        self._bundle = bundle
        self._model = model
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._hub = connect(self._context, hub, "hub")
        endpoints = [features] if isinstance(features, str) else sorted(set(features.values()))
        workers = {end: connect(self._context, end, "features") for end in endpoints}
        self._workers = list(workers.values())
        # The streams that are ours, and who makes their features; None: all are, by one.
        self._worker_of = (
            None
            if isinstance(features, str)
            else {stream: workers[end] for stream, end in features.items()}
        )
        self._heart = Heart(stage, self._hub)
        self._sessions: dict[str, Session] = {}
        self._asked: dict[str, float] = {}
        self._repeat_due = 0.0

    def run(self, stop: Stop) -> int:
        """Serve until told to stop."""
        poller = zmq.Poller()
        poller.register(self._hub, zmq.POLLIN)
        for worker in self._workers:
            poller.register(worker, zmq.POLLIN)
        self._heart.state = "ready"
        self._heart.beat(now=True)
        log.info("ready: bundle %s on %s", self._bundle.id, self._model.runtime)
        self._ask("")
        while not stop.requested:
            ready = dict(poller.poll(POLL_MS))
            # The hub first: an acceptance frees credit, a resume makes windows void.
            for socket in (self._hub, *self._workers):
                if socket in ready:
                    self._receive(socket)
            self._repeat()
            self._heart.beat()
        self._context.destroy(linger=200)
        return 0

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(2 * IN_FLIGHT):
            try:
                frame = socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                self._handle(m.decode(frame))
            except m.ProtocolError as error:
                self._heart.counters["infer_malformed"] += 1
                if self._heart.counters["infer_malformed"] % 100 == 1:
                    log.warning("refused a message: %s", error)

    def _handle(self, message: m.Message) -> None:
        match message:
            case m.Window():
                self._window(message)
            case m.Accepted():
                self._accepted(message)
            case m.Resume():
                self._resume(message)
            case m.Sent():
                session = self._sessions.get(message.stream)
                if session and session.id == message.session and message.next > session.expected:
                    # Everything below `next` was sent before this; what is missing is lost.
                    self._lost(session.stream)
            case _:
                self._heart.counters["infer_malformed"] += 1

    def _resume(self, message: m.Resume) -> None:
        self._asked.pop(message.stream, None)
        self._asked.pop("", None)
        if self._worker_of is not None and message.stream not in self._worker_of:
            return  # another worker's
        session = self._sessions[message.stream] = Session.of(message)
        if not session.ended:
            self._want(session)

    def _accepted(self, message: m.Accepted) -> None:
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

    def _window(self, window: m.Window) -> None:
        session = self._sessions.get(window.stream)
        if session is None or session.id != window.session:
            self._heart.counters["infer_stale_windows"] += 1
            return
        if window.seq != session.expected:
            self._lost(session.stream)
            return
        submit, session.state = submission(window, session.state, self._model, self._bundle)
        if session.expected == session.accepted:
            session.progress = time.monotonic()
        session.expected = window.next_seq
        session.gates[session.expected] = window.gate
        self._heart.count += 1
        self._heart.lag_ms = (time.monotonic() - window.captured) * 1000.0
        send(self._hub, submit)

    def _repeat(self) -> None:
        now = time.monotonic()
        if now < self._repeat_due:
            return
        self._repeat_due = now + REPEAT_S
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
        self._heart.counters["infer_resumed"] += 1
        log.warning("stream %s: a message was lost, going on from the last checkpoint", stream)
        del self._sessions[stream]
        self._ask(stream)

    def _ask(self, stream: str) -> None:
        self._asked[stream] = time.monotonic()
        send(self._hub, m.Hello(self._heart.stage, stream))

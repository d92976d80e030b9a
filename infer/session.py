"""The state of one stream in infer between two checkpoints."""

from __future__ import annotations

import dataclasses
import secrets
import time

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.wire import internal, public
from speech_emotion.infer.baseline import BaselineState
from speech_emotion.infer.decision import State, finish

IN_FLIGHT = 16
"""Windows per stream that features may send before the hub accepts them."""
CREDIT_WINDOWS = 4
"""Windows that are accepted between two credits: features still has three quarters of its limit."""
CREDIT_S = 1.0
"""Seconds after which a credit is repeated, in case that it or its windows were lost."""


@dataclasses.dataclass
class Session:
    """One stream from a resume to the next: accepted windows, expected window, decision state.

    Attributes:
        accepted: windows below this one are accepted by the hub.
        expected: next window from features.
        gate: state of the voice gate before window `accepted`.
        gates: state of the voice gate before each later window.
        state: decision state after window `expected` - 1.
        forgets: how often the baseline was forgotten before.
        pending_utterances: utterances that a bundle swap ended, to be sent with the next result.
        progress: CLOCK_MONOTONIC when the hub last accepted a window, or when it had none to
            accept.
        credited: `accepted` of the newest credit that was sent.
        credit_due: CLOCK_MONOTONIC when the next one is sent at the latest.
    """

    stream: str
    run: str
    bundle: Bundle
    accepted: int
    gate: list[float]
    state: State
    ended: bool
    forgets: int = 0
    pending_utterances: list[public.Utterance] = dataclasses.field(default_factory=list)
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    expected: int = 0
    gates: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    progress: float = dataclasses.field(default_factory=time.monotonic)
    credited: int = -1
    credit_due: float = 0.0

    @classmethod
    def resume(
        cls, resume: internal.Resume, bundle: Bundle, previous: Bundle | None = None
    ) -> Session:
        """Resume from a checkpoint with `bundle`.

        Args:
            previous: the bundle that made the checkpoint, if it is another one and known. For
                decisions a bundle swap acts like a gap: smoothing restarts, the utterance ends.
                The baseline restarts, too: scores of two models cannot be compared.
        """
        state, pending_utterances = State.from_map(resume.decision), []
        if resume.checkpoint_bundle not in ("", bundle.id):
            pending_utterances = finish(state, resume, previous) if previous is not None else []
            state = State(forgotten=state.forgotten)
        if not resume.baseline or bundle.baseline is None:
            state = dataclasses.replace(state, baseline=None)
        elif state.baseline is None:
            empty = BaselineState.empty(len(bundle.labels))
            state = dataclasses.replace(state, baseline=empty)
        return cls(
            stream=resume.stream,
            run=resume.run,
            bundle=bundle,
            accepted=resume.next,
            gate=resume.gate,
            state=state,
            ended=resume.ended,
            forgets=resume.forgets,
            pending_utterances=pending_utterances,
            expected=resume.next,
        )

    @property
    def idle(self) -> bool:
        """Whether the hub has accepted every window that was submitted."""
        return self.expected == self.accepted

    def credit(self) -> internal.Credit:
        """The credit for features: the next window to accept and the limit."""
        limit = self.accepted + IN_FLIGHT
        return internal.Credit(
            self.stream, self.run, self.id, self.accepted, limit, self.gate, self.bundle.id
        )

    def matches(self, resume: internal.Resume) -> bool:
        """Whether this session is exactly at the checkpoint of `resume`."""
        return (self.run, self.bundle.id, self.accepted, self.ended, self.forgets) == (
            resume.run,
            resume.bundle,
            resume.next,
            resume.ended,
            resume.forgets,
        )

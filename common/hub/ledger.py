"""Exactly-once acceptance of results: pure bookkeeping, no sockets and no clock."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from speech_emotion.common.wire import internal


class Verdict(enum.Enum):
    """What became of a submitted result."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"
    UNKNOWN = "unknown"
    OTHER_BUNDLE = "other_bundle"
    FORGOTTEN = "forgotten"


@dataclasses.dataclass
class StreamLedger:
    """Where one stream stands: the next `seq` and the checkpoint to go on from.

    Attributes:
        bundle: id of the bundle to go on with.
        checkpoint_bundle: id of the bundle behind the checkpoint; empty at the start.
        baseline: infer keeps a baseline of the stream.
        forgets: how often the baseline was forgotten.
    """

    opened: internal.Open
    bundle: str = ""
    baseline: bool = False
    checkpoint_bundle: str = ""
    forgets: int = 0
    next: int = 0
    ended: bool = False
    gate: list[float] = dataclasses.field(default_factory=list)
    decision: dict[str, Any] = dataclasses.field(default_factory=dict)

    def resume(self) -> internal.Resume:
        return internal.Resume(
            stream=self.opened.stream,
            run=self.opened.run,
            next=self.next,
            ended=self.ended,
            gate=self.gate,
            decision=self.decision,
            bundle=self.bundle,
            checkpoint_bundle=self.checkpoint_bundle,
            baseline=self.baseline,
            forgets=self.forgets,
        )

    def forget_baseline(self) -> None:
        """Remove the baseline from the checkpoint; the next result declares it."""
        self.forgets += 1
        self.decision = {**self.decision, "baseline": None, "forgotten": True}

    def accepted(self) -> internal.Accepted:
        return internal.Accepted(self.opened.stream, self.opened.run, self.next, self.ended)


class Ledger:
    """Exactly-once acceptance: pure bookkeeping, no sockets and no clock.

    Args:
        bundle: id of the bundle in force; results of another are not accepted.
        baseline: infer keeps a baseline of each stream.
    """

    def __init__(self, bundle: str = "", *, baseline: bool = False) -> None:
        self.bundle = bundle
        self._baseline = baseline
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

    def forget_baseline(self, name: str | None) -> dict[str, int]:
        """Forget the baseline of a stream, or of all; stream → its next window, if it goes on."""
        going = {n: s for n, s in self.streams.items() if name in (None, n) and not s.ended}
        for stream in going.values():
            stream.forget_baseline()
        return {name: stream.next for name, stream in going.items()}

    def open(self, message: internal.Open) -> bool:
        """Register a stream; a new `run` starts it anew, at `next`. True if anything changed."""
        known = self.streams.get(message.stream)
        if known is not None and known.opened.run == message.run:
            return False
        self.streams[message.stream] = StreamLedger(
            message, self.bundle, self._baseline, next=max(0, message.next)
        )
        return True

    def submit(self, message: internal.Submit) -> Verdict:
        """Accept the result of the next window, and nothing else."""
        stream = self.streams.get(message.stream)
        if stream is None or stream.opened.run != message.run:
            return Verdict.UNKNOWN
        if message.bundle != self.bundle:
            return Verdict.OTHER_BUNDLE
        if message.forgets != stream.forgets:
            return Verdict.FORGOTTEN
        if stream.ended or message.seq < stream.next:
            return Verdict.DUPLICATE
        if message.seq > stream.next:
            return Verdict.OUT_OF_ORDER
        stream.next = message.seq if message.result is None else message.result.next_seq
        stream.ended = message.ended
        stream.gate = message.gate
        stream.decision = message.decision
        stream.checkpoint_bundle = message.bundle
        return Verdict.ACCEPTED

"""Which acceptances are sent when: each costs the hub and infer a wake-up."""

from __future__ import annotations

import time
from collections.abc import Callable

from speech_emotion.common.hub.ledger import StreamLedger
from speech_emotion.common.wire import codec, internal

TOGETHER_S = 0.25
"""Longest time in seconds for which the acceptances of live streams are collected."""
WINDOWS = 4
"""Accepted windows of a stream after which infer gets the acceptance at once: it may send 16."""

Send = Callable[[bytes, codec.Message], None]


class Acceptances:
    """Answers what was submitted: a source that waits at once, live streams together.

    Args:
        send: sends a message to the stage with an identity.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._submitted: dict[str, tuple[bytes, StreamLedger]] = {}
        self._sent: dict[str, int] = {}
        self._due = 0.0

    def add(self, identity: bytes, stream: StreamLedger) -> None:
        """A stage has submitted a window of a stream."""
        if not self._submitted:
            self._due = time.monotonic() + TOGETHER_S
        name = stream.opened.stream
        self._submitted[name] = identity, stream
        if stream.opened.waits or stream.ended or stream.next - self._sent.get(name, 0) >= WINDOWS:
            self._due = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until `turn` has something to send, at most a second."""
        return max(0.0, self._due - now) if self._submitted else 1.0

    def turn(self, captures: dict[str, bytes]) -> None:
        """Send what is due: one message for each stage, whatever the number of streams.

        Args:
            captures: identity of the capture process of each stream.
        """
        if not self._submitted or time.monotonic() < self._due:
            return
        answers: dict[bytes, list[internal.Accepted]] = {}
        for name, (identity, stream) in self._submitted.items():
            self._sent[name] = stream.next
            answers.setdefault(identity, []).append(stream.accepted())
            if (stream.opened.waits or stream.ended) and name in captures:
                self._send(captures[name], stream.accepted())
        self._submitted.clear()
        for identity, accepted in answers.items():
            one = len(accepted) == 1
            self._send(identity, accepted[0] if one else internal.AcceptedTogether(accepted))

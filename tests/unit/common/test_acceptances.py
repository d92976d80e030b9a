"""Acceptances: at once for a source that waits, together for live streams."""

from __future__ import annotations

import dataclasses

import pytest

from speech_emotion.common.hub import acceptances
from speech_emotion.common.hub.acceptances import TOGETHER_S, WINDOWS, Acceptances
from speech_emotion.common.hub.ledger import StreamLedger
from speech_emotion.common.wire import codec, internal
from tests.support.hub_messages import OPEN

CAPTURES = {"main": b"capture", "one": b"capture", "two": b"capture"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(acceptances, "time", one)
    return one


def stream(
    name: str, windows: int = 1, *, waits: bool = False, ended: bool = False
) -> StreamLedger:
    opened = dataclasses.replace(OPEN, stream=name, waits=waits)
    return StreamLedger(opened, next=windows, ended=ended)


class Rig:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, codec.Message]] = []
        self.answers = Acceptances(lambda identity, message: self.sent.append((identity, message)))

    def turn(self) -> list[tuple[bytes, codec.Message]]:
        self.answers.turn(CAPTURES)
        sent, self.sent = self.sent, []
        return sent


def test_a_source_that_waits_is_answered_at_once(clock: Clock) -> None:  # noqa: ARG001
    rig = Rig()
    rig.answers.add(b"infer", stream("main", waits=True))
    accepted = internal.Accepted("main", OPEN.run, 1, False)
    assert rig.turn() == [(b"capture", accepted), (b"infer", accepted)]
    assert rig.turn() == []


def test_live_streams_are_answered_together_and_their_capture_only_at_the_end(
    clock: Clock,
) -> None:
    rig = Rig()
    rig.answers.add(b"infer", stream("one"))
    rig.answers.add(b"infer", stream("two", 3))
    assert rig.turn() == []
    assert rig.answers.wait_s(clock.now) == pytest.approx(TOGETHER_S)
    clock.now += TOGETHER_S
    (sent,) = rig.turn()
    accepted = [
        internal.Accepted("one", OPEN.run, 1, False),
        internal.Accepted("two", OPEN.run, 3, False),
    ]
    assert sent == (b"infer", internal.AcceptedTogether(accepted))
    assert internal.decode(internal.encode(sent[1])) == sent[1]
    rig.answers.add(b"infer", stream("one", 2, ended=True))
    end = internal.Accepted("one", OPEN.run, 2, True)
    assert rig.turn() == [(b"capture", end), (b"infer", end)]


def test_infer_never_runs_out_of_credit(clock: Clock) -> None:  # noqa: ARG001
    rig = Rig()
    rig.answers.add(b"infer", stream("one", WINDOWS - 1))
    assert rig.turn() == []
    rig.answers.add(b"infer", stream("one", WINDOWS))
    assert len(rig.turn()) == 1

"""The results hub: in order, once, with the checkpoint; and its sockets."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.errors import UserError
from speech_emotion.common.hub.health import observe, stage_health
from speech_emotion.common.hub.hub import Hub
from speech_emotion.common.hub.ledger import Ledger, Verdict
from speech_emotion.common.hub.observed import Observed, Snapshot
from speech_emotion.common.hub.publisher import SUBSCRIBER_HIGH_WATER_MARK
from speech_emotion.common.wire import codec, internal, public
from tests.support.hub_messages import OPEN, submit
from tests.support.hub_rig import Rig
from tests.support.pipelines import (
    PATIENCE_MS,
    PATIENCE_S,
    Subscriber,
    fresh_endpoint,
    wait_until,
)


@given(st.lists(st.integers(0, 12), max_size=120))
def test_any_order_of_submits_is_accepted_in_order_and_once(seqs: list[int]) -> None:
    ledger = Ledger()
    assert ledger.open(OPEN)
    accepted = [seq for seq in seqs if ledger.submit(submit(seq)) is Verdict.ACCEPTED]
    assert accepted == list(range(len(accepted)))
    stream = ledger.streams["main"]
    assert stream.next == len(accepted)
    if accepted:
        assert stream.resume() == internal.Resume(
            "main", "run", len(accepted), False, [float(accepted[-1])], {"at": accepted[-1]}
        )


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=60), st.integers(2, 4))
def test_restarts_and_long_gaps_leave_no_hole(moves: list[tuple[int, bool]], width: int) -> None:
    """Stages that die anywhere go on from the checkpoint; what they sent arrives again, late."""
    ledger = Ledger()
    ledger.open(OPEN)
    covered: list[int] = []
    sent: list[internal.Submit] = []
    for chance, gap in moves:
        start = ledger.streams["main"].resume()  # restarted
        for seq in range(start.next, start.next + 1 + chance % 3):
            skipped = width if gap and seq == start.next else 0
            sent.append(submit(seq, skipped=skipped))
            if ledger.submit(sent[-1]) is Verdict.ACCEPTED:
                covered += range(seq, seq + max(1, skipped))
                assert ledger.streams["main"].decision == {"at": seq}
        assert ledger.submit(sent[chance % len(sent)]) is Verdict.DUPLICATE
        assert ledger.submit(submit(len(covered) + 1 + chance)) is Verdict.OUT_OF_ORDER
        assert covered == list(range(ledger.streams["main"].next))


def test_the_ledger_says_why_not() -> None:
    ledger = Ledger()
    assert ledger.submit(submit(0)) is Verdict.UNKNOWN
    ledger.open(OPEN)
    assert not ledger.open(OPEN)
    assert ledger.submit(submit(1)) is Verdict.OUT_OF_ORDER
    assert ledger.submit(submit(0, run="other")) is Verdict.UNKNOWN
    assert ledger.submit(submit(0, skipped=5)) is Verdict.ACCEPTED
    assert ledger.submit(submit(4)) is Verdict.DUPLICATE
    assert ledger.submit(submit(5, ended=True)) is Verdict.ACCEPTED
    assert ledger.streams["main"].ended
    assert ledger.submit(submit(5)) is Verdict.DUPLICATE


def test_a_hub_that_was_restarted_continues_where_capture_says() -> None:
    ledger = Ledger()
    assert ledger.open(dataclasses.replace(OPEN, next=7))
    assert ledger.streams["main"].resume().next == 7
    assert ledger.submit(submit(6)) is Verdict.DUPLICATE
    assert ledger.submit(submit(7)) is Verdict.ACCEPTED
    assert not ledger.open(dataclasses.replace(OPEN, next=3))  # it knows better
    assert ledger.streams["main"].next == 8
    ledger.open(dataclasses.replace(OPEN, run="other", next=-5))
    assert ledger.streams["main"].next == 0


def test_a_new_run_starts_anew() -> None:
    ledger = Ledger()
    ledger.open(OPEN)
    ledger.submit(submit(0))
    assert ledger.open(dataclasses.replace(OPEN, run="later"))
    assert ledger.streams["main"].next == 0


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one
    one.close()
    for endpoint in (one.results, one.stages):
        assert not Path(endpoint.removeprefix("ipc://")).exists()


def listening(rig: Rig) -> Subscriber:
    """A subscriber from whom nothing is withheld any more: it has got its first message."""
    subscriber = Subscriber(rig.results)
    subscriber.wait_for(lambda received: bool(received.messages))
    return subscriber


def test_every_message_is_answered(rig: Rig) -> None:
    rig.send(OPEN)
    assert rig.answer() == internal.Accepted("main", "run", 0, False)
    rig.send(internal.Hello("infer", ""))
    assert rig.answer() == internal.Resume("main", "run", 0, False, [], {})
    rig.send(submit(0))
    # As infer and as the capture that opened the stream.
    assert [rig.answer(), rig.answer()] == [internal.Accepted("main", "run", 1, False)] * 2
    rig.send(submit(7))
    assert rig.answer() == internal.Resume("main", "run", 1, False, [0.0], {"at": 0})
    rig.send(submit(1, ended=True))
    assert [rig.answer(), rig.answer()] == [internal.Accepted("main", "run", 1, True)] * 2


def test_one_stream_may_be_asked_for(rig: Rig) -> None:
    for name in ("main", "other"):
        rig.send(dataclasses.replace(OPEN, stream=name))
        rig.answer()
    rig.send(internal.Hello("infer", "other"))
    rig.send(OPEN)
    assert rig.answer() == internal.Resume("other", "run", 0, False, [], {})
    assert rig.answer() == internal.Accepted("main", "run", 0, False)
    rig.send(internal.Hello("infer", ""))
    assert {rig.answer().stream, rig.answer().stream} == {"main", "other"}  # type: ignore


def test_a_result_says_how_long_it_took_from_its_last_sample(rig: Rig) -> None:
    subscriber = listening(rig)
    rig.send(OPEN)
    captured = time.monotonic()
    rig.send(dataclasses.replace(submit(0), captured=captured))
    subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    (result,) = subscriber.finish().fresh(public.Result)
    taken = (time.monotonic() - captured) * 1000.0
    assert 0.0 < result.timing_ms["total"] < taken
    assert result.timing_ms["features"] == result.timing_ms["infer"] == 1.0


def test_a_new_stream_is_told_to_those_who_said_hello(rig: Rig) -> None:
    rig.send(internal.Hello("infer", ""))
    rig.send(OPEN)
    assert {type(rig.answer()), type(rig.answer())} == {internal.Resume, internal.Accepted}


def test_a_change_is_published_at_once_and_not_at_the_next_second(rig: Rig) -> None:
    subscriber = listening(rig)
    changes = 10
    seen = len(subscriber.received.fresh(public.Health))
    for n in range(1, changes + 1):
        rig.hub.health_changed()
        subscriber.wait_for(lambda r, n=n: len(r.fresh(public.Health)) >= seen + n)  # type: ignore
    times = [h.time for h in subscriber.finish().fresh(public.Health)[seen:]]
    assert len(times) >= changes
    # Without a change they are a second apart, or more on a busy machine.
    assert min(b - a for a, b in itertools.pairwise(times)) < 0.9


def test_who_watches_the_stages_is_told_when_one_changes(rig: Rig) -> None:
    shown: list[str] = []
    rig.hub.stage_changed = lambda: shown.append("changed")
    beat = internal.Heartbeat("features", 1, "starting", 0, 0.0, None, 0, 0.0, 0.0, [], {})
    for state in ("starting", "starting", "ready", "ready"):
        rig.send(dataclasses.replace(beat, state=state))
    rig.send(OPEN)
    assert isinstance(rig.answer(), internal.Accepted)  # all before it have been heard
    assert shown == ["changed"] * 2


def test_an_idle_hub_ends_at_once_when_told_to(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    listening(rig)
    rig.hub._health_due = time.monotonic() + 10 * PATIENCE_S  # it has nothing to do until then
    monkeypatch.setattr(rig.hub._acceptances, "wait_s", lambda _: 10 * PATIENCE_S)
    rig.send(OPEN)
    rig.answer()
    rig.hub.stop()
    wait_until(lambda: not rig.hub.alive, "the end")


def test_invalid_messages_are_counted_and_nothing_else(rig: Rig) -> None:
    for frame in (
        b"",
        b"rubbish",
        b"\x81\xa1t\xa5Hello",
        internal.encode(internal.SentUpTo("main", "s", 1)),
    ):
        rig.stage.send(frame)
    rig.stage.send_multipart([b"a", b"b", b"c"])
    wait_until(lambda: rig.hub.snapshot().counters["hub_malformed"] == 5, "five refusals")
    rig.send(OPEN)
    assert rig.answer() == internal.Accepted("main", "run", 0, False)


@pytest.mark.parametrize("skipped", [2**53 + 1, 2**63])
def test_numbers_without_bounds_are_refused(rig: Rig, skipped: int) -> None:
    rig.send(OPEN)
    rig.answer()
    rig.send(submit(0, skipped=skipped))
    wait_until(lambda: rig.hub.snapshot().counters["hub_malformed"] == 1, "a refusal")
    rig.send(submit(0))
    assert rig.answer() == internal.Accepted("main", "run", 1, False)
    assert rig.hub.failure is None


def test_whatever_was_published_is_replayed() -> None:
    """Also what a decoder would refuse, as a reason made of a stage's endless last words."""
    words = "x" * (codec.MAX_TEXT + 1)

    def health(snapshot: Snapshot) -> public.Health:
        row = stage_health("features", None, reason=words)
        return dataclasses.replace(observe(snapshot), stages=[row])

    rig = Rig(health)
    try:
        for _ in range(2):  # the first hears it, the second has it replayed
            listener: zmq.Socket[bytes] = rig.context.socket(zmq.SUB)
            listener.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
            listener.setsockopt(zmq.SUBSCRIBE, b"health")
            listener.connect(rig.results)
            assert words.encode() in listener.recv_multipart()[1]
        assert rig.hub.failure is None
    finally:
        rig.close()


def test_a_new_subscriber_gets_the_last_values(rig: Rig) -> None:
    first = listening(rig)
    rig.send(OPEN)
    for seq in range(3):
        rig.send(submit(seq))
    first.wait_for(lambda received: len(received.fresh(public.Result)) == 3)
    late = listening(rig)
    late.wait_for(
        lambda r: {type(x) for x, replay, _ in r.messages if replay} >= {public.Result, public.Info}
    )
    replays = [
        x for x, replay, _ in late.finish().messages if replay and isinstance(x, public.Result)
    ]
    assert [result.seq for result in replays] == [2]
    seen = first.finish()
    assert [result.seq for result in seen.fresh(public.Result)] == [0, 1, 2]


def test_only_what_was_subscribed_is_replayed(rig: Rig) -> None:
    for name in ("main", "other"):
        rig.send(dataclasses.replace(OPEN, stream=name))
        rig.answer()
    eager = listening(rig)
    eager.wait_for(lambda received: len(received.messages) >= 3)
    picky: zmq.Socket[bytes] = rig.context.socket(zmq.SUB)
    picky.setsockopt(zmq.SUBSCRIBE, b"info/other")
    picky.connect(rig.results)
    assert picky.poll(PATIENCE_MS)
    replays = [x for x, replay, _ in eager.finish().messages if replay]
    # Its own subscription; the other one's replays reach it as well.
    assert [x.stream for x in replays if isinstance(x, public.Info)].count("main") == 1


@pytest.mark.parametrize("whose", ["stage", "source"])
def test_a_change_of_state_is_told_before_the_next_second(rig: Rig, whose: str) -> None:
    subscriber = listening(rig)
    rig.send(OPEN)
    for turn in range(6):
        state = ("ready", "stalled")[turn % 2]
        stage, source = (state, "live") if whose == "stage" else ("ready", state)
        status = internal.SourceStatus("main", source, None, 0.0, None, 0, None, 0.0, 0, 0)
        rig.send(internal.Heartbeat("infer", 1, stage, turn, 0.0, None, 0, 0.0, 0.0, [status], {}))
        wait_until(functools.partial(shows, subscriber, (stage, source)), "the new state")
    times = [h.time for h in subscriber.finish().fresh(public.Health) if h.stages and h.streams]
    # Without a change they are a second apart, or more on a busy machine.
    assert min(b - a for a, b in itertools.pairwise(times)) < 0.9


def shows(subscriber: Subscriber, wanted: tuple[str, str]) -> bool:
    return shown(subscriber) == wanted


def shown(subscriber: Subscriber) -> tuple[str, str] | None:
    """The newest state of the stage and of the source."""
    healths = [h for h in subscriber.received.fresh(public.Health) if h.stages and h.streams]
    return (healths[-1].stages[0].state, healths[-1].streams[0].state) if healths else None


def test_counters_of_a_dead_process_stay_counted(rig: Rig) -> None:
    beat = internal.Heartbeat("infer", 1, "ready", 0, 0.0, None, 0, 0.0, 0.0, [], {"lost": 2})
    rig.send(beat)
    rig.send(dataclasses.replace(beat, pid=2, counters={"lost": 3}))
    wait_until(lambda: observe(rig.hub.snapshot()).counters.get("lost") == 5, "the sum")


def test_counters_that_a_stage_reads_back_from_its_files_are_not_added_up() -> None:
    observed = Observed("b")
    beat = internal.Heartbeat("history", 1, "ready", 0, 0.0, None, 0, 0.0, 0.0, [], {})
    counts = [(1, 0, 4), (1, 5, 4), (2, 0, 1), (2, 5, 2), (2, 7, 2), (3, 0, 0)]
    seen = []
    for pid, lost, malformed in counts:
        counters = {"history_lost": lost, "history_malformed": malformed}
        observed.heartbeat(dataclasses.replace(beat, pid=pid, counters=counters))
        seen.append(observe(observed.snapshot()).counters)
    assert [one["history_lost"] for one in seen] == [0, 5, 5, 5, 7, 7]
    assert [one["history_malformed"] for one in seen] == [4, 4, 5, 6, 6, 6]


def test_a_subscriber_that_never_reads_does_not_disturb_others(rig: Rig) -> None:
    unread: zmq.Socket[bytes] = rig.context.socket(zmq.SUB)
    unread.setsockopt(zmq.RCVHWM, 1)
    unread.setsockopt(zmq.SUBSCRIBE, b"")
    unread.connect(rig.results)
    eager = listening(rig)
    assert unread.poll(PATIENCE_MS)  # it is subscribed
    rig.send(OPEN)
    count = 3 * SUBSCRIBER_HIGH_WATER_MARK
    for seq in range(count):
        rig.send(submit(seq))
        rig.answer()
    eager.wait_for(lambda received: len(received.fresh(public.Result)) == count)
    assert [r.seq for r in eager.finish().fresh(public.Result)] == list(range(count))


def test_a_taken_endpoint_is_refused_and_stays_its_owners(rig: Rig) -> None:
    with pytest.raises(UserError, match="in use"):
        Hub(rig.results, fresh_endpoint(), info=lambda _: None, health=observe)  # type: ignore
    rig.send(OPEN)
    assert rig.answer() == internal.Accepted("main", "run", 0, False)


def test_strangers_are_counted_and_not_heard() -> None:
    rig = Rig()
    try:
        rig.hub.expect(["infer"], {"main": "run"})
        stranger = internal.Heartbeat("mallory", 1, "ready", 0, 0.0, None, 0, 0.0, 0.0, [], {})
        rig.send(stranger)
        rig.send(internal.Hello("mallory", ""))
        rig.send(dataclasses.replace(OPEN, stream="cellar"))
        rig.send(dataclasses.replace(OPEN, run="another"))
        rig.send(OPEN)
        assert rig.answer() == internal.Accepted("main", "run", 0, False)
        assert rig.hub.snapshot().counters["hub_strangers"] == 4
        assert list(rig.hub.snapshot().runs) == ["main"]
        assert not rig.hub.snapshot().heartbeats
    finally:
        rig.close()

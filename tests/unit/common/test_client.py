"""The client: losses, replays, versions, freshness of real publishers."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.client import results
from speech_emotion.common.client.results import (
    STALE_AFTER_S,
    Freshness,
    LossCounter,
    NewerProtocolError,
    Results,
)
from speech_emotion.common.wire import public
from tests.support.pipelines import PATIENCE_S, ROOT, Running, wait_until
from tests.support.publisher import HOP, RATE, WINDOW, Publisher, health, result

Supervise = Callable[..., Running]


Clip = Callable[..., Path]


@pytest.fixture
def publisher(endpoint: str) -> Iterator[Publisher]:
    one = Publisher(endpoint)
    yield one
    one.close()


@pytest.fixture
def connect(
    endpoint: str, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Results]]:
    """Connected clients, closed at the end. The publisher may pause for as long as it likes."""
    monkeypatch.setattr(results, "GONE_AFTER_S", 3600.0)
    clients: list[Results] = []

    def to_publisher(stream: str | None = None, **settings: Any) -> Results:
        clients.append(Results(endpoint, stream, **{"timeout": PATIENCE_S, **settings}))
        publisher.wait_for()
        return clients[-1]

    yield to_publisher
    for client in clients:
        client.close()


def take(client: Results, count: int) -> list[public.Result]:
    return [message for _, message in zip(range(count), client, strict=False)]


@st.composite
def runs_with_losses(draw: st.DrawFn) -> list[list[tuple[public.Result, bool]]]:
    """Runs of two streams; each message is received or is not. Some cover many windows."""
    runs = []
    for run in "abc"[: draw(st.integers(1, 3))]:
        messages = []
        for stream in ("main", "main-2"):
            seq = 0
            for _ in range(draw(st.integers(0, 12))):
                one = result(seq, stream=stream, run=run, skipped=draw(st.integers(0, 4)))
                messages.append((one, draw(st.booleans())))
                seq = one.next_seq
        runs.append(sorted(messages, key=lambda pair: pair[0].seq))
    return runs


@given(runs_with_losses())
def test_losses_are_the_windows_between_received_ones(
    runs: list[list[tuple[public.Result, bool]]],
) -> None:
    counter = LossCounter()
    expected = {"main": 0, "main-2": 0}
    for run in runs:
        for stream in expected:
            messages = [(one, there) for one, there in run if one.stream == stream]
            arrived = [at for at, (_, there) in enumerate(messages) if there]
            between = messages[arrived[0] : arrived[-1]] if arrived else []
            expected[stream] += sum(max(1, one.skipped) for one, there in between if not there)
        for one, there in run:
            if there:
                counter.feed(one)
    assert {stream: counter.lost[stream] for stream in expected} == expected


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 9))
def test_a_jump_is_told_where_it_is_and_what_was_there_is_no_loss(
    first: int, jump: int, skipped: int
) -> None:
    counter = LossCounter()
    gap = result(first, skipped=skipped)
    assert counter.feed(gap) == 0
    assert counter.feed(result(gap.next_seq + jump)) == jump
    assert counter.feed(gap) == 0  # an older one again changes nothing
    assert counter.feed(result(gap.next_seq + jump + 1)) == 0
    assert counter.feed(result(99, run="b")) == 0
    assert counter.lost["main"] == jump


def test_a_stream_is_not_its_longer_namesake(
    publisher: Publisher, connect: Callable[..., Results]
) -> None:
    client = connect("main")
    for seq in range(3):
        publisher.send(result(seq, stream="main-2"))
        publisher.send(result(seq))
    assert [one.stream for one in take(client, 3)] == ["main"] * 3
    assert client.malformed == 0


def test_all_streams_and_all_kinds(publisher: Publisher, connect: Callable[..., Results]) -> None:
    client = connect()
    info = public.Info("hall", "a", ["calm"], WINDOW, HOP, RATE, "none@00000000", "file:x")
    said = public.Utterance(
        "hall", "a", 3, 0, 9, RATE, None, "calm", 0.9, {"calm": 0.9}, None, 2, "none@00000000"
    )
    sent = [health("hall"), info, result(3, stream="hall"), said, result(0)]
    for message in sent:
        publisher.send(message)
    events = [event for _, event in zip(sent, client.events(), strict=False)]
    assert [event.message for event in events] == sent
    assert not any(event.replay for event in events)
    assert (client.info, client.health) == ({"hall": info}, sent[0])


def test_replays_are_no_results_and_no_losses(
    publisher: Publisher, connect: Callable[..., Results]
) -> None:
    client = connect("main", stale_after=3600.0)
    publisher.send(result(5), replay=True)
    event = client.receive(PATIENCE_S)
    assert (event and event.message, event and event.replay) == (result(5), True)
    assert client.status().state is Freshness.STALE  # it may be hours old
    # One of them is of a window that got lost, and would hide that.
    for seq, replay in ((6, False), (6, True), (7, False), (3, True), (9, True), (10, False)):
        publisher.send(result(seq), **({"replay": True} if replay else {}))
    assert [one.seq for one in take(client, 3)] == [6, 7, 10]
    assert client.lost == {"main": 2}
    assert client.status().state is Freshness.FRESH


def test_malformed_messages_are_counted_and_passed_over(
    publisher: Publisher, connect: Callable[..., Results]
) -> None:
    client = connect("main")
    publisher.send_raw(b"result/main")
    publisher.send_raw(b"result/main", b"\xc1")
    publisher.send_raw(b"result/main", b"\x80", b"more")
    publisher.send(result(1), seq="one")
    publisher.send(result(1), stream="other")
    publisher.send(result(1), v=0)
    publisher.send(result(2), news="a key of later versions")
    assert [one.seq for one in take(client, 1)] == [2]
    assert client.malformed == 6


def test_a_newer_protocol_is_told_once(
    publisher: Publisher, connect: Callable[..., Results]
) -> None:
    client = connect("main")
    publisher.send(health(), v=2)
    publisher.send(result(1), v=2, seq="a key that has become text")
    publisher.send(result(2), v=3)
    with pytest.raises(NewerProtocolError, match="protocol version 2 is newer than 1"):
        next(iter(client))
    assert client.receive(0.5) is None
    status = client.status()
    assert status.state is Freshness.GONE
    assert "update this client" in (status.reason or "")
    publisher.send(result(3))
    assert take(client, 1) == [result(3)]
    assert client.status().state is not Freshness.GONE
    assert client.malformed == 0


@pytest.mark.parametrize(
    "wrong", ["", "localhost:5555", "tcp://localhost", "tcp://h:99999", "http://h:80", "udp://h:1"]
)
def test_a_malformed_endpoint_is_one_line(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"^endpoint .* is not usable .*tcp://ADDRESS:PORT"):
        Results(wrong)


def test_a_timeout_ends_the_wait_without_a_publisher(endpoint: str) -> None:
    with Results(endpoint, timeout=0.1) as client:
        assert client.receive(0.0) is None
        assert client.receive(0.1) is None
        with pytest.raises(TimeoutError, match="no message"):
            next(iter(client))
        with pytest.raises(TimeoutError, match="no message"):
            next(client.events())


def test_a_timeout_ends_the_wait_in_a_flood_of_something_else(
    publisher: Publisher, connect: Callable[..., Results]
) -> None:
    client = connect("main", timeout=0.0)
    flood = 50
    for number in range(1, flood + 1):
        publisher.send_raw(b"result/main", b"\xc1")
        publisher.send(dataclasses.replace(health(), time=float(number)))
    taken = [0]

    def turn() -> bool:
        # With no time at all, one message is looked at and the wait is over.
        with pytest.raises(TimeoutError):
            next(iter(client))
        taken.append(client.malformed + int(client.health.time if client.health else 0))
        return taken[-1] == 2 * flood

    wait_until(turn, "the flood to be over")
    assert all(after - before <= 1 for before, after in itertools.pairwise(taken))


def test_a_client_that_is_not_closed_does_not_hold_its_program(endpoint: str) -> None:
    program = f"from speech_emotion import Results; kept = Results({endpoint!r}); kept.receive(0.1)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=PATIENCE_S, check=True)


def test_a_publisher_may_come_later_and_come_again(endpoint: str) -> None:
    with Results(endpoint, "main", timeout=PATIENCE_S) as client:
        for run in ("a", "b"):
            publisher = Publisher(endpoint)
            publisher.wait_for(client)
            publisher.send(result(7, run=run))
            publisher.send(result(9, run=run))
            assert [(one.run, one.seq) for one in take(client, 2)] == [(run, 7), (run, 9)]
            publisher.close()
        assert client.lost == {"main": 2}


def test_freshness_by_what_health_says(
    publisher: Publisher, connect: Callable[..., Results]
) -> None:
    # Ages play no part here: a result is good for an hour.
    client = connect("main", stale_after=3600.0)

    def after(*messages: Any) -> tuple[Freshness, str | None]:
        for message in messages:
            publisher.send(message)
            assert client.receive(PATIENCE_S)
        status = client.status()
        return status.state, status.reason

    assert after()[0] is Freshness.GONE
    assert after(health("hall")) == (Freshness.STALE, "no stream 'main'; known streams: hall")
    assert after(health()) == (Freshness.STALE, "stream main: no result yet")
    assert after(health(stage="restarting")) == (Freshness.STALE, "infer restarting: broke")
    assert after(health(), result(0)) == (Freshness.FRESH, None)
    assert after(health(stage="restarting")) == (Freshness.DEGRADED, "infer restarting: broke")
    assert after(health(source="stuck")) == (Freshness.DEGRADED, "stream main stuck")
    assert after(health(source="ended")) == (Freshness.FRESH, None)


def test_the_least_fresh_stream_stands_for_all(
    publisher: Publisher, connect: Callable[..., Results]
) -> None:
    client = connect(stale_after=3600.0)
    two = health()
    two = dataclasses.replace(two, streams=[*two.streams, *health("hall", source="lost").streams])
    for message in (result(0), result(0, stream="hall"), two):
        publisher.send(message)
        assert client.receive(PATIENCE_S)
    assert client.status("main").state is Freshness.FRESH
    assert client.status("hall").state is Freshness.DEGRADED
    assert (client.status().state, client.status().reason) == (
        Freshness.DEGRADED,
        "stream hall lost",
    )


def test_a_slow_reader_does_not_take_what_waited_for_new(
    publisher: Publisher, connect: Callable[..., Results]
) -> None:
    client = connect("main", stale_after=0.3)
    publisher.send(health())
    publisher.send(result(0))
    sent = time.monotonic()
    publisher.send(result(1))
    time.sleep(0.4)
    take(client, 1)
    take(client, 1)
    now, status = time.monotonic(), client.status()
    assert status.state is Freshness.STALE
    assert status.age_s is not None
    assert status.age_s >= now - sent
    emptied = time.monotonic()
    assert client.receive(0.0) is None
    publisher.send(result(2))
    take(client, 1)
    status = client.status()
    assert status.age_s is not None
    assert status.age_s <= time.monotonic() - emptied


def test_a_result_that_came_late_is_old_when_it_comes(
    publisher: Publisher, connect: Callable[..., Results]
) -> None:
    client = connect("main")
    late_ms = 1000.0 * STALE_AFTER_S + 1.0
    publisher.send(dataclasses.replace(result(0), timing_ms={"total": late_ms}))
    take(client, 1)
    assert client.status().state is Freshness.STALE
    publisher.send(
        public.Info("main", "a", [], 20 * RATE, 10 * RATE, RATE, "none@00000000", "file:x")
    )
    publisher.send(dataclasses.replace(result(1), timing_ms={"total": late_ms}))
    take(client, 1)
    assert client.status().state is Freshness.FRESH  # a hop of 10 s makes it young

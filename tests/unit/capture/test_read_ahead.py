"""A source at full speed waits for results and for the recorder, and not for ever."""

from __future__ import annotations

import pytest

from speech_emotion.capture.read_ahead import RECORDER_WAIT_S, ReadAhead
from speech_emotion.common.wire.internal import Accepted, Recorded

HOP, AHEAD = 100, 1000


def ahead(*, recorder: bool) -> ReadAhead:
    return ReadAhead(HOP, AHEAD, recorder=recorder)


def test_without_an_answer_of_the_hub_nothing_is_read() -> None:
    assert not ahead(recorder=False).allows(0, 0.0)
    assert ahead(recorder=False).allows(AHEAD - 1, 0.0, without_hub=True)
    assert not ahead(recorder=False).allows(AHEAD, 0.0, without_hub=True)


def test_a_source_stays_half_a_ring_after_the_results() -> None:
    source = ahead(recorder=False)
    source.accepted = Accepted("main", "run", 5, False)
    assert source.allows(5 * HOP + AHEAD - 1, 0.0)
    assert not source.allows(5 * HOP + AHEAD, 0.0)


def test_a_source_stays_half_a_ring_after_the_recording() -> None:
    source = ahead(recorder=True)
    source.accepted = Accepted("main", "run", 1000, False)
    assert not source.allows(0, 0.0)  # the recorder has not answered yet
    source.recorded = Recorded("main", "run", 700)
    assert source.allows(700 + AHEAD - 1, 0.0)
    assert not source.allows(700 + AHEAD, 0.0)


def test_a_recorder_that_cannot_write_does_not_hold_the_source() -> None:
    source = ahead(recorder=True)
    source.accepted = Accepted("main", "run", 1000, False)
    source.recorded = Recorded("main", "run", None)
    assert source.allows(50_000, 0.0)


def test_a_recorder_without_progress_is_not_waited_for_for_ever() -> None:
    source = ahead(recorder=True)
    source.accepted = Accepted("main", "run", 1000, False)
    source.recorded = Recorded("main", "run", 0)
    assert not source.allows(AHEAD, 0.0)
    assert not source.allows(AHEAD, RECORDER_WAIT_S - 0.1)
    source.recorded = Recorded("main", "run", 1)  # progress
    assert not source.allows(AHEAD + 1, RECORDER_WAIT_S)
    assert not source.allows(AHEAD + 1, 2 * RECORDER_WAIT_S - 0.1)
    assert source.allows(AHEAD + 1, 2 * RECORDER_WAIT_S)


def test_a_recorder_that_was_away_for_long_is_waited_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = ahead(recorder=True)
    source.accepted = Accepted("main", "run", 1000, False)
    source.recorded = Recorded("main", "run", 10)
    position, now = 10 + AHEAD, 5.0
    assert not source.allows(position, now)
    for later in range(3):
        assert source.allows(position + later, now + RECORDER_WAIT_S + later)
    assert caplog.text.count("no progress") == 1
    now += 2 * RECORDER_WAIT_S
    source.recorded = Recorded("main", "run", 20)  # it is back, and behind
    assert not source.allows(position + AHEAD, now)
    source.recorded = Recorded("main", "run", position)
    assert source.allows(position + AHEAD - 1, now + 1.0)
    assert not source.allows(position + AHEAD, now + 2.0)


def test_a_recorder_that_makes_progress_is_waited_for_without_limit() -> None:
    source = ahead(recorder=True)
    source.accepted = Accepted("main", "run", 1000, False)
    for step in range(100):
        source.recorded = Recorded("main", "run", step)
        assert not source.allows(step + AHEAD, step * (RECORDER_WAIT_S - 1.0))

"""How far a source at full speed may be read: half a ring after results and recording."""

from __future__ import annotations

import pytest

from speech_emotion.capture.read_ahead import RECORDER_WAIT_S, ReadAhead
from speech_emotion.common.wire import internal

HOP, AHEAD = 8000, 240_000


def ahead(recorder: bool) -> ReadAhead:
    one = ReadAhead(HOP, AHEAD, recorder=recorder)
    one.accepted = internal.Accepted("main", "run", 10**6, False)  # results are no limit here
    return one


def recorded(position: int | None) -> internal.Recorded:
    return internal.Recorded("main", "run", position)


def test_results_limit_the_source() -> None:
    one = ReadAhead(HOP, AHEAD, recorder=False)
    assert not one.allows(0, 0.0)
    assert one.allows(AHEAD - 1, 0.0, without_hub=True)
    assert not one.allows(AHEAD, 0.0, without_hub=True)
    one.accepted = internal.Accepted("main", "run", 3, False)
    assert one.allows(3 * HOP + AHEAD - 1, 0.0)
    assert not one.allows(3 * HOP + AHEAD, 0.0)


def test_the_recorder_limits_the_source() -> None:
    one = ahead(recorder=True)
    assert not one.allows(0, 0.0)  # it has said nothing yet
    one.recorded = recorded(0)
    assert one.allows(AHEAD - 1, 1.0)
    assert not one.allows(AHEAD, 1.0)
    one.recorded = recorded(None)  # it cannot write: do not wait
    assert one.allows(10 * AHEAD, 2.0)


def test_a_recorder_that_is_away_for_long_is_waited_for_again_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = ahead(recorder=True)
    one.recorded = recorded(1000)
    position, now = 1000 + AHEAD, 5.0
    assert not one.allows(position, now)
    assert not one.allows(position, now + RECORDER_WAIT_S - 0.1)
    for later in range(3):
        assert one.allows(position + 100 * later, now + RECORDER_WAIT_S + later)
    assert caplog.text.count("no progress") == 1
    position, now = position + AHEAD, now + 2 * RECORDER_WAIT_S
    one.recorded = recorded(2000)
    assert not one.allows(position, now)
    one.recorded = recorded(position)
    assert one.allows(position, now + 1.0)
    one.recorded = recorded(position)
    assert not one.allows(position + AHEAD, now + 2.0)


def test_a_recorder_that_makes_progress_is_waited_for_without_limit() -> None:
    one = ahead(recorder=True)
    for step in range(100):
        one.recorded = recorded(step)
        assert not one.allows(step + AHEAD, step * (RECORDER_WAIT_S - 1.0))

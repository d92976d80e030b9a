"""The clock by which old rows are deleted: it trusts no jump of the wall clock."""

from __future__ import annotations

import pytest

from speech_emotion.dashboard.history.purge_clock import PurgeClock
from tests.support.history import T0

DAY_S = 86400.0
KEEP_S = 14.0 * DAY_S


def test_the_purge_clock_follows_the_wall_clock() -> None:
    clock = PurgeClock(KEEP_S, None, 0.0, T0, 0.0)
    assert clock.update(T0 + 60.0, 60.0) == T0 + 60.0
    assert clock.update(T0 + 90.0, 120.0) == T0 + 90.0  # a lag deletes less
    assert clock.update(T0 + 200.0, 180.0) == T0 + 200.0  # a small correction
    assert not clock.holding


@pytest.mark.parametrize("weeks", [1, 3, 500])
def test_a_clock_that_jumps_ahead_deletes_nothing_early(weeks: int) -> None:
    clock = PurgeClock(KEEP_S, None, 0.0, T0, 0.0)
    lead = weeks * 7 * DAY_S
    assert clock.update(T0 + lead + 60.0, 60.0) == T0 + 60.0
    assert clock.holding
    now = 60.0
    while clock.holding and now < 2 * KEEP_S:
        now += 3600.0
        trusted = clock.update(T0 + lead + now, now)
        assert trusted == T0 + now or now >= KEEP_S  # every row is old enough by then
    assert clock.trusted == T0 + lead + now


def test_a_jump_that_is_corrected_ends_the_hold() -> None:
    clock = PurgeClock(KEEP_S, None, 0.0, T0, 0.0)
    clock.update(T0 + 30 * DAY_S, 60.0)
    assert clock.update(T0 + 120.0, 120.0) == T0 + 120.0
    assert not clock.holding

"""Random events over WAV, FLAC and MP3 at once: a short run; `make chaos` has 500 of them."""

from __future__ import annotations

import random
from collections import Counter

from tests.chaos.combined import row
from tests.chaos.events import QUICK_DEATHS, QUICK_S, STAGES, WEIGHTS, schedule


def test_random_events_lose_nothing_uncounted() -> None:
    outcome = row("realtime", seed=3, events=25, pause=0.35)
    assert outcome.held, outcome.measured


def test_a_schedule_comes_from_its_seed_alone() -> None:
    state = random.getstate()
    events = schedule(7, 500, 0.5)
    assert events == schedule(7, 500, 0.5) != schedule(8, 500, 0.5)
    assert random.getstate() == state
    assert {event.kind for event in events} == set(WEIGHTS)
    victims = Counter(event.stage for event in events if event.kind == "kill")
    assert set(victims) == set(STAGES)
    assert min(victims.values()) >= 10


def test_no_stage_is_killed_so_often_that_its_restarts_are_delayed_for_long() -> None:
    now, deaths = 0.0, {stage: list[float]() for stage in STAGES}
    for event in schedule(9, 2000, 0.3):
        now += event.pause
        if event.kind in ("kill", "hang"):
            deaths[event.stage].append(now)
    for times in deaths.values():
        for first, last in zip(times, times[QUICK_DEATHS + 1 :], strict=False):
            assert last - first >= QUICK_S - 3.5  # a hang dies later than it begins

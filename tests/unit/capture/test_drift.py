"""The drift of a source's clock is found under delays that are far longer than it."""

from __future__ import annotations

import numpy as np
import pytest

from speech_emotion.capture.sources.drift import LEAST_S, SPAN_S, Drift

BLOCK_S = 0.02
START = 250_000.0


def heard(drift: Drift, ppm: float, seconds: float, *, delays: float, bursts: float = 0.0) -> None:
    """Blocks of a source that is `ppm` too fast, each late by an exponential delay (mean, s)."""
    chance = np.random.default_rng(4)
    for number in range(1, round(seconds / BLOCK_S)):
        captured = number * BLOCK_S / (1.0 + 1e-6 * ppm)
        late = chance.exponential(delays)
        if bursts and chance.random() < 0.02:  # a busy second
            late += chance.exponential(bursts)
        arrived = START + captured + late
        drift.add(arrived - number * BLOCK_S, arrived)


@pytest.mark.parametrize("ppm", [-100.0, 0.0, 30.0, 100.0])
def test_a_minute_is_enough_for_a_coarse_figure(ppm: float) -> None:
    drift = Drift()
    heard(drift, ppm, LEAST_S + 11.0, delays=0.005)
    assert drift.figures["drift_ppm"] == pytest.approx(ppm, abs=10.0)
    assert drift.figures["drift_s"] >= LEAST_S


def test_ten_minutes_give_an_exact_figure_in_spite_of_bursts() -> None:
    drift = Drift()
    heard(drift, 100.0, SPAN_S + 100.0, delays=0.01, bursts=0.5)
    assert drift.figures["drift_ppm"] == pytest.approx(100.0, abs=1.5)
    assert drift.figures["drift_s"] == pytest.approx(SPAN_S, abs=40.0)


def test_a_short_time_gives_none() -> None:
    drift = Drift()
    heard(drift, 100.0, LEAST_S - 5.0, delays=0.001)
    assert drift.figures == {}

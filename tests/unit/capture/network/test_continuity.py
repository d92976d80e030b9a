"""Missing samples by time stamps, and the pace of a source."""

from __future__ import annotations

import random

import pytest

from speech_emotion.capture.sources.network.continuity import Continuity, Pace, Speed, Supply

RATE = 16000
PACKET = 320


class Sender:
    """Packets with time stamps, and the counter of a receiver."""

    def __init__(self, first: int = 0) -> None:
        self.continuity = Continuity(RATE)
        self.stamp = float(first)
        self.counted = 0

    def send(self, *, jitter: float = 0.0, most: int = RATE) -> int:
        stamp = round(self.stamp + jitter)
        missing = self.continuity.missing(stamp, PACKET, self.counted, most)
        self.counted += missing + PACKET
        self.stamp += PACKET
        return missing


def test_stamps_that_follow_each_other_miss_nothing() -> None:
    sender = Sender(first=123_456)
    assert sum(sender.send() for _ in range(1000)) == 0


@pytest.mark.parametrize("packets", [1, 2, 50])
def test_lost_packets_are_missing_exactly(packets: int) -> None:
    sender = Sender()
    sender.send()
    sender.stamp += packets * PACKET
    assert sender.send() == packets * PACKET
    assert sum(sender.send() for _ in range(100)) == 0


def test_jitter_of_stamps_is_no_gap() -> None:
    sender, chance = Sender(), random.Random(0)
    assert sum(sender.send(jitter=chance.uniform(-80.0, 80.0)) for _ in range(5000)) == 0


@pytest.mark.parametrize("ppm", [-300, 300])
def test_a_drift_of_the_stamps_is_no_gap(ppm: int) -> None:
    sender = Sender()
    for _ in range(20_000):
        assert sender.send() == 0
        sender.stamp += PACKET * ppm / 1e6
    assert sender.continuity.refused == 0


@pytest.mark.parametrize("jump", [-RATE, -PACKET, 2 * RATE])
def test_a_jump_that_the_clock_contradicts_is_refused(jump: int) -> None:
    sender = Sender(first=10 * RATE)
    sender.send()
    sender.stamp += jump
    assert sender.send() == 0
    assert sender.continuity.refused == 1
    assert sum(sender.send() for _ in range(100)) == 0


def test_a_burst_is_read_at_once_and_the_rest_in_real_time() -> None:
    pace = Pace(RATE, 1.0, 2.0, 0.0, full=True)
    taken, now = 0, 0.0
    while pace.allows(PACKET, now):
        pace.take(PACKET)
        taken += PACKET
    assert taken == pytest.approx(2.0 * RATE, abs=PACKET)
    for _ in range(1000):
        now += 0.01
        while pace.allows(PACKET, now):
            pace.take(PACKET)
            taken += PACKET
    assert taken == pytest.approx(12.0 * RATE, abs=2 * PACKET)


def measured(speeds: list[float]) -> list[str | None]:
    """Faults after each span of ten seconds at a speed."""
    speed, now, faults = Speed(RATE, 0.0), 0.0, []
    for one in speeds:
        for _ in range(10):
            now += 1.001
            speed.add(round(RATE * one), now, limited=False)
        faults.append(speed.fault)
    return faults


def test_a_slow_and_a_fast_source_are_reported() -> None:
    first, second, third = measured([0.7, 0.7, 1.0])
    assert first is None
    assert second is not None
    assert "slower" in second
    assert third is None
    assert "faster" in str(measured([1.5, 1.5])[-1])


def test_a_delay_and_its_recovery_are_not_reported() -> None:
    assert measured([0.8, 1.2, 0.8, 1.2, 1.0]) == [None] * 5


def test_a_supply_ends_after_one_and_a_half_segments() -> None:
    supply = Supply(0.0)
    now = 0.0
    for number in range(1, 5):  # segments of 6 s, each in two parts
        for part in (0.0, 0.2):
            supply.add(10 * number + round(5 * part), now + part)
        now += 6.0
        supply.add(10 * number + 1, now - 0.1)
        assert supply.fault is None
    supply.add(41, now + 2.7)
    assert supply.fault is None
    supply.add(41, now + 3.0)
    assert supply.fault is not None
    supply.add(50, now + 3.1)
    assert supply.fault is None


def test_a_supply_of_unknown_segments_is_waited_for() -> None:
    supply = Supply(0.0)
    supply.add(1, 0.0)
    supply.add(1, 9.9)
    assert supply.fault is None
    supply.add(1, 10.1)
    assert supply.fault is not None

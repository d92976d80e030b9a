"""Every transition of a live source's state machine."""

from __future__ import annotations

import numpy as np
import pytest

from capture.watch import GRACE_S, SourceState, SourceWatch

RATE = 16000
BLOCK_S = 0.02
FRAMES = 320
NOISE = np.random.default_rng(0).normal(0.0, 0.01, (FRAMES, 1)).astype(np.float32)
ZEROS = np.zeros((FRAMES, 1), np.float32)
DC = np.full((FRAMES, 1), 0.25, np.float32)


class Source:
    """A watch, and a clock that runs with the blocks."""

    def __init__(self) -> None:
        self.now = 100.0
        self.watch = SourceWatch(self.now, RATE, BLOCK_S)

    def plays(self, block: np.ndarray, seconds: float, pace: float = 1.0) -> Source:
        for _ in range(round(seconds / BLOCK_S)):
            self.now += BLOCK_S * pace
            self.watch.heard(self.now, block)
            self.watch.check(self.now, active=True)
        return self

    def waits(self, seconds: float, *, active: bool = True) -> Source:
        self.now += seconds
        self.watch.check(self.now, active=active)
        return self

    @property
    def state(self) -> SourceState:
        return self.watch.state


def test_it_starts() -> None:
    assert Source().state is SourceState.STARTING
    assert Source().waits(GRACE_S - 0.1).state is SourceState.STARTING


def test_the_first_block_makes_it_live() -> None:
    assert Source().plays(NOISE, BLOCK_S).state is SourceState.LIVE


def test_a_start_without_a_block_is_lost() -> None:
    source = Source().waits(GRACE_S + 0.1)
    assert source.state is SourceState.LOST
    assert source.watch.reason == "the device gave nothing for 5.1 s"


def test_no_block_for_a_second_is_lost() -> None:
    source = Source().plays(NOISE, 1.0)
    assert source.waits(0.9).state is SourceState.LIVE
    assert source.waits(0.2).state is SourceState.LOST


def test_long_blocks_may_take_their_time() -> None:
    watch = SourceWatch(0.0, RATE, 0.5)
    watch.heard(0.5, NOISE)
    watch.check(2.9, active=True)
    assert watch.state is SourceState.LIVE
    watch.check(3.1, active=True)
    assert watch.state is SourceState.LOST


def test_an_inactive_stream_is_lost_at_once() -> None:
    assert Source().plays(NOISE, 1.0).waits(0.01, active=False).state is SourceState.LOST


def test_digital_silence_is_silent_input_after_three_seconds() -> None:
    source = Source().plays(NOISE, 1.0).plays(ZEROS, 2.9)
    assert source.state is SourceState.LIVE
    source.plays(ZEROS, 0.2)
    assert source.state is SourceState.SILENT_INPUT
    source.plays(ZEROS, 10.0)
    assert source.watch.silent_for(source.now) == pytest.approx(13.1, abs=0.1)


def test_sound_ends_silent_input() -> None:
    source = Source().plays(ZEROS, 4.0).plays(NOISE, BLOCK_S)
    assert source.state is SourceState.LIVE
    assert source.watch.reason is None
    assert source.watch.silent_for(source.now) == 0.0


def test_one_value_is_stuck_after_a_second() -> None:
    source = Source().plays(NOISE, 1.0).plays(DC, 0.9)
    assert source.state is SourceState.LIVE
    assert source.plays(DC, 0.2).state is SourceState.STUCK
    assert source.plays(NOISE, BLOCK_S).state is SourceState.LIVE


def test_silence_behind_a_stuck_value_is_counted_anew() -> None:
    source = Source().plays(DC, 2.0).plays(ZEROS, 2.9)
    assert source.state is SourceState.STUCK
    assert source.plays(ZEROS, 0.3).state is SourceState.SILENT_INPUT


@pytest.mark.parametrize(("pace", "lost"), [(1.0, False), (1.03, False), (1.1, True), (0.9, True)])
def test_frames_are_held_against_the_clock(pace: float, lost: bool) -> None:
    source = Source().plays(NOISE, 25.0, pace)
    assert (source.state is SourceState.LOST) == lost


def test_lost_is_the_end() -> None:
    source = Source().plays(NOISE, 1.0).waits(2.0)
    assert source.plays(NOISE, 1.0).state is SourceState.LOST

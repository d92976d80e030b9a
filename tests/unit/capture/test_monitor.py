"""Every transition of a live source's state machine."""

from __future__ import annotations

import numpy as np
import pytest

from speech_emotion.capture.sources.monitor import GRACE_S, SourceMonitor
from speech_emotion.common.source_state import SourceState

RATE = 16000
BLOCK_S = 0.02
FRAMES = 320
NOISE = np.random.default_rng(0).normal(0.0, 0.01, (FRAMES, 1)).astype(np.float32)
ZEROS = np.zeros((FRAMES, 1), np.float32)
DC = np.full((FRAMES, 1), 0.25, np.float32)


class Source:
    """A watch, and a clock that runs with the blocks."""

    def __init__(self, *, again: bool = False) -> None:
        self.now = 100.0
        self.watch = SourceMonitor(self.now, RATE, BLOCK_S, again=again)

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
    watch = SourceMonitor(0.0, RATE, 0.5)
    watch.heard(0.5, NOISE)
    watch.check(2.9, active=True)
    assert watch.state is SourceState.LIVE
    watch.check(3.1, active=True)
    assert watch.state is SourceState.LOST


def test_an_inactive_stream_is_lost_at_once() -> None:
    assert Source().plays(NOISE, 1.0).waits(0.01, active=False).state is SourceState.LOST


def test_a_fresh_process_of_a_known_source_is_recovering() -> None:
    source = Source(again=True)
    assert source.state is SourceState.RECOVERING
    assert source.waits(GRACE_S - 0.1).state is SourceState.RECOVERING
    assert source.plays(NOISE, BLOCK_S).state is SourceState.LIVE
    assert Source(again=True).waits(GRACE_S + 0.1).state is SourceState.LOST


def test_digital_silence_is_silent_input_within_three_seconds() -> None:
    source = Source().plays(NOISE, 1.0).plays(ZEROS, 2.4)
    assert source.state is SourceState.LIVE
    source.plays(ZEROS, 0.3)
    assert source.state is SourceState.SILENT_INPUT
    source.plays(ZEROS, 10.0)
    assert source.watch.silent_for(source.now) == pytest.approx(12.7, abs=0.1)
    assert source.watch.reason == "digital silence for 13 s: muted or unplugged?"
    assert source.now - source.watch.since == pytest.approx(10.2, abs=0.1)


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


def test_an_offset_with_next_to_nothing_on_it_is_stuck() -> None:
    source = Source().plays(DC + 0.1 * NOISE / np.abs(NOISE).max() * 0.02, 1.2)
    assert source.state is SourceState.STUCK
    assert source.watch.reason == "stuck at 0.250 of full scale for 1 s"


def test_speech_on_an_offset_is_live() -> None:
    assert Source().plays(DC + 5.0 * NOISE, 5.0).state is SourceState.LIVE


def test_a_faint_room_is_neither_silent_nor_stuck() -> None:
    room = np.rint(NOISE / np.abs(NOISE).max() * 2.0).astype(np.float32) / 32768.0
    assert Source().plays(room, 10.0).state is SourceState.LIVE


@pytest.mark.parametrize("frames", [1, 7, 160, 4000])
def test_blocks_of_any_size_are_judged_alike(frames: int) -> None:
    rng = np.random.default_rng(1)
    watch, now = SourceMonitor(0.0, RATE, frames / RATE), 0.0
    for signal, state in ((0.1, SourceState.LIVE), (0.0, SourceState.SILENT_INPUT)):
        for _ in range(round(3.0 * RATE / frames)):
            now += frames / RATE
            watch.heard(now, (signal * rng.normal(size=(frames, 1))).astype(np.float32))
        assert watch.state is state


def test_silence_behind_a_stuck_value_is_counted_anew() -> None:
    source = Source().plays(DC, 2.0).plays(ZEROS, 2.4)
    assert source.state is SourceState.STUCK
    assert source.plays(ZEROS, 0.3).state is SourceState.SILENT_INPUT


def test_clipping_is_told_of_a_live_source_and_forgotten() -> None:
    source = Source().plays(np.clip(200.0 * NOISE, -1.0, 1.0), 2.0)
    assert source.state is SourceState.LIVE
    assert source.watch.clipped > 0.3
    assert "clipping" in (source.watch.reason or "")
    source.plays(NOISE, 2.1)
    assert source.watch.clipped == 0.0
    assert source.watch.reason is None


def test_another_devices_sound_is_lost() -> None:
    source = Source().plays(NOISE, 1.0)
    source.watch.moved(source.now, "usb", "webcam")
    assert source.state is SourceState.LOST
    assert source.watch.reason == "the sound server moved us from usb to webcam"
    source.waits(10.0, active=False)
    assert source.watch.reason == "the sound server moved us from usb to webcam"


@pytest.mark.parametrize(("pace", "lost"), [(1.0, False), (1.03, False), (1.1, True), (0.9, True)])
def test_frames_are_held_against_the_clock(pace: float, lost: bool) -> None:
    source = Source().plays(NOISE, 25.0, pace)
    assert (source.state is SourceState.LOST) == lost


def test_lost_is_the_end() -> None:
    source = Source().plays(NOISE, 1.0).waits(2.0)
    assert source.plays(NOISE, 1.0).state is SourceState.LOST

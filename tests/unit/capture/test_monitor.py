"""Every transition of the state machine of a live source."""

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
    """A monitor, and a clock that advances with the blocks."""

    def __init__(self, *, restarted: bool = False) -> None:
        self.now = 100.0
        self.monitor = SourceMonitor(self.now, RATE, BLOCK_S, restarted=restarted)

    def play(self, block: np.ndarray, seconds: float, pace: float = 1.0) -> Source:
        for _ in range(round(seconds / BLOCK_S)):
            self.now += BLOCK_S * pace
            self.monitor.add_block(self.now, block)
            self.monitor.check(self.now, active=True)
        return self

    def wait(self, seconds: float, *, active: bool = True) -> Source:
        self.now += seconds
        self.monitor.check(self.now, active=active)
        return self

    def state(self) -> SourceState:
        return self.monitor.state


def test_it_starts() -> None:
    assert Source().state() is SourceState.STARTING
    assert Source().wait(GRACE_S - 0.1).state() is SourceState.STARTING


def test_the_first_block_makes_it_live() -> None:
    assert Source().play(NOISE, BLOCK_S).state() is SourceState.LIVE


def test_a_start_without_a_block_is_lost() -> None:
    source = Source().wait(GRACE_S + 0.1)
    assert source.state() is SourceState.LOST
    assert source.monitor.reason == "the device gave no samples for 5.1 s"


def test_no_block_for_a_second_is_lost() -> None:
    source = Source().play(NOISE, 1.0)
    assert source.wait(0.9).state() is SourceState.LIVE
    assert source.wait(0.2).state() is SourceState.LOST


def test_a_device_with_long_blocks_may_be_quiet_for_longer() -> None:
    monitor = SourceMonitor(0.0, RATE, 0.5)
    monitor.add_block(0.5, NOISE)
    states = []
    for now in (2.9, 3.1):
        monitor.check(now, active=True)
        states.append(monitor.state)
    assert states == [SourceState.LIVE, SourceState.LOST]


def test_an_inactive_stream_is_lost_at_once() -> None:
    assert Source().play(NOISE, 1.0).wait(0.01, active=False).state() is SourceState.LOST


def test_a_fresh_process_of_a_known_source_is_recovering() -> None:
    source = Source(restarted=True)
    assert source.state() is SourceState.RECOVERING
    assert source.wait(GRACE_S - 0.1).state() is SourceState.RECOVERING
    assert source.play(NOISE, BLOCK_S).state() is SourceState.LIVE
    assert Source(restarted=True).wait(GRACE_S + 0.1).state() is SourceState.LOST


def test_digital_silence_is_silent_input_within_three_seconds() -> None:
    source = Source().play(NOISE, 1.0).play(ZEROS, 2.4)
    assert source.state() is SourceState.LIVE
    source.play(ZEROS, 0.3)
    assert source.state() is SourceState.SILENT_INPUT
    source.play(ZEROS, 10.0)
    assert source.monitor.silent_for(source.now) == pytest.approx(12.7, abs=0.1)
    assert source.monitor.reason == "digital silence for 13 s: muted or unplugged?"
    assert source.now - source.monitor.since == pytest.approx(10.2, abs=0.1)


def test_sound_ends_silent_input() -> None:
    source = Source().play(ZEROS, 4.0).play(NOISE, BLOCK_S)
    assert source.state() is SourceState.LIVE
    assert source.monitor.reason is None
    assert source.monitor.silent_for(source.now) == 0.0


def test_one_value_is_stuck_after_a_second() -> None:
    source = Source().play(NOISE, 1.0).play(DC, 0.9)
    assert source.state() is SourceState.LIVE
    assert source.play(DC, 0.2).state() is SourceState.STUCK
    assert source.play(NOISE, BLOCK_S).state() is SourceState.LIVE


def test_an_offset_with_almost_nothing_on_it_is_stuck() -> None:
    source = Source().play(DC + 0.1 * NOISE / np.abs(NOISE).max() * 0.02, 1.2)
    assert source.state() is SourceState.STUCK
    assert source.monitor.reason == "stuck at 0.250 of full scale for 1 s"


def test_speech_on_an_offset_is_live() -> None:
    assert Source().play(DC + 5.0 * NOISE, 5.0).state() is SourceState.LIVE


def test_a_faint_room_is_neither_silent_nor_stuck() -> None:
    room = np.rint(NOISE / np.abs(NOISE).max() * 2.0).astype(np.float32) / 32768.0
    assert Source().play(room, 10.0).state() is SourceState.LIVE


@pytest.mark.parametrize("frames", [1, 7, 160, 4000])
def test_the_size_of_blocks_does_not_matter(frames: int) -> None:
    rng = np.random.default_rng(1)
    monitor, now = SourceMonitor(0.0, RATE, frames / RATE), 0.0
    for signal, state in ((0.1, SourceState.LIVE), (0.0, SourceState.SILENT_INPUT)):
        for _ in range(round(3.0 * RATE / frames)):
            now += frames / RATE
            monitor.add_block(now, (signal * rng.normal(size=(frames, 1))).astype(np.float32))
        assert monitor.state is state


def test_silence_after_a_stuck_value_is_counted_from_its_start() -> None:
    source = Source().play(DC, 2.0).play(ZEROS, 2.4)
    assert source.state() is SourceState.STUCK
    assert source.play(ZEROS, 0.3).state() is SourceState.SILENT_INPUT


def test_clipping_of_a_live_source_is_reported_and_withdrawn() -> None:
    source = Source().play(np.clip(200.0 * NOISE, -1.0, 1.0), 2.0)
    assert source.state() is SourceState.LIVE
    assert source.monitor.clipped > 0.3
    assert "clipping" in (source.monitor.reason or "")
    source.play(NOISE, 2.1)
    assert source.monitor.clipped == 0.0
    assert source.monitor.reason is None


def test_a_source_that_the_server_replaces_is_lost() -> None:
    source = Source().play(NOISE, 1.0)
    source.monitor.source_changed(source.now, "usb", "webcam")
    assert source.state() is SourceState.LOST
    assert source.monitor.reason == "the sound server changed the source from usb to webcam"
    source.wait(10.0, active=False)
    assert source.monitor.reason == "the sound server changed the source from usb to webcam"


@pytest.mark.parametrize(("pace", "lost"), [(1.0, False), (1.03, False), (1.1, True), (0.9, True)])
def test_the_frame_rate_is_compared_with_the_clock(pace: float, lost: bool) -> None:
    source = Source().play(NOISE, 25.0, pace)
    assert (source.state() is SourceState.LOST) == lost


def test_a_lost_source_stays_lost() -> None:
    source = Source().play(NOISE, 1.0).wait(2.0)
    assert source.play(NOISE, 1.0).state() is SourceState.LOST

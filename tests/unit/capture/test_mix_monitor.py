"""Channels that cancel each other in the mix are detected; other stereo sound is not."""

from __future__ import annotations

import numpy as np
import pytest

from speech_emotion.capture.mix_monitor import MixMonitor
from speech_emotion.capture.samples import to_mono

RATE = 16000
RNG = np.random.default_rng(0)
SOUND = RNG.normal(0.0, 0.1, 5 * RATE).astype(np.float32)
FAINT = RNG.normal(0.0, 1e-4, (2, 5 * RATE)).astype(np.float32)


def monitor(*channels: np.ndarray, block: int = 320) -> MixMonitor:
    result = MixMonitor(RATE)
    frames = np.stack(channels, axis=1).astype(np.float32)
    for at in range(0, len(frames), block):
        result.add(frames[at : at + block], to_mono(frames[at : at + block], None))
    return result


@pytest.mark.parametrize("block", [1, 320, 7000])
def test_an_inverted_side_is_detected(block: int) -> None:
    result = monitor(SOUND + FAINT[0], -SOUND + FAINT[1], block=block)
    assert result.cancelled
    assert "inverted" in result.reason


def test_four_channels_of_which_two_are_inverted() -> None:
    assert monitor(SOUND, -SOUND, SOUND, -SOUND).cancelled


@pytest.mark.parametrize(
    "other",
    [SOUND, 0.0 * SOUND, 0.3 * SOUND, -0.5 * SOUND, np.roll(SOUND, 40), SOUND[::-1]],
    ids=["equal", "silent", "softer", "inverted and softer", "delayed", "independent"],
)
def test_other_stereo_sound_is_not(other: np.ndarray) -> None:
    assert not monitor(SOUND, other).cancelled


def test_silence_is_not_judged_and_keeps_the_state() -> None:
    assert not monitor(FAINT[0], -FAINT[0]).cancelled
    result = monitor(SOUND, -SOUND)
    result.add(np.zeros((3 * RATE, 2), np.float32), np.zeros(3 * RATE, np.float32))
    assert result.cancelled


def test_one_channel_is_not_judged() -> None:
    assert not monitor(SOUND).cancelled


def test_the_state_ends_with_the_cancellation() -> None:
    result = monitor(SOUND, -SOUND)
    block = np.stack([SOUND, SOUND], axis=1)
    result.add(block, to_mono(block, None))
    assert not result.cancelled

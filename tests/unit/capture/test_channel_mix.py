"""A mix whose channels cancel each other is detected and mended; other stereo sound is not."""

from __future__ import annotations

import numpy as np
import pytest

from speech_emotion.capture.channel_mix import ChannelMix
from speech_emotion.capture.samples import Channels, Samples, channels_needed, to_mono

RATE = 16000
RNG = np.random.default_rng(0)
SOUND = RNG.normal(0.0, 0.1, 5 * RATE).astype(np.float32)
FAINT = RNG.normal(0.0, 1e-4, (2, 5 * RATE)).astype(np.float32)


def frames_of(*channels: Samples) -> Samples:
    return np.stack(channels, axis=1).astype(np.float32)


def mixed(
    *channels: Samples, block: int = 320, mode: str = "mean", channel: Channels = None
) -> tuple[ChannelMix, Samples]:
    mix, frames = ChannelMix(RATE, channel, mode), frames_of(*channels)
    blocks = [mix.mono(frames[at : at + block]) for at in range(0, len(frames), block)]
    return mix, np.concatenate(blocks)


@pytest.mark.parametrize("block", [1, 320, 7000])
def test_an_inverted_side_is_detected(block: int) -> None:
    mix, _ = mixed(SOUND + FAINT[0], -SOUND + FAINT[1], block=block)
    assert mix.cancelled
    assert "inverted" in (mix.reason or "")


def test_four_channels_of_which_two_are_inverted() -> None:
    assert mixed(SOUND, -SOUND, SOUND, -SOUND)[0].cancelled


@pytest.mark.parametrize("mode", ["mean", "flip", "best"])
@pytest.mark.parametrize(
    "other",
    [SOUND, 0.0 * SOUND, 0.3 * SOUND, -0.5 * SOUND, np.roll(SOUND, 40), SOUND[::-1]],
    ids=["equal", "silent", "softer", "inverted and softer", "delayed", "independent"],
)
def test_other_stereo_sound_is_the_mean(other: Samples, mode: str) -> None:
    mix, mono = mixed(SOUND, other, mode=mode)
    assert not mix.cancelled
    assert mix.reason is None
    np.testing.assert_array_equal(mono, to_mono(frames_of(SOUND, other), None))


@pytest.mark.parametrize("block", [1, 320, 7000, 5 * RATE])
@pytest.mark.parametrize("mode", ["flip", "best"])
def test_an_inverted_side_is_mended_after_a_second_of_sound(mode: str, block: int) -> None:
    mix, mono = mixed(0.8 * SOUND, -SOUND, SOUND[::-1] * 0, mode=mode, block=block)
    assert not mix.cancelled
    assert mix.reason is not None
    assert f"channel {1 if mode == 'best' else 0}" in mix.reason
    plain = to_mono(frames_of(0.8 * SOUND, -SOUND, 0 * SOUND), None)
    np.testing.assert_array_equal(mono[:RATE], plain[:RATE])
    expected = (
        -SOUND if mode == "best" else to_mono(frames_of(-0.8 * SOUND, -SOUND, 0 * SOUND), None)
    )
    np.testing.assert_array_equal(mono[RATE:], expected[RATE:])


@pytest.mark.parametrize("mode", ["flip", "best"])
def test_the_plain_mean_returns_with_the_right_wires(mode: str) -> None:
    turned = np.concatenate([-SOUND[: 2 * RATE], SOUND[2 * RATE :]])
    mix, mono = mixed(SOUND, turned, mode=mode)
    assert mix.reason is None
    np.testing.assert_array_equal(mono[3 * RATE :], SOUND[3 * RATE :])


def test_what_no_sign_mends_is_reported() -> None:
    first, second = SOUND, SOUND[::-1]
    sides = (first, -0.5 * first + 0.866 * second, -0.5 * first - 0.866 * second)
    mix, _ = mixed(*sides, mode="flip")
    assert not mix.cancelled  # one of three is turned, and two thirds of the sound remain
    assert mixed(*sides, mode="mean")[0].cancelled


def test_silence_is_not_judged_and_keeps_the_state() -> None:
    assert not mixed(FAINT[0], -FAINT[0])[0].cancelled
    mix, _ = mixed(SOUND, -SOUND)
    mix.mono(np.zeros((3 * RATE, 2), np.float32))
    assert mix.cancelled


def test_values_that_are_no_numbers_do_not_disturb_it() -> None:
    mix = ChannelMix(RATE, None, "flip")
    assert not mix.mono(np.full((100, 2), np.nan, np.float32)).any()
    mix.mono(frames_of(SOUND, -SOUND))
    assert mix.reason is not None


def test_one_channel_is_not_judged() -> None:
    assert not mixed(SOUND)[0].cancelled
    mix, mono = mixed(SOUND, -SOUND, channel=1)
    assert not mix.cancelled
    np.testing.assert_array_equal(mono, -SOUND)


def test_the_state_ends_with_the_cancellation() -> None:
    mix, _ = mixed(SOUND, -SOUND)
    mix.mono(frames_of(SOUND, SOUND))
    assert not mix.cancelled


def test_chosen_channels_of_an_array_are_mixed() -> None:
    array = (FAINT[0], SOUND, FAINT[1], SOUND[::-1])
    _, mono = mixed(*array, channel=(1, 3))
    np.testing.assert_array_equal(mono, to_mono(frames_of(SOUND, SOUND[::-1]), None))
    mix, _ = mixed(FAINT[0], SOUND, FAINT[1], -SOUND, channel=(1, 3), mode="flip")
    assert "channel 3 is inverted" in (mix.reason or "")
    assert [channels_needed(c) for c in (None, 0, 2, (1, 3))] == [1, 1, 3, 4]

"""A wrong sample format is suspected within three seconds; sound never is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from speech_emotion.capture.sources.noise_monitor import NoiseMonitor
from speech_emotion.capture.sources.pipe_format import PipeFormat
from tests.support.pipelines import DEMO

RATE = 16000
SPEECH, _ = soundfile.read(DEMO, frames=20 * RATE, dtype="float64")
SPEECH = SPEECH + np.random.default_rng(0).normal(0.0, 1e-4, len(SPEECH))  # a real microphone


def suspected(content: bytes, channels: int = 1, *, seconds: float = 3.0) -> bool:
    monitor = NoiseMonitor(RATE)
    samples = PipeFormat(RATE, channels).decode(content[: len(content) // 4 * 4])
    for at in range(0, round(seconds * RATE), 320):
        monitor.add(samples[at : at + 320])
    return monitor.suspected


def as_s24(samples: np.ndarray) -> bytes:
    return (samples * 2**31).astype("<i4").view("u1").reshape(-1, 4)[:, 1:].tobytes()


FORMATS: dict[str, Callable[[np.ndarray], bytes]] = {
    "f32": lambda x: x.astype("<f4").tobytes(),
    "f64": lambda x: x.astype("<f8").tobytes(),
    "s24": as_s24,
    "s32": lambda x: (x * 2**31).astype("<i4").tobytes(),
    "u8": lambda x: np.clip(x * 128 + 128, 0, 255).astype("u1").tobytes(),
    "big-endian": lambda x: (x * 32767).astype(">i2").tobytes(),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_speech_in_another_format_is_suspected(name: str, channels: int) -> None:
    content = FORMATS[name](SPEECH.repeat(channels))
    assert any(
        suspected(content[at * RATE :], channels) for at in range(0, 8 * channels, 2 * channels)
    )


@pytest.mark.parametrize("gain", [0.01, 1.0, 10.0, 100.0])
def test_speech_is_not_suspected_however_loud(gain: float) -> None:
    content = (np.clip(SPEECH * gain, -1, 1) * 32767).astype("<i2").tobytes()
    for at in range(0, 16, 2):
        assert not suspected(content[2 * at * RATE :])


@pytest.mark.parametrize("hertz", [50, 1000, 2000, 4000, 6000, 7900])
def test_a_tone_at_full_scale_is_not_suspected(hertz: float) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(5 * RATE) / RATE)
    assert not suspected((tone * 32767).astype("<i2").tobytes())


def test_a_quiet_room_and_silence_are_not_suspected() -> None:
    noise = np.random.default_rng(1).normal(0.0, 0.05, 5 * RATE)
    assert not suspected((noise * 32767).astype("<i2").tobytes())
    assert not suspected(bytes(10 * RATE))


def blocks(samples: np.ndarray) -> list[np.ndarray]:
    return np.split(samples.astype(np.float32)[:, None], len(samples) // RATE)


@pytest.mark.parametrize(
    ("after", "seconds"), [(0.5 * np.sin(np.arange(RATE) / 9), 1), (np.zeros(RATE), 10)]
)
def test_the_suspicion_ends_with_sound_or_with_a_long_silence(
    after: np.ndarray, seconds: int
) -> None:
    monitor = NoiseMonitor(RATE)
    for block in blocks(np.random.default_rng(2).uniform(-1, 1, 3 * RATE)):
        monitor.add(block)
    for _ in range(seconds):
        assert monitor.suspected
        monitor.add(after.astype(np.float32)[:, None])
    assert not monitor.suspected

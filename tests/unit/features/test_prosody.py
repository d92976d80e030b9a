"""Prosody frames: bits that depend on the samples alone, and what they say of known signals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.prosody import F0_STEPS, frames_per_hop, levels_db
from speech_emotion.features.prosody import ProsodyAnalyzer
from tests.support.examples import examples

SPECS = [
    FeatureSpec(window_s=1.0, hop_s=0.5),
    FeatureSpec(window_s=3.0, hop_s=0.5),
    FeatureSpec(window_s=0.25, hop_s=0.25, n_fft=512),
    FeatureSpec(sample_rate=8000, window_s=0.7, hop_s=0.333, n_fft=512),
    FeatureSpec(sample_rate=44100, window_s=0.5, hop_s=0.101),
    FeatureSpec(window_s=0.1, hop_s=0.01, n_fft=512),
]


def harmonics(f0: float, spec: FeatureSpec, level: float = 0.1) -> NDArray[np.float32]:
    t = np.arange(spec.window) / spec.sample_rate
    top = int(0.4 * spec.sample_rate / f0)
    wave = np.sum([np.cos(2 * np.pi * k * f0 * t) / k for k in range(1, min(top, 20))], axis=0)
    return np.asarray(level * wave / np.sqrt(np.mean(wave**2)), np.float32)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.sample_rate}-{s.window_s}-{s.hop_s}")
@examples(20)
@given(seed=st.integers(0, 1000), start=st.integers(0, 3))
def test_frames_do_not_depend_on_earlier_windows(spec: FeatureSpec, seed: int, start: int) -> None:
    rng = np.random.default_rng(seed)
    sound = rng.standard_normal(spec.window + 5 * spec.hop).astype(np.float32)
    sound[rng.integers(len(sound)) :] *= 1e-3
    stream = ProsodyAnalyzer(spec)
    tracks = []
    for k in range(start, 6):
        window = sound[k * spec.hop : k * spec.hop + spec.window]
        frames = stream.frames(window)
        assert frames.tobytes() == ProsodyAnalyzer(spec).frames(window).tobytes()
        tracks.append(frames)
    n = min(frames_per_hop(spec.hop, spec.sample_rate), stream.count)
    for before, after in itertools.pairwise(tracks):
        assert before[n:].tobytes() == after[: stream.count - n].tobytes()


@pytest.mark.parametrize("spec", SPECS[:5], ids=lambda s: f"{s.sample_rate}-{s.window_s}")
@pytest.mark.parametrize("f0", [80.0, 123.4, 220.0, 440.0, 590.0])
def test_the_strongest_candidate_is_the_pitch(spec: FeatureSpec, f0: float) -> None:
    frames = ProsodyAnalyzer(spec).frames(harmonics(f0, spec))
    assert frames["f0"][:, 0] / F0_STEPS == pytest.approx(f0, rel=0.005)
    assert frames["strength"][:, 0].min() > 0.9 * 255
    assert levels_db(frames) == pytest.approx(-20.0, abs=1.0)


def test_noise_and_silence_have_no_strong_candidate() -> None:
    spec = SPECS[0]
    noise = np.random.default_rng(0).standard_normal(spec.window)
    frames = ProsodyAnalyzer(spec).frames((0.1 * noise).astype(np.float32))
    assert np.mean(frames["strength"][:, 0] > 0.45 * 255) < 0.1
    silent = ProsodyAnalyzer(spec).frames(np.zeros(spec.window, np.float32))
    assert not silent["f0"].any()
    assert not silent["level"].any()

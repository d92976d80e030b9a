"""Prosody of utterances: known signals, and Praat on recorded speech."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speech_emotion import Pipeline, Utterance
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.prosody import FRAME
from speech_emotion.common.wire.public import Prosody
from speech_emotion.features.prosody import ProsodyAnalyzer
from speech_emotion.infer.prosody import extend, prosody
from tests.support.pipelines import BUNDLE, DEMO, ROOT

RATE = 16000
SPEC = FeatureSpec(window_s=1.0, hop_s=0.5)
CLIPS = [DEMO, *sorted((ROOT / "tests" / "data").glob("speech_*.flac"))]


def of(sound: NDArray[np.float64]) -> Prosody | None:
    """Prosody of a whole sound, as if all its windows were one utterance."""
    samples = sound.astype(np.float32)
    analyzer = ProsodyAnalyzer(SPEC)
    track = b""
    for k in range(1 + (len(samples) - SPEC.window) // SPEC.hop):
        window = analyzer.frames(samples[k * SPEC.hop : k * SPEC.hop + SPEC.window]).tobytes()
        track = extend(track, window, 1, SPEC.hop, RATE) if track else window
    return prosody(track, SPEC.hop, RATE)


def syllable(f0: float, seconds: float) -> NDArray[np.float64]:
    """A voiced sound that swells and fades."""
    t = np.arange(round(seconds * RATE)) / RATE
    wave = np.sum([np.cos(2 * np.pi * k * f0 * t) / k for k in range(1, 15)], axis=0)
    return np.asarray(0.1 * wave * np.sin(np.pi * t / seconds) ** 2)


def test_a_sentence_of_known_syllables_and_pauses() -> None:
    hiss = 1e-5 * np.random.default_rng(0).standard_normal(10 * RATE)
    words = [np.concatenate([syllable(f0, 0.2) for f0 in each]) for each in PITCHES]
    pause = np.zeros(round(0.5 * RATE))
    sentence = np.concatenate([pause, words[0], pause, words[1], pause])
    found = of(sentence + hiss[: len(sentence)])
    assert found is not None
    assert found.pauses == 1
    assert found.pause_s == pytest.approx(0.55, abs=0.1)
    spoken = len(sentence) / RATE - 1.5
    assert found.syllables_s * spoken == pytest.approx(12, abs=1.5)
    assert found.f0_hz == pytest.approx(np.median(PITCHES), rel=0.05)
    assert found.f0_low_hz == pytest.approx(np.min(PITCHES), rel=0.05)
    assert found.f0_high_hz == pytest.approx(np.max(PITCHES), rel=0.05)
    assert found.voiced > 0.85


PITCHES = ((110.0, 120.0, 130.0, 140.0, 150.0, 160.0), (150.0, 140.0, 130.0, 120.0, 110.0, 100.0))


def test_an_octave_below_or_above_is_not_taken_for_the_pitch() -> None:
    # A weak subharmonic in the middle third: the path stays.
    t = np.arange(3 * RATE) / RATE
    wave = np.sum([np.cos(2 * np.pi * k * 200 * t) / k for k in range(1, 10)], axis=0)
    wave[RATE : 2 * RATE] += 0.05 * np.cos(2 * np.pi * 100 * t[RATE : 2 * RATE])
    found = of(0.1 * wave)
    assert found is not None
    assert found.f0_low_hz == pytest.approx(200, rel=0.01)
    assert found.f0_high_hz == pytest.approx(200, rel=0.01)


def test_whispering_is_not_voiced_and_silence_has_no_prosody() -> None:
    noise = 0.05 * np.random.default_rng(1).standard_normal(3 * RATE)
    found = of(noise)
    assert found is not None
    assert found.voiced < 0.1
    if found.voiced == 0.0:
        assert found.f0_hz is None
    assert of(np.zeros(3 * RATE)) is None
    assert prosody(b"", SPEC.hop, RATE) is None
    assert prosody(np.zeros(1, FRAME).tobytes(), SPEC.hop, RATE) is None


def test_frames_that_no_window_has_are_silent() -> None:
    frame = np.ones(3, FRAME).tobytes()
    track = extend(frame, frame, 1, 800, RATE)  # five frames a hop, the window has three
    assert track == frame + bytes(2 * FRAME.itemsize) + frame


@pytest.mark.filterwarnings("ignore::parselmouth.PraatWarning")
def test_recorded_speech_agrees_with_praat() -> None:
    measure = pytest.importorskip("bench.praat").measure
    pipeline, pairs = Pipeline(BUNDLE, prosody=True), []
    for clip in CLIPS:
        samples, rate = soundfile.read(clip, dtype="float64")
        assert rate == RATE
        for utterance in pipeline(clip):
            if isinstance(utterance, Utterance):
                found = utterance.prosody
                pairs.append((found, measure(samples[utterance.start : utterance.end], rate)))
    assert len(pairs) > 10

    def off(key: str) -> NDArray[np.float64]:
        return np.abs([getattr(ours, key) - getattr(praat, key) for ours, praat in pairs])

    for key in ("f0_hz", "f0_low_hz", "f0_high_hz"):
        relative = off(key) / [getattr(praat, key) for _, praat in pairs]
        assert np.median(relative) < 0.02, key
        assert np.mean(relative > 0.15) < 0.15, key
    assert off("voiced").max() < 0.12
    assert off("level_db").max() < 1.0
    assert np.median(off("syllables_s")) < 0.8
    assert np.mean(off("pauses") == 0) > 0.8


def test_nothing_changes_without_it() -> None:
    plain = list(Pipeline(BUNDLE)(DEMO))
    measured = list(Pipeline(BUNDLE, prosody=True)(DEMO))
    assert [
        dataclasses.replace(m, prosody=None) if isinstance(m, Utterance) else m for m in measured
    ] == plain

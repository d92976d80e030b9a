"""Figures of the quality of sound, on sound whose quality is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from speech_emotion.capture.quality import QualityMeter, count_holes
from tests.support.pipelines import DEMO

RATE = 16000


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    samples, rate = soundfile.read(DEMO, dtype="float32")
    return soxr.resample(samples, rate, RATE)[: 20 * RATE]  # type: ignore[no-any-return]


def figures(samples: NDArray[np.floating[Any]], block: int = 333) -> dict[str, float]:
    meter = QualityMeter(RATE)
    for at in range(0, len(samples), block):
        meter.add(samples[at : at + block].astype(np.float32))
    return meter.figures


def test_before_three_seconds_there_are_none(speech: NDArray[np.float32]) -> None:
    assert figures(speech[: 3 * RATE - 1]) == {}
    assert set(figures(speech[: 3 * RATE])) == {"snr_db", "bandwidth_hz", "dc", "dropouts_per_min"}


def test_they_do_not_depend_on_the_blocks(speech: NDArray[np.float32]) -> None:
    assert figures(speech, 7000) == figures(speech, 160)


@pytest.mark.parametrize("wanted", [10.0, 20.0, 30.0])
def test_snr_of_bursts_in_noise(wanted: float) -> None:
    chance = np.random.default_rng(0)
    noise = chance.normal(0.0, 0.003, 20 * RATE)
    tone = (
        0.003
        * np.sqrt(2.0)
        * 10 ** (wanted / 20)
        * np.sin(2 * np.pi * 440 * np.arange(20 * RATE) / RATE)
    )
    on = (np.arange(20 * RATE) // (RATE // 2)) % 2
    assert figures(noise + on * tone)["snr_db"] == pytest.approx(wanted, abs=2.0)


def test_noise_alone_has_no_signal() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.01, 10 * RATE)
    assert figures(noise)["snr_db"] < 3.0


def test_bandwidth_of_a_telephone_and_of_wide_sound(speech: NDArray[np.float32]) -> None:
    narrow = soxr.resample(soxr.resample(speech, RATE, 8000), 8000, RATE)
    assert 3000.0 <= figures(narrow)["bandwidth_hz"] <= 4250.0
    noise = np.random.default_rng(0).normal(0.0, 0.01, 10 * RATE)
    assert figures(noise)["bandwidth_hz"] == 8000.0
    assert figures(speech)["bandwidth_hz"] > 5000.0


def test_dc(speech: NDArray[np.float32]) -> None:
    assert figures(speech)["dc"] == pytest.approx(0.0, abs=0.002)
    assert figures(speech + 0.05)["dc"] == pytest.approx(0.05, abs=0.002)


def test_silence_has_figures() -> None:
    table = figures(np.zeros(5 * RATE))
    assert table == {"snr_db": 0.0, "bandwidth_hz": 0.0, "dc": 0.0, "dropouts_per_min": 0.0}


def test_holes_and_gaps_are_dropouts() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.01, 30 * RATE)
    for at in range(6):
        noise[at * 5 * RATE - 160 : at * 5 * RATE + 160] = 0.0  # across the border of a second
    meter = QualityMeter(RATE)
    meter.gap()
    meter.add(noise.astype(np.float32))
    assert meter.figures["dropouts_per_min"] == pytest.approx(2 * 6, abs=2.1)


@pytest.mark.parametrize(("zeros", "holes"), [(63, 0), (64, 1), (8000, 1), (8001, 0)])
def test_the_length_of_a_hole(zeros: int, holes: int) -> None:
    samples = np.concatenate([np.ones(10), np.zeros(zeros), np.ones(10)]).astype(np.float32)
    assert count_holes(samples, RATE) == (holes, 0, True)
    first, left, sounded = count_holes(samples[: 10 + zeros // 2], RATE)
    second, _, _ = count_holes(samples[10 + zeros // 2 :], RATE, left, sounded)
    assert (first, second) == (0, holes)


def test_zeros_before_any_sound_are_no_hole() -> None:
    samples = np.concatenate([np.zeros(500), np.ones(10)]).astype(np.float32)
    assert count_holes(samples, RATE) == (0, 0, True)

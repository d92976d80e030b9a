"""Levels: known signals, the lowest level, and bits that depend on samples alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from speech_emotion.common.levels import SILENCE_DBFS, clipped_fraction, rms_dbfs

AUDIO = arrays.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1.0, 1.0, width=32))


def sine(amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * np.arange(1600) / 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "level"),
    [
        (np.ones(100, np.float32), 0.0),
        (np.full(100, -0.1, np.float32), -20.0),
        (sine(1.0), -3.0103),
        (sine(0.01), -43.0103),
        (np.full(100, 1.0001e-5, np.float32), -99.999),
    ],
)
def test_level_of_known_signals(samples: np.ndarray, level: float) -> None:
    assert rms_dbfs(samples) == pytest.approx(level, abs=1e-3)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(16000, np.float32),
        -np.zeros(3, np.float32),
        np.zeros(0, np.float32),
        np.full(100, 1e-6, np.float32),
        np.full(100, 1e-45, np.float32),
    ],
)
def test_silence_has_the_lowest_level(samples: np.ndarray) -> None:
    assert rms_dbfs(samples) == SILENCE_DBFS == -100.0


@given(AUDIO)
def test_level_is_a_plain_float_in_range(samples: np.ndarray) -> None:
    level = rms_dbfs(samples)
    assert type(level) is float
    assert SILENCE_DBFS <= level <= 0.0
    if np.any(np.abs(samples) > 1e-3):
        exact = math.fsum(float(x) ** 2 for x in samples) / len(samples)
        assert level == pytest.approx(10 * math.log10(exact), abs=1e-9)


@given(AUDIO, st.integers(0, 7))
def test_bits_do_not_depend_on_the_address(samples: np.ndarray, offset: int) -> None:
    elsewhere = np.full(2 * len(samples) + offset, 9.0, np.float32)
    strided = elsewhere[offset::2][: len(samples)]
    strided[:] = samples
    assert rms_dbfs(strided) == rms_dbfs(samples)


def test_clipped_fraction() -> None:
    samples = np.array([1.0, -1.0, 0.9995, -0.9995, 1.5, 0.998, 0.0, -0.5], np.float32)
    assert clipped_fraction(samples) == 5 / 8
    assert type(clipped_fraction(samples)) is float
    assert clipped_fraction(np.array([32767 / 32768, 0.0], np.float32)) == 0.5
    assert clipped_fraction(np.zeros(0, np.float32)) == 0.0

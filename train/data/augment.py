"""Seeded simulation of rooms, noise, microphones and amplifiers, on samples and spectrograms."""

from __future__ import annotations

import dataclasses

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

Samples = NDArray[np.float32]
Generator = np.random.Generator

TARGET_DBFS = (-55.0, -15.0)
"""Range of the level of speech after the gain."""
SNR_DB = (0.0, 30.0)
"""Range of the signal-to-noise ratio of added noise."""
PAD_S = 1.2
"""Most room tone added before and after a clip, seconds, as around live speech."""

CROP_S = (0.5, 1.2)
"""Range of the length of a crop of `crop_speech`, seconds: a word or two."""
FADE_S = 0.01
CROP_SPEECH = 0.8
"""A crop has at least this share of the speech that a crop of its length can have."""


@dataclasses.dataclass(frozen=True)
class Odds:
    """Probability of each step of `augment`."""

    speed: float = 0.5
    pitch: float = 0.15
    room: float = 0.4
    band: float = 0.35
    noise: float = 0.7
    overdrive: float = 0.1


def augment(
    samples: Samples,
    speech: NDArray[np.bool_],
    rate: int,
    rng: Generator,
    odds: Odds | None = None,
) -> tuple[Samples, NDArray[np.bool_]]:
    """A simulated recording of a clip: 16-bit, at a random level, with room tone around it.

    Args:
        samples: clean speech (n,) in [-1, 1].
        speech: which of these samples are speech; may be a few samples shorter.
        rate: Hz.
        rng: the only source of randomness.

    Returns:
        samples (m,), float32, on the grid of 16-bit integers, and which of them are speech (m,).
    """
    odds = odds or Odds()
    x = samples.astype(np.float64)
    if rng.random() < odds.speed:
        x = change_speed(x, rate, rng.uniform(0.88, 1.12))
    if rng.random() < odds.pitch:
        x = shift_pitch(x, rate, rng.uniform(-2.0, 2.0))
    stretched = np.round(np.linspace(0, len(speech) - 1, len(x))).astype(int)
    before, after = rng.integers(0, round(PAD_S * rate), size=2)
    x = np.concatenate([np.zeros(before), x, np.zeros(after)])
    speech = np.concatenate([np.zeros(before, bool), speech[stretched], np.zeros(after, bool)])
    if rng.random() < odds.room:
        x = reverberate(x, rate, rng)
    level = speech_dbfs(x)
    noisy = rng.random() < odds.noise
    snr = rng.uniform(*SNR_DB) if noisy else rng.uniform(35.0, 60.0)
    x = x + coloured_noise(len(x), rate, rng) * 10 ** ((level - snr) / 20)
    if rng.random() < odds.band:
        x = limit_band(x, rate, rng)
    x = x * 10 ** ((rng.uniform(*TARGET_DBFS) - speech_dbfs(x)) / 20)
    if rng.random() < odds.overdrive:
        x = x / np.quantile(np.abs(x), rng.uniform(0.97, 0.999))
    return quantize(x), speech


def quantize(x: NDArray[np.float64]) -> Samples:
    """Clip to full scale and round to 16 bits, like an analog-to-digital converter."""
    return (np.round(np.clip(x, -1.0, 32767 / 32768) * 32768) / 32768).astype(np.float32)


def speech_dbfs(x: NDArray[np.floating]) -> float:
    """RMS level of the frames of 320 samples within 20 dB of the loudest frame, dBFS."""
    frames = x[: len(x) // 320 * 320].reshape(-1, 320) if len(x) >= 320 else x[np.newaxis]
    power = np.mean(frames.astype(np.float64) ** 2, axis=1)
    loud = power[power >= power.max() * 1e-2]
    return float(10 * np.log10(max(float(loud.mean()), 1e-10)))


def change_speed(x: NDArray[np.float64], rate: int, factor: float) -> NDArray[np.float64]:
    """Change tempo and pitch together by `factor`, like a tape; > 1 is faster and higher."""
    return np.asarray(soxr.resample(x, rate * factor, rate, quality="MQ"), dtype=np.float64)


def shift_pitch(x: NDArray[np.float64], rate: int, semitones: float) -> NDArray[np.float64]:
    """Change the pitch by `semitones` at the same tempo (phase vocoder, then resampling)."""
    from librosa.effects import time_stretch

    factor = 2.0 ** (semitones / 12)
    stretched = time_stretch(x, rate=1 / factor, n_fft=1024)
    return change_speed(stretched, rate, factor)


def reverberate(x: NDArray[np.float64], rate: int, rng: Generator) -> NDArray[np.float64]:
    """Convolve with a simulated room: direct sound, six early reflections, a diffuse tail.

    The tail is noise that decays by 60 dB in RT60 (Polack's statistical model).
    """
    rt60 = rng.uniform(0.15, 0.8)
    length = round(rt60 * rate)
    t = np.arange(length) / rate
    room = rng.standard_normal(length) * 10 ** (-3 * t / rt60)
    room[: round(0.004 * rate)] = 0.0
    room /= np.sqrt(np.sum(room**2))
    room *= 10 ** (-rng.uniform(0.0, 12.0) / 20)
    room[0] = 1.0
    at = rng.integers(round(0.001 * rate), round(0.03 * rate), size=6)
    np.add.at(room, at, rng.uniform(-0.4, 0.4, size=6))
    return np.asarray(signal.fftconvolve(x, room)[: len(x)])


def coloured_noise(n: int, rate: int, rng: Generator) -> NDArray[np.float64]:
    """Noise (n,) of RMS 1: power proportional to 1/f^a with a in 0..2, sometimes with mains hum.

    With probability 0.5 its level varies slowly, like that of fans and traffic.
    """
    spectrum = rng.standard_normal(n // 2 + 1) + 1j * rng.standard_normal(n // 2 + 1)
    f = np.fft.rfftfreq(n, 1 / rate)
    spectrum *= np.maximum(f, 30.0) ** (-rng.uniform(0.0, 2.0) / 2)
    noise = np.fft.irfft(spectrum, n)
    noise /= np.sqrt(np.mean(noise**2)) + 1e-12
    t = np.arange(n) / rate
    if rng.random() < 0.5:
        noise *= 1 + 0.7 * np.sin(2 * np.pi * (rng.uniform(0.1, 4.0) * t + rng.random()))
    if rng.random() < 0.3:
        base = rng.choice([50.0, 60.0])
        for k in range(1, 6):
            noise += rng.uniform(0, 1.0) / k * np.sin(2 * np.pi * (base * k * t + rng.random()))
    return np.asarray(noise / (np.sqrt(np.mean(noise**2)) + 1e-12))


def limit_band(x: NDArray[np.float64], rate: int, rng: Generator) -> NDArray[np.float64]:
    """Limit the band to a telephone's, or to a small microphone's with a resonance."""
    if rng.random() < 0.35:
        return telephone(x, rate)
    low = signal.butter(rng.integers(1, 3), rng.uniform(60, 300), "high", fs=rate, output="sos")
    high = signal.butter(2, rng.uniform(3500, 0.47 * rate), "low", fs=rate, output="sos")
    y = signal.sosfilt(high, signal.sosfilt(low, x))
    peak_b, peak_a = signal.iirpeak(rng.uniform(1000, 4500), rng.uniform(1.0, 4.0), fs=rate)
    return np.asarray(y + rng.uniform(0, 1.5) * signal.lfilter(peak_b, peak_a, y))


def telephone(x: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """Limit the band to a telephone's, 300-3400 Hz."""
    sos = signal.butter(4, (300, 3400), "band", fs=rate, output="sos")
    return np.asarray(signal.sosfilt(sos, x))


def crop_speech(
    samples: Samples, speech: NDArray[np.bool_], rate: int, rng: Generator
) -> tuple[Samples, NDArray[np.bool_]]:
    """A crop of a clip as long as a short utterance, from a random place with much speech.

    Args:
        samples: clean speech (n,).
        speech: which of these samples are speech; may be a few samples shorter.

    Returns:
        samples (m,), faded in and out, and which of them are speech (m,); the whole clip where it
        is shorter than the crop.
    """
    n = min(len(samples), len(speech))
    samples, speech = samples[:n], speech[:n]
    length = round(rng.uniform(*CROP_S) * rate)
    if n <= length:
        return samples, speech
    total = np.concatenate([[0], np.cumsum(speech)])
    starts = np.arange(0, n - length + 1, rate // 50)
    inside = total[starts + length] - total[starts]
    start = int(rng.choice(starts[inside >= CROP_SPEECH * inside.max()]))
    x = samples[start : start + length].copy()
    ramp = np.linspace(0.0, 1.0, round(FADE_S * rate), dtype=np.float32)
    x[: len(ramp)] *= ramp
    x[-len(ramp) :] *= ramp[::-1]
    return x, speech[start : start + length]


def mask_spectrogram(x: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """SpecAugment (Park et al., 2019) on a batch (n, frames, dims), in place.

    One band and one time span of each example are set to 0, the mean after normalization.
    """
    n, frames, dims = x.shape
    for size, axis in ((dims // 5, 2), (frames // 6, 1)):
        width = rng.integers(0, size + 1, size=n)
        start = rng.integers(0, x.shape[axis] - width + 1)
        index = np.arange(x.shape[axis])
        hit = (index >= start[:, None]) & (index < (start + width)[:, None])
        x *= ~(hit[:, None, :] if axis == 2 else hit[:, :, None])
    return x


def warp_spectrogram(x: NDArray[np.float32], most: float, rng: Generator) -> NDArray[np.float32]:
    """Simulate another speaker and pace on a batch (n, frames, dims) of log-mel windows.

    Frequency is stretched by up to `most` about the lowest band (as vocal tract length
    perturbation does, Jaitly and Hinton, 2013) and shifted by up to two bands; time is stretched
    by up to `most` about the middle. Linear interpolation; edge values are repeated.
    """
    n, frames, dims = x.shape
    scale = np.exp(rng.uniform(-most, most, size=(2, n, 1)))
    band = np.arange(dims) * scale[0] + rng.uniform(-2.0, 2.0, size=(n, 1))
    time = (np.arange(frames) - frames / 2) * scale[1] + frames / 2
    for axis, position in ((2, band), (1, time)):
        size = x.shape[axis]
        position = np.clip(position, 0, size - 1.001)
        low = position.astype(np.int64)
        share = (position - low).astype(np.float32)
        low, share = (np.expand_dims(a, 3 - axis) for a in (low, share))
        below = np.take_along_axis(x, low, axis)
        x = below + share * (np.take_along_axis(x, low + 1, axis) - below)
    return x


def tilt_spectrogram(
    x: NDArray[np.float32], most_db: float, rng: Generator, *, relative: bool
) -> NDArray[np.float32]:
    """Simulate another microphone and place on a batch (n, frames, dims) of log-mel windows, dB.

    A smooth curve over the bands, a sum of four cosines, is added to every frame.

    Args:
        most_db: standard deviation of the cosines' amplitudes, dB.
        relative: windows are relative to their maximum, before and after.
    """
    n, _, dims = x.shape
    order = np.arange(1, 5)[:, np.newaxis]
    waves = np.cos(np.pi * order * (np.arange(dims) + 0.5) / dims)
    height = rng.standard_normal((n, 4)) * most_db / np.sqrt(order[:, 0])
    x = x + (height @ waves).astype(np.float32)[:, np.newaxis]
    return _relative(x) if relative else x


def overlay_spectrogram(
    x: NDArray[np.float32], noise: NDArray[np.float32], rng: Generator, *, relative: bool
) -> NDArray[np.float32]:
    """Add other sounds, with maxima 0 to 30 dB lower, to batches (n, frames, dims) in dB.

    Powers add, as they do on average for random phases.

    Args:
        noise: windows of the other sounds, same shape.
        relative: windows are relative to their maximum, before and after.
    """
    below = rng.uniform(*SNR_DB, size=(len(x), 1, 1)).astype(np.float32)
    top = x.max(axis=(1, 2), keepdims=True) - noise.max(axis=(1, 2), keepdims=True)
    mixed = 10 * np.log10(10 ** (x / 10) + 10 ** ((noise + top - below) / 10) + 1e-20)
    return _relative(mixed) if relative else mixed


def _relative(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Windows in dB relative to their maximum, at least -80 dB, like those of the feature core."""
    shifted = x - x.max(axis=(1, 2), keepdims=True)
    return np.asarray(np.maximum(shifted, np.float32(-80.0)))

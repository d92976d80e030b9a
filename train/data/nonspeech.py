"""Seeded mixes of sounds without speech, for training and for counting false events.

Noise of several colours, hum, clicks, tones, digital silence and, from a folder of sound files,
recorded music and sounds, at random levels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.train.data.augment import coloured_noise, quantize
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.data.stream_features import extract_clips

PART_S = (10.0, 60.0)
"""Length of a part, seconds."""
LEVEL_DBFS = (-60.0, -20.0)
"""RMS level of a part."""
PAUSE_S = (0.5, 6.0)
"""Pause between the sound files of a part, seconds."""
SUFFIXES = (".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
TRAINING_SHARE = 0.7
"""Share of recorded sounds in training mixes; synthetic sounds are easy to separate from speech."""
SPOKEN = "audio-channel"
"""Part of the names of files in sound themes with a voice that names a loudspeaker; skipped."""

Signal = NDArray[np.float64]
Generator = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a mix.

    Attributes:
        kind: `recorded` or a key of `SYNTHETIC`.
        start, end: its samples [start, end).
        level_dbfs: RMS level.
        files: names of the sound files in it.
    """

    kind: str
    start: int
    end: int
    level_dbfs: float
    files: tuple[str, ...] = ()


def _noise(n: int, rate: int, rng: Generator) -> Signal:
    return coloured_noise(n, rate, rng)


def _hum(n: int, rate: int, rng: Generator) -> Signal:
    t = np.arange(n) / rate
    base = rng.choice([50.0, 60.0, 100.0, 120.0])
    waves = [rng.random() / k * np.sin(2 * np.pi * base * k * t) for k in range(1, 12)]
    return np.asarray(np.sum(waves, axis=0) + 0.02 * rng.standard_normal(n))


def _clicks(n: int, rate: int, rng: Generator) -> Signal:
    x = 1e-3 * rng.standard_normal(n)
    for at in rng.integers(0, n - 400, size=max(1, int(n / rate * rng.uniform(0.5, 6)))):
        length = rng.integers(4, 400)
        x[at : at + length] += rng.standard_normal(length) * np.exp(-np.arange(length) / length * 4)
    return x


def _tones(n: int, rate: int, rng: Generator) -> Signal:
    """Beeps and chirps, like those of machines."""
    x = 1e-4 * rng.standard_normal(n)
    at = 0
    while at < n:
        length = min(n - at, round(rng.uniform(0.1, 2.0) * rate))
        t = np.arange(length) / rate
        f = rng.uniform(150, 3500) * (1 + rng.choice([0.0, 0.0, 0.3]) * t)
        x[at : at + length] += np.sin(2 * np.pi * f * t) + 0.3 * np.sin(4 * np.pi * f * t)
        at += length + round(rng.uniform(0.1, 2.0) * rate)
    return x


def _silence(n: int, _rate: int, _rng: Generator) -> Signal:
    return np.zeros(n)


SYNTHETIC: dict[str, Callable[[int, int, Generator], Signal]] = {
    "noise": _noise,
    "hum": _hum,
    "clicks": _clicks,
    "tones": _tones,
    "silence": _silence,
}


def sound_files(folder: Path) -> list[Path]:
    """Sound files under a folder, sorted, without those known to hold speech.

    Raises:
        UserError: the folder has no sound files.
    """
    files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    files = [p for p in files if SPOKEN not in p.name and p.is_file()]
    if not files:
        raise UserError(f"{folder}: has no sound files; unpack some packages with music there")
    return files


def mix(
    rate: int, seconds: float, seed: int, files: Sequence[Path], recorded: float = 1 / 3
) -> tuple[Samples, list[Part]]:
    """A seeded mix of sounds without speech, (seconds * rate,), on a 16-bit grid, and its parts.

    Args:
        rate: Hz.
        files: recorded sounds; without any, all parts are synthetic.
        recorded: share of the parts that are recorded sounds.
    """
    rng = np.random.default_rng(seed)
    total = round(seconds * rate)
    out = np.zeros(total, np.float32)
    parts: list[Part] = []
    at = 0
    while at < total:
        n = min(total - at, round(rng.uniform(*PART_S) * rate))
        used: tuple[str, ...] = ()
        if files and rng.random() < recorded:
            kind = "recorded"
            x, used = _recorded(n, rate, rng, files)
        else:
            kind = list(SYNTHETIC)[rng.integers(len(SYNTHETIC))]
            x = SYNTHETIC[kind](max(n, 800), rate, rng)[:n]
        level = rng.uniform(*LEVEL_DBFS)
        rms = float(np.sqrt(np.mean(x**2)))
        out[at : at + n] = quantize(x * (10 ** (level / 20) / rms)) if rms > 0 else 0.0
        parts.append(Part(kind, at, at + n, round(level, 1), used))
        at += n
    return out, parts


def _recorded(
    n: int, rate: int, rng: Generator, files: Sequence[Path]
) -> tuple[Signal, tuple[str, ...]]:
    """An excerpt of a long file, or short files with pauses between them; (n,) and file names."""
    x = np.zeros(n)
    used = []
    at = 0
    while at < n:
        path = files[int(rng.integers(len(files)))]
        sound = _excerpt(path, rate, (n - at) / rate, rng)
        length = min(len(sound), n - at)
        x[at : at + length] = sound[:length]
        used.append(path.name)
        at += length + round(rng.uniform(*PAUSE_S) * rate)
    return x, tuple(used)


def _excerpt(path: Path, rate: int, seconds: float, rng: Generator) -> Signal:
    """A random excerpt of at most `seconds`, mono, at `rate` Hz."""
    with sf.SoundFile(path) as file:
        wanted = min(file.frames, round(seconds * file.samplerate))
        file.seek(int(rng.integers(0, file.frames - wanted + 1)))
        mono = file.read(wanted, dtype="float64", always_2d=True).mean(axis=1)
        file_rate = file.samplerate
    return np.asarray(soxr.resample(mono, file_rate, rate)) if len(mono) else np.zeros(1)


def examples(
    spec: FeatureSpec, minutes: int, seed: int, files: Sequence[Path], cache: Path, workers: int = 2
) -> NDArray[np.float16]:
    """Windows without speech that pass the gate, (n, frames, dims), before normalization.

    They come from mixes of at most an hour each; cached by spec, length, seed and files.

    Args:
        minutes: total length of the mixes.
        files: recorded sounds; without any, all parts are synthetic.
        cache: folder of the cache.
        workers: number of worker processes.
    """
    hours = -(-minutes // 60)
    names = [(f.name, f.stat().st_size) for f in files]
    described = json.dumps([dataclasses.asdict(spec), minutes, seed, names])
    path = cache / f"noise-{hashlib.sha256(described.encode()).hexdigest()[:16]}.npy"
    if path.is_file():
        return np.asarray(np.load(path))
    mixes = [
        mix(spec.sample_rate, 60.0 * minutes / hours, seed + k, files, TRAINING_SHARE)[0]
        for k in range(hours)
    ]
    streams = extract_clips(mixes, spec, force=False, workers=workers)
    x = np.concatenate([s.x.astype(np.float16) for s in streams])
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, x)
    return x

"""Two hours without speech: what a pipeline must not take for an emotion.

Noise of several colours, hum, clicks, tones, digital silence and, from a folder of sound
files, real music and sounds, at random levels. Seeded; every part is listed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.infer.decision import UNCERTAIN
from speech_emotion.train.data.augment import coloured_noise, quantize
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.evaluation.offline_decisions import Heard, hear_all, judge

PART_S = (10.0, 60.0)
LEVEL_DBFS = (-60.0, -20.0)
PAUSE_S = (0.5, 6.0)
"""Between the sounds of a part made of short sound files."""
SHORT_S = 5.0
SUFFIXES = (".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
TRAINING_SHARE = 0.7
"""Of real sounds among training examples: noise and tones are easily told from speech."""
SPOKEN = "audio-channel"
"""Sound themes have voices that name loudspeakers; they are left out."""

Signal = NDArray[np.float64]
Generator = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of the mix: samples [start, end), its kind, level and files."""

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
    """Beeps and chirps, as machines make them."""
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


MADE: dict[str, Callable[[int, int, Generator], Signal]] = {
    "noise": _noise,
    "hum": _hum,
    "clicks": _clicks,
    "tones": _tones,
    "silence": _silence,
}


def sound_files(folder: Path) -> list[Path]:
    """Sound files under a folder, those known to speak left out, sorted.

    Raises:
        UserError: there are none.
    """
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    found = [p for p in found if SPOKEN not in p.name and p.is_file()]
    if not found:
        raise UserError(f"{folder}: has no sound files; unpack some packages with music there")
    return found


def mix(
    rate: int, seconds: float, seed: int, files: Sequence[Path], recorded: float = 1 / 3
) -> tuple[Samples, list[Part]]:
    """A seeded mix of non-speech, (seconds * rate,), and what it is made of.

    Args:
        recorded: share of the parts that are real sounds, if there are `files`.
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
            kind = list(MADE)[rng.integers(len(MADE))]
            x = MADE[kind](max(n, 800), rate, rng)[:n]
        level = rng.uniform(*LEVEL_DBFS)
        rms = float(np.sqrt(np.mean(x**2)))
        out[at : at + n] = quantize(x * (10 ** (level / 20) / rms)) if rms > 0 else 0.0
        parts.append(Part(kind, at, at + n, round(level, 1), used))
        at += n
    return out, parts


def _recorded(
    n: int, rate: int, rng: Generator, files: Sequence[Path]
) -> tuple[Signal, tuple[str, ...]]:
    """A stretch of one long file, or short ones with pauses between them."""
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
    with sf.SoundFile(path) as file:
        wanted = min(file.frames, round(seconds * file.samplerate))
        file.seek(int(rng.integers(0, file.frames - wanted + 1)))
        mono = file.read(wanted, dtype="float64", always_2d=True).mean(axis=1)
        found = file.samplerate
    return np.asarray(soxr.resample(mono, found, rate)) if len(mono) else np.zeros(1)


def hear_mix(samples: Samples, spec: FeatureSpec) -> Heard:
    """The mix as one long stream through gate and feature core."""
    return hear_all([samples], spec, force=False, workers=1)[0]


def false_events(
    heard: Heard, outputs: NDArray[np.float32], bundle: Bundle, parts: Sequence[Part]
) -> dict[str, Any]:
    """Utterances labelled neither `neutral` nor `uncertain`, per hour and by kind of part."""
    utterances = judge(heard, outputs, bundle).utterances
    hours = parts[-1].end / bundle.spec.sample_rate / 3600
    false = [u for u in utterances if u.emotion not in ("neutral", UNCERTAIN)]
    by_kind = dict.fromkeys(sorted({p.kind for p in parts}), 0)
    for utterance in false:
        middle = (utterance.start + utterance.end) // 2
        by_kind[next(p.kind for p in parts if p.start <= middle < p.end)] += 1
    return {
        "per_hour": len(false) / hours,
        "hours": hours,
        "utterances": len(utterances),
        "speech_windows": len(outputs),
        "windows": len(heard.kind),
        "by_kind": by_kind,
    }


def examples(
    spec: FeatureSpec, minutes: int, seed: int, files: Sequence[Path], cache: Path, workers: int = 2
) -> NDArray[np.float16]:
    """Windows that the gate takes for speech, (n, frames, dims), for training.

    They come from mixes of an hour at most, mostly of real sounds if there are `files`; cached
    under `cache` by spec, length, seed and files.
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
    heard = hear_all(mixes, spec, force=False, workers=workers)
    x = np.concatenate([h.x.astype(np.float16) for h in heard])
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, x)
    return x

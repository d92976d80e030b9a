"""Pooled encoder statistics of the clips' windows, clean and in simulated recordings, cached.

The windows, the gate and the features are those of the live pipeline, and the encoder is the
8-bit graph of the bundle, so that a head is trained on the same values that it gets in use.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core import Banks, Core, make_core, normalize
from speech_emotion.features.extractor import FeatureExtractor, windows_of
from speech_emotion.features.gate import Gate, make_gate
from speech_emotion.train.data import nonspeech
from speech_emotion.train.data.augment import (
    Odds,
    augment,
    coloured_noise,
    crop_speech,
    quantize,
    speech_dbfs,
)
from speech_emotion.train.data.clips import Clip, Samples, load
from speech_emotion.train.data.dataset import ACTIVE_S, active
from speech_emotion.train.data.workers import pool, progress
from speech_emotion.train.model.export import to_tflite
from speech_emotion.train.model.whisper import graph
from speech_emotion.train.model.whisper.encoder import statistics
from speech_emotion.train.model.whisper.weights import load_weights

log = logging.getLogger("train")

WINDOWS_PER_COPY = 2
"""Most windows of one simulated recording; others are dropped at random."""
ODDS = Odds(pitch=0.0)
"""No pitch shift: a change of speed changes the pitch, too, and the phase vocoder is slow."""
ROOM_S = 1.5
"""Most room tone before and after a simulated recording, seconds, in addition to `augment`'s."""

CROP = "crop"
"""Name of the rendering that is a piece of each clip, as long as a word or two."""
CROP_ACTIVE_S = 0.2
"""Least speech in a window of such a piece, seconds."""
MOST_SPEECH = 0.8
"""Its window has at least this share of the speech of the window with most."""


@dataclasses.dataclass(frozen=True)
class WindowStatistics:
    """Statistics of the windows of one rendering of all clips.

    Attributes:
        x: float16, (windows, columns), see `graph.blocks`.
        clip: clip index per window, (windows,).
        speech: seconds of speech per window of a simulated recording; 0 for clean clips.
    """

    x: NDArray[np.float16]
    clip: NDArray[np.int32]
    speech: NDArray[np.float32]


_core: Core
_gate: Gate
_extractor: FeatureExtractor
_spec: FeatureSpec
_interpreter: Any
_mean: Samples
_std: Samples


def encoder_file(
    weights: Path,
    spec: FeatureSpec,
    work: Path,
    name: str = "statistics",
    make: Callable[..., Any] = graph.pooled_graph,
) -> Path:
    """Path of an 8-bit graph of the encoder in the work folder; written if it does not exist.

    Args:
        name: of the file.
        make: (weights, frames, bands) → Keras model.
    """
    path = work / f"{name}-{spec.n_frames}.tflite"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        model = make(load_weights(weights), spec.n_frames, spec.dims)
        path.write_bytes(to_tflite(model, quantized=True))
    return path


def extract(
    clips: Sequence[Clip],
    spec: FeatureSpec,
    encoder: Path,
    copy: int | str,
    work: Path,
    *,
    seed: int = 0,
    workers: int = 1,
) -> WindowStatistics:
    """Statistics of one rendering of the clips.

    Copy 0 is clean, other numbers are simulated recordings, and `CROP` is a piece of each clip.
    A clean clip gives every window that the live pipeline would classify; a clip in which the
    gate finds no speech gives all its windows. The seed does not change clean clips.
    """
    seed = seed if copy else 0
    described = json.dumps(
        [dataclasses.asdict(spec), [c.name for c in clips], copy, seed, _identity(encoder)]
    )
    path = work / f"windows-{copy}-{hashlib.sha256(described.encode()).hexdigest()[:12]}.npz"
    if path.is_file():
        with np.load(path) as arrays:
            return WindowStatistics(arrays["x"], arrays["clip"], arrays["speech"])
    jobs = [(clip, copy, _seed(clip, copy, seed)) for clip in clips]
    with pool(workers, _start, (spec, encoder)) as processes:
        found = progress(processes.imap(_statistics, jobs, chunksize=16), len(jobs), f"copy {copy}")
    statistics_set = WindowStatistics(
        np.concatenate([x for x, _ in found]),
        np.repeat(np.arange(len(clips), dtype=np.int32), [len(x) for x, _ in found]),
        np.concatenate([s for _, s in found]),
    )
    _save(path, statistics_set)
    return statistics_set


def of_changed(
    sounds: Iterable[Samples],
    clips: NDArray[np.int64],
    spec: FeatureSpec,
    encoder: Path,
    work: Path,
    *,
    key: Sequence[object],
    title: str,
    workers: int = 1,
) -> WindowStatistics:
    """Statistics of changed clips, their windows as those of clean clips; cached.

    Args:
        sounds: of the clips, read only if nothing is cached.
        clips: index per sound, (sounds,).
        key: what determines the sounds.
        title: of the progress bar and in the name of the cache.
    """
    described = json.dumps([dataclasses.asdict(spec), list(key), _identity(encoder)])
    digest = hashlib.sha256(described.encode()).hexdigest()[:12]
    path = work / f"windows-{title.replace(' ', '_')}-{digest}.npz"
    if path.is_file():
        with np.load(path) as arrays:
            return WindowStatistics(arrays["x"], arrays["clip"], arrays["speech"])
    with pool(workers, _start, (spec, encoder)) as processes:
        found = progress(processes.imap(_whole, sounds, chunksize=4), len(clips), title)
    clip = np.repeat(clips, [len(x) for x in found]).astype(np.int32)
    statistics_set = WindowStatistics(np.concatenate(found), clip, np.zeros(len(clip), np.float32))
    _save(path, statistics_set)
    return statistics_set


def _save(path: Path, statistics_set: WindowStatistics) -> None:
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, x=statistics_set.x, clip=statistics_set.clip, speech=statistics_set.speech)
    partial.rename(path)


def of_sounds(
    sounds: Sequence[Samples], spec: FeatureSpec, encoder: Path, workers: int = 1
) -> list[NDArray[np.float16]]:
    """Statistics of the windows that pass the gate, per sound, (windows, columns)."""
    with pool(workers, _start, (spec, encoder)) as processes:
        return progress(processes.imap(_passing, sounds), len(sounds), "sounds")


NOISE_MIXES, NOISE_S = 4, 1800.0
"""Number of mixes of sounds without speech, and their length in seconds."""


def of_noise(
    files: Sequence[Path], spec: FeatureSpec, encoder: Path, work: Path, seed: int = 0
) -> NDArray[np.float16]:
    """Statistics of windows without speech that pass the gate, (windows, columns); cached."""
    names = [(f.name, f.stat().st_size) for f in files]
    described = json.dumps([dataclasses.asdict(spec), names, seed, _identity(encoder)])
    path = work / f"noise-{hashlib.sha256(described.encode()).hexdigest()[:12]}.npy"
    if path.is_file():
        return np.asarray(np.load(path))
    mixes = [
        nonspeech.mix(spec.sample_rate, NOISE_S, seed + 100 + k, files, nonspeech.TRAINING_SHARE)[0]
        for k in range(NOISE_MIXES)
    ]
    x = np.concatenate(of_sounds(mixes, spec, encoder))
    np.save(path, x)
    return x


def _identity(encoder: Path) -> str:
    """Digest of the encoder: files of different networks may have the same size."""
    return hashlib.sha256(encoder.read_bytes()).hexdigest()


def _seed(clip: Clip, copy: int | str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{clip.name}/{copy}/{seed}".encode()).digest()[:8])


def _start(spec: FeatureSpec, encoder: Path) -> None:
    global _core, _gate, _extractor, _spec, _interpreter, _mean, _std
    from ai_edge_litert.interpreter import Interpreter

    _core, _gate, _spec = make_core(spec, Banks.from_librosa(spec)), make_gate(spec), spec
    _mean, _std = statistics(spec.dims)
    _extractor = FeatureExtractor(spec, _core, _mean, _std)
    _interpreter = Interpreter(model_path=str(encoder), num_threads=1)
    _interpreter.allocate_tensors()


def _encode(windows: list[Samples]) -> NDArray[np.float16]:
    size = int(_interpreter.get_output_details()[0]["shape"][-1])
    rows = [graph.run(_interpreter, window) for window in windows]
    return np.array(rows, np.float16).reshape(-1, size)


def _features(window: Samples) -> Samples:
    features = _core.extract(window)
    normalize(features, _mean, _std, _spec.eps, out=features)
    return features


def _passing(samples: Samples) -> NDArray[np.float16]:
    _extractor.resume([])
    grid = WindowGrid(_spec.window, _spec.hop)
    found = (_extractor.analyze(window).features for _, window in windows_of(samples, grid))
    size = int(_interpreter.get_output_details()[0]["shape"][-1])
    rows = [graph.run(_interpreter, x) for x in found if x is not None]
    return np.array(rows, np.float16).reshape(-1, size)


def _whole(samples: Samples) -> NDArray[np.float16]:
    """Statistics of the windows that pass the gate, or of all windows where none does."""
    x = _passing(samples)
    if len(x):
        return x
    grid = WindowGrid(_spec.window, _spec.hop)
    return _encode([_features(window) for _, window in windows_of(samples, grid)])


def _statistics(
    job: tuple[Clip, int | str, int],
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    clip, copy, seed = job
    samples = load(clip, _spec.sample_rate)
    if not copy:
        x = _whole(samples)
        return x, np.zeros(len(x), np.float32)
    make = _cropped if copy == CROP else _recorded_again
    return make(samples, np.random.default_rng(seed))


def _recorded_again(
    samples: Samples, rng: np.random.Generator
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    rate = _spec.sample_rate
    speech = np.repeat(active(samples, rate), rate // 50)
    samples, speech = augment(samples, speech, rate, rng, ODDS)
    samples, speech = _longer(samples, speech, rate, rng)
    kept, speech_s = _with_speech(samples, speech, ACTIVE_S)
    chosen = np.arange(len(kept))
    if len(kept) > WINDOWS_PER_COPY:
        # Prefer windows with much speech: they determine the utterance.
        share = np.array(speech_s) / sum(speech_s)
        chosen = np.sort(rng.choice(len(kept), WINDOWS_PER_COPY, replace=False, p=share))
    x = _encode([_features(kept[i]) for i in chosen])
    return x, np.array([speech_s[i] for i in chosen], np.float32)


def _cropped(
    samples: Samples, rng: np.random.Generator
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """One window with a piece of the clip; none where the gate finds no speech in it."""
    rate = _spec.sample_rate
    speech = np.repeat(active(samples, rate), rate // 50)
    piece, speech = crop_speech(samples, speech, rate, rng)
    kept, speech_s = _with_speech(*_longer(piece, speech, rate, rng), CROP_ACTIVE_S)
    if not kept:
        return _encode([]), np.zeros(0, np.float32)
    seconds = np.array(speech_s, np.float32)
    one = int(rng.choice(np.flatnonzero(seconds >= MOST_SPEECH * seconds.max())))
    return _encode([_features(kept[one])]), seconds[[one]]


def _with_speech(
    samples: Samples, speech: NDArray[np.bool_], least_s: float
) -> tuple[list[Samples], list[float]]:
    """The windows that pass the gate and have at least `least_s` of speech, and their speech."""
    _gate.reset()
    kept, speech_s = [], []
    for k, window in windows_of(samples, WindowGrid(_spec.window, _spec.hop)):
        start = k * _spec.hop
        samples_of_speech = int(np.count_nonzero(speech[start : start + _spec.window]))
        seconds = samples_of_speech / _spec.sample_rate
        if _gate.step(window) and seconds >= least_s:
            kept.append(window)
            speech_s.append(seconds)
    return kept, speech_s


def _longer(
    samples: Samples, speech: NDArray[np.bool_], rate: int, rng: np.random.Generator
) -> tuple[Samples, NDArray[np.bool_]]:
    """Add quiet noise before and after, or digital silence after, as for a short file."""
    before, after = rng.integers(0, round(ROOM_S * rate), size=2)
    if rng.random() < 0.4:
        before, level = 0, -200.0
    else:
        level = speech_dbfs(samples) - rng.uniform(30.0, 60.0)
    tone = coloured_noise(before + after + 1600, rate, rng) * 10 ** (level / 20)
    whole = np.concatenate([tone[:before], samples, tone[before : before + after]])
    padded = np.concatenate([np.zeros(before, bool), speech, np.zeros(after, bool)])
    return quantize(whole.astype(np.float64)), padded

"""A large speech model as teacher: its embedding of each clip guides the small network.

Any Whisper model in CTranslate2's format will do (Radford et al., 2022; MIT licence); the
shipped `default` had `tiny.en`. Only training needs it, never the edge box. It knows nothing of
our labels; the probabilities it teaches are cross-fitted, so that no clip is judged by a
classifier that saw its speaker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError
from speech_emotion.train.data.clips import Clip, Samples
from speech_emotion.train.data.dataset import content_key, progress

RATE = 16000
SIZE = 256
"""Dimensions kept of the whitened embedding, most variance first."""
TAUGHT = 64
"""Of these, so many are taught as such."""
TRIM_DB = 35.0

Array = NDArray[np.float32]


def embed(clips: Sequence[Clip], sounds: Sequence[Samples], model: Path, cache: Path) -> Array:
    """Whitened embeddings (clips, SIZE) of 16 kHz clips; cached by model and content.

    Whitening looks at all the clips without their labels.

    Raises:
        UserError: no such model.
    """
    if not (model / "model.bin").is_file():
        raise UserError(f"{model}: holds no Whisper model in CTranslate2 format (model.bin)")
    key = hashlib.sha256((content_key(clips, sounds) + _digest(model)).encode()).hexdigest()[:16]
    path = cache / f"teacher-{key}.npy"
    if path.is_file():
        raw = np.load(path)
    else:
        raw = _encode(sounds, model)
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, raw)
    return _whiten(raw)


def _digest(model: Path) -> str:
    return hashlib.sha256((model / "model.bin").read_bytes()).hexdigest()


def _encode(sounds: Sequence[Samples], model: Path) -> Array:
    """Mean, deviation and maximum over time of the encoder's output, (clips, 3 * width)."""
    import ctranslate2  # type: ignore[import-not-found,unused-ignore]
    from librosa import stft
    from librosa.effects import trim
    from librosa.filters import mel

    whisper = ctranslate2.models.Whisper(str(model), compute_type="int8", intra_threads=1)
    bank = mel(sr=RATE, n_fft=400, n_mels=80)
    found = []
    for samples in progress(iter(sounds), len(sounds), "teacher"):
        trimmed, _ = trim(samples, top_db=TRIM_DB)
        trimmed = 0.5 * trimmed / max(float(np.abs(trimmed).max()), 1e-5)
        power = np.abs(stft(trimmed, n_fft=400, hop_length=160)[:, :-1]) ** 2
        log = np.log10(np.maximum(bank @ power, 1e-10))
        log = ((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0).astype(np.float32)
        log = np.ascontiguousarray(log[np.newaxis, :, : log.shape[1] // 2 * 2])
        view = whisper.encode(ctranslate2.StorageView.from_array(log))
        out = np.array(view)[0].astype(np.float32)
        found.append(np.concatenate([out.mean(axis=0), out.std(axis=0), out.max(axis=0)]))
    return np.array(found, np.float32)


def _whiten(raw: Array, size: int = SIZE) -> Array:
    scaled = (raw - raw.mean(axis=0)) / (raw.std(axis=0) + 1e-6)
    _, _, directions = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    kept = scaled @ directions[:size].T
    return np.asarray(kept / (kept.std(axis=0) + 1e-6), np.float32)


def soft_labels(
    embeddings: Array,
    truth: NDArray[np.int64],
    corpora: NDArray[np.str_],
    speakers: NDArray[np.str_],
    train: NDArray[np.int64],
    labels: int,
    parts: int = 5,
) -> Array:
    """The teacher's probabilities for the training clips, (clips, labels); NaN for others.

    Each clip is judged by a logistic regression that saw none of its speaker's clips, and no
    clip outside `train` is looked at.
    """
    from sklearn.linear_model import LogisticRegression

    found = np.full((len(embeddings), labels), np.nan, np.float32)
    known = train[truth[train] >= 0]
    names = sorted(set(speakers[known].tolist()))
    part = {name: i % parts for i, name in enumerate(names)}
    of = np.array([part[s] for s in speakers[known]])
    for k in range(parts):
        seen, unseen = known[of != k], known[of == k]
        if len(unseen) == 0 or len(set(truth[seen].tolist())) < labels:
            continue
        groups = np.char.add(corpora[seen], truth[seen].astype(str))
        _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
        weight = len(seen) / len(counts) / counts[group]
        model = LogisticRegression(C=0.01, max_iter=300)
        model.fit(embeddings[seen], truth[seen], sample_weight=weight)
        found[unseen] = model.predict_proba(embeddings[unseen])
    return found

"""A Whisper model as the teacher of a small network: an embedding and probabilities per clip.

Any Whisper model in CTranslate2 format works (Radford et al., 2022; MIT licence). Only training
uses it. The probabilities come from classifiers on its embeddings; each clip is classified by
one that was not trained on the clip's speaker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError
from speech_emotion.train.data.clips import Clip, Samples
from speech_emotion.train.data.dataset import content_key
from speech_emotion.train.data.workers import progress

RATE = 16000
SIZE = 256
"""Number of dimensions kept of the whitened embedding, largest variance first."""
TAUGHT_DIMS = 64
"""Number of these dimensions that the `teacher` head learns."""
TRIM_DB = 35.0
"""Audio at the ends of a clip that is this far below its maximum is cut off, dB."""

Array = NDArray[np.float32]


def embed(clips: Sequence[Clip], sounds: Sequence[Samples], model: Path, cache: Path) -> Array:
    """Whitened embeddings of 16 kHz clips, (clips, SIZE); cached by model and content.

    Whitening uses all clips, without their labels.

    Raises:
        UserError: the folder holds no Whisper model.
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
    """Mean, standard deviation and maximum over time of the encoder output, (clips, 3 * width)."""
    import ctranslate2  # type: ignore[import-not-found,unused-ignore]
    from librosa import stft
    from librosa.effects import trim
    from librosa.filters import mel

    whisper = ctranslate2.models.Whisper(str(model), compute_type="int8", intra_threads=1)
    bank = mel(sr=RATE, n_fft=400, n_mels=80)
    embeddings = []
    for samples in progress(iter(sounds), len(sounds), "teacher"):
        trimmed, _ = trim(samples, top_db=TRIM_DB)
        trimmed = 0.5 * trimmed / max(float(np.abs(trimmed).max()), 1e-5)
        power = np.abs(stft(trimmed, n_fft=400, hop_length=160)[:, :-1]) ** 2
        log = np.log10(np.maximum(bank @ power, 1e-10))
        log = ((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0).astype(np.float32)
        log = np.ascontiguousarray(log[np.newaxis, :, : log.shape[1] // 2 * 2])
        view = whisper.encode(ctranslate2.StorageView.from_array(log))
        out = np.array(view)[0].astype(np.float32)
        embeddings.append(np.concatenate([out.mean(axis=0), out.std(axis=0), out.max(axis=0)]))
    return np.array(embeddings, np.float32)


def _whiten(raw: Array, size: int = SIZE) -> Array:
    """Uncorrelated columns of unit variance, (clips, size), largest original variance first."""
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

    Each clip is classified by a logistic regression that was trained without the clip's speaker.
    Clips outside `train` are not used.

    Args:
        embeddings: (clips, size).
        truth: label index per clip, (clips,); -1 for an emotion outside the label set.
        corpora, speakers: per clip, (clips,).
        train: indices of the training clips.
        labels: number of labels.
        parts: number of groups of speakers for the cross-fitting.
    """
    from sklearn.linear_model import LogisticRegression

    probabilities = np.full((len(embeddings), labels), np.nan, np.float32)
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
        probabilities[unseen] = model.predict_proba(embeddings[unseen])
    return probabilities

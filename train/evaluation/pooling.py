"""Attentive statistics pooling against plain mean and deviation, on corpora left out.

Both poolings (Okabe et al., 2018, and its uniform case) get the same frames of the frozen encoder,
the same clips, and the same two heads: a linear one that is trained with the attention, and the
discriminant of `model.whisper.discriminant` on the pooled statistics.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.data.clips import Clip
from speech_emotion.train.data.soft_targets import soft_targets
from speech_emotion.train.evaluation.metrics import uar
from speech_emotion.train.model.whisper.discriminant import (
    Matrix,
    moments,
    per_clip,
    softmax,
    solve,
    standard,
)
from speech_emotion.train.model.whisper.heads import LABELS, HeadTrainingSet
from speech_emotion.train.model.whisper.window_statistics import WindowStatistics

log = logging.getLogger("train")

TRUST, DROPOUT, DECAY = 0.5, 0.5, 1e-3
LEARNING_RATE = 1e-3
EACH = 8
"""Windows of each corpus in a batch; labels alike."""
VARIANTS = ("linear", "discriminant", "discriminant, mean only")

Index = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames of the windows of clips.

    Attributes:
        x: (windows, steps, columns).
        weight: of speech, (windows, steps), of sum 1.
        clip: clip index per window, (windows,).
    """

    x: NDArray[np.float16]
    weight: Matrix
    clip: Index


def frames_of(windows: WindowStatistics, steps: int) -> Frames:
    """Frames from rows of `graph.frames_graph`."""
    x = windows.x.reshape(len(windows.x), steps, -1)
    weight = np.maximum(x[:, :, -1].astype(np.float32), 1e-7)
    return Frames(
        x[:, :, :-1], weight / weight.sum(axis=1, keepdims=True), windows.clip.astype(np.int64)
    )


def part_of(clips: Sequence[Clip], each: int, seed: int) -> list[Clip]:
    """At most `each` clips of every corpus, drawn at random, in their order."""
    rng, corpus = np.random.default_rng(seed), np.array([c.corpus for c in clips])
    kept: list[int] = []
    for name in np.unique(corpus):
        mine = np.flatnonzero(corpus == name)
        kept += rng.choice(mine, min(each, len(mine)), replace=False).tolist()
    return [clips[k] for k in sorted(kept)]


def compare(
    known: HeadTrainingSet, frames: Frames, *, hidden: int, steps: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """Pooling → head → corpus → UAR of its clips with each seed, the corpus left out of training.

    Args:
        known: labelled clips; their statistics are not used.
        hidden: units of the attention; 0: it is linear in the frame.
        steps: of the training.
        seeds: of the weights and batches.
    """
    corpus, truth = known.corpus, known.truth
    targets = soft_targets(known.clips, truth, LABELS, known.votes, smoothing=0.0, trust=TRUST)
    found: dict[str, Any] = {
        pooling: {head: {} for head in VARIANTS} for pooling in ("plain", "attentive")
    }
    for name in np.unique(corpus):
        test = np.flatnonzero(corpus == name)
        train = corpus[frames.clip] != name
        for seed in seeds:
            for pooling, heads in found.items():
                scores = _scores(
                    frames,
                    train,
                    targets[frames.clip],
                    truth[frames.clip],
                    corpus[frames.clip],
                    hidden=hidden if pooling == "attentive" else None,
                    steps=steps,
                    seed=seed,
                )
                for head, values in scores.items():
                    clip = frames.clip[~train]
                    means = per_clip(softmax(values), clip, len(corpus))[test]
                    right = uar(truth[test], means.argmax(axis=1), len(LABELS))
                    heads[head].setdefault(str(name), []).append(right)
                log.info(
                    "left out %s, seed %d, %s: %s",
                    *(name, seed, pooling),
                    ", ".join(f"{h} {100 * v[str(name)][-1]:.1f}" for h, v in heads.items()),
                )
    return found


def _scores(
    frames: Frames,
    train: NDArray[np.bool_],
    targets: Matrix,
    truth: Index,
    corpus: NDArray[np.str_],
    *,
    hidden: int | None,
    steps: int,
    seed: int,
) -> dict[str, Matrix]:
    """Head → scores of the windows that are not in training, (windows, labels).

    Args:
        hidden: units of the attention; None: plain pooling.
    """
    rows, tests = np.flatnonzero(train), np.flatnonzero(~train)
    of_corpus = [rows[corpus[rows] == name] for name in np.unique(corpus[rows])]
    plain = pool(frames, frames.weight)
    mean, std = standard([moments(plain[k], targets[k], truth[k]) for k in of_corpus])
    model, attention = _model(frames, mean, std, hidden=hidden, steps=steps, seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        k = np.concatenate([_drawn(k, truth[k], rng) for k in of_corpus])
        model.train_on_batch(_input(frames, k), targets[k])
    linear = np.concatenate([np.asarray(model(_input(frames, k))) for k in _batches(tests)])
    pooled = plain
    if hidden is not None:
        weight = [np.asarray(attention(_input(frames, k))) for k in _batches(np.arange(len(train)))]
        pooled = pool(frames, np.concatenate(weight)[:, :, 0])
    found = {"linear": linear}
    for head, columns in ((VARIANTS[1], len(mean)), (VARIANTS[2], len(mean) // 2)):
        x = (pooled[:, :columns] - mean[:columns]) / std[:columns]
        parts = [moments(x[k], targets[k], truth[k]) for k in of_corpus]
        centre, deviation = standard(parts)
        solved = solve(parts, spread=1.0, ridge=1.0, deviation=deviation, centre=centre)
        found[head] = solved.scores(x[tests]) / 2.0
    return found


def _drawn(rows: Index, truth: Index, rng: np.random.Generator) -> Index:
    """`EACH` of the windows of a corpus, its labels alike."""
    labels = rng.choice(np.unique(truth), EACH)
    return np.array([rng.choice(rows[truth == label]) for label in labels])


def _model(
    frames: Frames, mean: Matrix, std: Matrix, *, hidden: int | None, steps: int, seed: int
) -> tuple[Any, Any]:
    """Keras models from frames and their weights to scores, and to the weights of the pooling.

    Args:
        mean, std: of the plain statistics; the attention begins with these.
    """
    import keras
    from keras import ops

    keras.utils.set_random_seed(seed)
    _, length, columns = frames.x.shape
    x, speech = keras.Input((length, columns)), keras.Input((length, 1))
    weight = speech
    if hidden is not None:
        # The second half of the statistics are deviations over time, the scale of a frame.
        z = (x - mean[:columns]) / mean[columns:]
        if hidden:
            z = keras.layers.Dense(hidden, activation="tanh")(z)
        score = keras.layers.Dense(1, kernel_initializer="zeros")(z)
        weight = ops.softmax(score + ops.log(speech), axis=1)
    centre = ops.sum(x * weight, axis=1, keepdims=True)
    variance = ops.sum(ops.square(x - centre) * weight, axis=1)
    pooled = ops.concatenate([centre[:, 0], ops.sqrt(variance + 1e-5)], axis=1)
    pooled = keras.layers.Dropout(DROPOUT)((pooled - mean) / std)
    scores = keras.layers.Dense(
        len(LABELS), kernel_initializer="zeros", kernel_regularizer=keras.regularizers.L2(DECAY)
    )(pooled)
    model = keras.Model([x, speech], scores)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    return model, keras.Model([x, speech], weight)


def pool(frames: Frames, weight: Matrix) -> Matrix:
    """Weighted mean and standard deviation over the steps, (windows, 2 * columns)."""
    found = []
    for k in _batches(np.arange(len(frames.x))):
        x, w = frames.x[k].astype(np.float32), weight[k, :, np.newaxis]
        mean = (x * w).sum(axis=1)
        variance = (np.square(x - mean[:, np.newaxis]) * w).sum(axis=1)
        found.append(np.concatenate([mean, np.sqrt(variance + 1e-5)], axis=1))
    return np.concatenate(found)


def _batches(rows: Index) -> list[Index]:
    return np.array_split(rows, max(1, len(rows) // 64))


def _input(frames: Frames, rows: Index) -> list[Matrix]:
    return [frames.x[rows].astype(np.float32), frames.weight[rows][:, :, np.newaxis]]


def markdown(found: Mapping[str, Any]) -> str:
    """UAR of each pooling and head, in per cent, mean of the seeds."""
    names = list(found["plain"]["linear"])
    lines = [["pooling", "head", *names, "mean (of each seed)"], ["---"] * (len(names) + 3)]
    for pooling, heads in found.items():
        for head, rows in heads.items():
            runs = 100.0 * np.array([rows[name] for name in names])
            each = ", ".join(f"{v:.1f}" for v in runs.mean(axis=0))
            cells = [f"{v:.1f}" for v in runs.mean(axis=1)]
            lines.append([pooling, head, *cells, f"{runs.mean():.1f} ({each})"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""Train one network on one set of speakers.

Training is seeded and resumes from a checkpoint; the same seed gives the same weights.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError
from speech_emotion.features.core import normalize
from speech_emotion.train.data.augment import mask_spectrogram
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.model.network import build
from speech_emotion.train.model.recipe import Recipe
from speech_emotion.train.model.sampling import make_sampler, vary
from speech_emotion.train.model.teacher import TAUGHT_DIMS
from speech_emotion.train.model.training_set import Index, TrainingSet

log = logging.getLogger("train")

CHECKPOINT_STEPS = 250
PREDICT_BATCH = 512


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained network with the feature statistics of its training clips.

    Attributes:
        model: Keras model, (batch, frames, dims, 1) → raw scores per head.
        mean, std: of the features, (dims,).
        eps: in `(x - mean) / (std + eps)`.
    """

    model: Any
    mean: Samples
    std: Samples
    eps: float

    @property
    def speech(self) -> bool:
        """Whether the model has a head that separates speech from other sounds."""
        return "speech" in self.model.output

    def outputs(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """The outputs that a bundle has: probabilities of the labels, then of speech if any.

        Args:
            x: features (n, frames, dims) before normalization.

        Returns:
            (n, outputs).
        """
        import keras

        size = self.model.output["label"].shape[-1] + self.speech
        outputs = [np.zeros((0, size), np.float32)]
        for part in np.array_split(x, max(1, -(-len(x) // PREDICT_BATCH))):
            if len(part):
                normalized = normalize(part.astype(np.float32), self.mean, self.std, self.eps)
                scores = self.model(normalized[..., np.newaxis], training=False)
                columns = [keras.ops.softmax(scores["label"])]
                if self.speech:
                    columns.append(keras.ops.sigmoid(scores["speech"]))
                outputs.append(np.concatenate([np.asarray(c) for c in columns], axis=1))
        return np.concatenate(outputs)


def set_threads(n: int) -> None:
    """Let TensorFlow use `n` threads and deterministic kernels. Call it before any other use."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(n)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()


def fit(
    training_set: TrainingSet,
    train: Index,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path,
    soft: NDArray[np.float32] | None = None,
    stop: int | None = None,
) -> TrainedModel:
    """Train on the clips `train`; resume from `checkpoint` if that file exists.

    Args:
        train: indices of the clips to train on.
        seed: of the weights and of every batch.
        checkpoint: file that stores weights, optimizer state and step.
        soft: a teacher's probabilities per clip, (clips, labels), if `recipe.distil` > 0.
        stop: end after this step; the next call resumes there.

    Raises:
        UserError: a label has no training clip.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    spec = training_set.spec
    truth, labels = training_set.truth(recipe), training_set.label_names(recipe)
    inside = np.zeros(len(training_set.clips), bool)
    inside[train] = True
    missing = set(range(len(labels))) - set(truth[train].tolist())
    if missing:
        raise UserError(f"no training clip of {', '.join(labels[i] for i in sorted(missing))}")
    emotions = sorted({c.emotion for c in training_set.clips})
    emotion = np.array([emotions.index(c.emotion) for c in training_set.clips])
    draw, mean, std = make_sampler(training_set, inside, truth, recipe)

    heads = {"label": len(labels), "emotion": len(emotions)}
    embeddings = None
    if recipe.teacher and training_set.embeddings is not None:
        embeddings = training_set.embeddings[:, :TAUGHT_DIMS]
        heads["teacher"] = embeddings.shape[1]
    if recipe.speech_head:
        heads["speech"] = 1
    model = build(recipe.network, spec.n_frames, spec.dims, heads)
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.steps),
        weight_decay=recipe.weight_decay,
    )
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(
        x: Any, target: Any, has_label: Any, has_emotion: Any, emotion: Any, embedded: Any
    ) -> Any:
        with tf.GradientTape() as tape:
            scores = model(x, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(target, scores["label"])
            loss = tf.reduce_sum(has_label * losses) / recipe.batch
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(emotion, scores["emotion"])
            loss += recipe.emotion_head * tf.reduce_sum(has_emotion * losses) / recipe.batch
            if embeddings is not None:
                losses = tf.reduce_mean((embedded - scores["teacher"]) ** 2, axis=1)
                loss += recipe.teacher * tf.reduce_sum(has_emotion * losses) / recipe.batch
            if recipe.speech_head:
                losses = tf.nn.sigmoid_cross_entropy_with_logits(
                    has_emotion, scores["speech"][:, 0]
                )
                loss += recipe.speech_head * tf.reduce_mean(losses)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    variables = [*model.variables, *optimizer.variables]
    begin = _restore(checkpoint, variables)
    onehot = np.eye(len(labels), dtype=np.float32)
    total, counted = 0.0, 0
    end = recipe.steps if stop is None else min(stop, recipe.steps)
    for number in range(begin, end):
        rng = np.random.default_rng([seed, number])
        x, clip = draw(rng)
        x = normalize(vary(x, clip, training_set, recipe, rng), mean, std, spec.eps)
        if recipe.masking:
            x = mask_spectrogram(x, rng)
        speech = clip >= 0
        has_label = (~speech | (truth[clip] >= 0)).astype(np.float32)
        target = onehot[np.maximum(truth[clip], 0)]
        target = target * (1 - recipe.smoothing) + recipe.smoothing / len(labels)
        if soft is not None:
            known = np.isfinite(soft[clip])
            mixed = (1 - recipe.distil) * target + recipe.distil * np.nan_to_num(soft[clip])
            target = np.where(known, mixed, target)
        target[~speech] = 1 / len(labels)
        if recipe.mixup:
            other = rng.permutation(len(x))
            # Mix labelled windows only; the first window of a pair keeps the larger share.
            part = rng.beta(recipe.mixup, recipe.mixup)
            share = np.float32(max(part, 1 - part))
            both = (has_label * has_label[other])[:, np.newaxis]
            keep = 1 - (1 - share) * both
            x = keep[..., np.newaxis] * x + (1 - keep[..., np.newaxis]) * x[other]
            target = keep * target + (1 - keep) * target[other]
        none = np.zeros((len(clip), 1), np.float32)
        loss = step(
            x[..., np.newaxis],
            target.astype(np.float32),
            has_label,
            speech.astype(np.float32),
            emotion[clip],
            none if embeddings is None else embeddings[clip],
        )
        total, counted = total + float(loss), counted + 1
        if (number + 1) % CHECKPOINT_STEPS == 0 or number + 1 == end:
            log.info("%s: step %d, loss %.3f", checkpoint.stem, number + 1, total / counted)
            total, counted = 0.0, 0
            _save(checkpoint, number + 1, variables)
    return TrainedModel(model, mean, std, spec.eps)


def _save(path: Path, step: int, variables: Sequence[Any]) -> None:
    """Write a checkpoint, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, step, *[np.asarray(v) for v in variables])
    partial.rename(path)


def _restore(path: Path, variables: Sequence[Any]) -> int:
    """Load a checkpoint into the variables; the step to continue with, 0 without a file."""
    if not path.is_file():
        return 0
    with np.load(path) as arrays:
        step = int(arrays["arr_0"])
        for i, variable in enumerate(variables, start=1):
            variable.assign(arrays[f"arr_{i}"])
    return step

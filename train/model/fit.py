"""Train one network on one set of speakers: seeded, resumable, the same again for the same seed."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.features.core import normalize
from speech_emotion.train.data.augment import (
    mask_spectrogram,
    overlay_spectrogram,
    tilt_spectrogram,
    warp_spectrogram,
)
from speech_emotion.train.data.clips import LABEL_SETS, Clip, Samples, mapping
from speech_emotion.train.data.dataset import Examples, Statistics
from speech_emotion.train.model.network import Network, build
from speech_emotion.train.model.teacher import TAUGHT

log = logging.getLogger("train")

CHECKPOINT_STEPS = 250

Index = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        labels: name of a set in `LABEL_SETS`.
        copies: augmented renderings of every clip beside the clean one.
        steps, batch, learning_rate, weight_decay: of AdamW with a cosine schedule.
        balance: a corpus of n clips is drawn with weight n^balance; 0 is corpus-balanced.
        smoothing: of the labels (Szegedy et al., 2016).
        emotion_head: weight of a second head that learns all the corpora's emotions.
        teacher: weight of a head that learns the teacher's embedding of the clip.
        distil: share of a teacher's probabilities in the targets.
        ensemble: so many larger networks are that teacher; 0: a large speech model is.
        masking: SpecAugment on every batch.
        warp: how far speakers and paces are stretched on every batch, 0 for not at all; log-mel
            features alone.
        mixup: alpha of mixup (Zhang et al., 2018), 0 for none.
        noise: share of windows without speech, for which every label is equally (un)likely.
        noise_minutes: length of the mixes from which these are taken.
        speech_head: weight of a head that tells speech from these, which is shipped too.
        overlay: share of the speech windows under which one without speech is laid.
        tilt: deviation in dB of a random smooth frequency response on every window.
    """

    labels: str = "four"
    copies: int = 3
    steps: int = 1500
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    balance: float = 0.5
    smoothing: float = 0.1
    emotion_head: float = 0.3
    teacher: float = 0.0
    distil: float = 0.0
    ensemble: int = 0
    noise: float = 0.0
    noise_minutes: int = 240
    speech_head: float = 0.0
    overlay: float = 0.0
    tilt: float = 0.0
    masking: bool = True
    warp: float = 0.0
    mixup: float = 0.0
    network: Network = dataclasses.field(default_factory=Network)


@dataclasses.dataclass(frozen=True)
class Material:
    """All clips with their examples; a split picks from it by clip.

    Attributes:
        spec: of the features.
        clips: with their corpus's own emotions.
        examples: renderings of them, the clean one first.
        embeddings: the teacher's, (clips, size), whitened; None without a teacher.
        noise: examples without speech, (n, frames, dims), before normalization.
    """

    spec: FeatureSpec
    clips: Sequence[Clip]
    examples: Sequence[Examples]
    embeddings: NDArray[np.float32] | None = None
    noise: NDArray[np.float16] | None = None

    def label_names(self, recipe: Recipe) -> tuple[str, ...]:
        """The labels of the recipe's set that occur, sorted."""
        mapped = mapping(LABEL_SETS[recipe.labels])
        return tuple(sorted({mapped[c.emotion] for c in self.clips if c.emotion in mapped}))

    def truth(self, recipe: Recipe) -> Index:
        """Label index per clip; -1 for an emotion outside the set."""
        mapped, names = mapping(LABEL_SETS[recipe.labels]), self.label_names(recipe)
        return np.array(
            [names.index(mapped[c.emotion]) if c.emotion in mapped else -1 for c in self.clips]
        )


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained network with the statistics of its training speakers."""

    model: Any
    mean: Samples
    std: Samples
    eps: float

    @property
    def speech(self) -> bool:
        """Whether there is a head that tells speech from other sounds."""
        return "speech" in self.model.output

    def outputs(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """What is shipped of the outputs, for features (n, frames, dims) before normalization.

        Probabilities of the labels and, where there is such a head, of speech: (n, outputs).
        """
        import keras

        size = self.model.output["label"].shape[-1] + self.speech
        found = [np.zeros((0, size), np.float32)]
        for part in np.array_split(x, max(1, -(-len(x) // 512))):
            if len(part):
                normalized = normalize(part.astype(np.float32), self.mean, self.std, self.eps)
                scores = self.model(normalized[..., np.newaxis], training=False)
                said = [keras.ops.softmax(scores["label"])]
                if self.speech:
                    said.append(keras.ops.sigmoid(scores["speech"]))
                found.append(np.concatenate([np.asarray(part) for part in said], axis=1))
        return np.concatenate(found)


def threads(n: int) -> None:
    """Let TensorFlow use `n` threads and the same kernels every time. Before anything else."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(n)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()


def fit(
    material: Material,
    train: Index,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path,
    soft: NDArray[np.float32] | None = None,
    stop: int | None = None,
) -> Fitted:
    """Train on the clips `train`; goes on from `checkpoint` where that exists.

    Args:
        stop: end behind this step for now; the next call goes on there.
        soft: the teacher's probabilities per clip, (clips, labels), where `recipe.distil`.

    Raises:
        UserError: a label has no clip among them.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    spec = material.spec
    truth, labels = material.truth(recipe), material.label_names(recipe)
    inside = np.zeros(len(material.clips), bool)
    inside[train] = True
    missing = set(range(len(labels))) - set(truth[train].tolist())
    if missing:
        raise UserError(f"no training clip of {', '.join(labels[i] for i in sorted(missing))}")
    emotions = sorted({c.emotion for c in material.clips})
    emotion = np.array([emotions.index(c.emotion) for c in material.clips])
    draw, mean, std = _sampler(material, inside, truth, recipe)

    heads = {"label": len(labels), "emotion": len(emotions)}
    embeddings = None
    if recipe.teacher and material.embeddings is not None:
        embeddings = material.embeddings[:, :TAUGHT]
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
            said = model(x, training=True)
            each = tf.nn.softmax_cross_entropy_with_logits(target, said["label"])
            loss = tf.reduce_sum(has_label * each) / recipe.batch
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(emotion, said["emotion"])
            loss += recipe.emotion_head * tf.reduce_sum(has_emotion * each) / recipe.batch
            if embeddings is not None:
                each = tf.reduce_mean((embedded - said["teacher"]) ** 2, axis=1)
                loss += recipe.teacher * tf.reduce_sum(has_emotion * each) / recipe.batch
            if recipe.speech_head:
                each = tf.nn.sigmoid_cross_entropy_with_logits(has_emotion, said["speech"][:, 0])
                loss += recipe.speech_head * tf.reduce_mean(each)
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
        x = normalize(_vary(x, clip, material, recipe, rng), mean, std, spec.eps)
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
            # Only labelled windows are mixed, and the first of a pair keeps the larger share.
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
    return Fitted(model, mean, std, spec.eps)


Draw = Callable[[np.random.Generator], tuple[NDArray[np.float32], Index]]


def _sampler(
    material: Material, inside: NDArray[np.bool_], truth: Index, recipe: Recipe
) -> tuple[Draw, Samples, Samples]:
    """A function that draws windows and their clips (-1: noise), and the statistics.

    Within a corpus every label is drawn as often as every other, and every clip of it too;
    emotions outside the label set a third as often, for the other heads.
    """
    renderings = material.examples[: recipe.copies + 1]
    parts = [np.flatnonzero(inside[e.clip]) for e in renderings]
    if not recipe.emotion_head and not recipe.teacher:
        parts = [p[truth[e.clip[p]] >= 0] for p, e in zip(parts, renderings, strict=True)]
    clip = np.concatenate([e.clip[p] for p, e in zip(parts, renderings, strict=True)])
    rendering = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    row = np.concatenate(parts)

    statistics = Statistics(material.spec.dims)
    for part, examples in zip(parts, renderings, strict=True):
        for chunk in np.array_split(part, max(1, len(part) // 2000)):
            statistics.add(examples.x[chunk])
    mean, std = statistics.result()

    corpus = np.array([c.corpus for c in material.clips])
    names = material.label_names(recipe)
    kind_of = np.array(
        [names[t] if t >= 0 else c.emotion for t, c in zip(truth, material.clips, strict=True)]
    )
    weight = np.zeros(len(material.clips))
    for name in sorted(set(corpus[inside])):
        mine = inside & (corpus == name)
        kinds = sorted(set(kind_of[mine]))
        for kind in kinds:
            these = mine & (kind_of == kind)
            weight[these] = mine.sum() ** recipe.balance / len(kinds) / these.sum()
    weight[truth < 0] /= 3
    windows = np.bincount(clip, minlength=len(weight))
    odds = weight[clip] / windows[clip]
    cumulative = np.cumsum(odds / odds.sum())
    cumulative[-1] = 1.0
    silent = 0 if material.noise is None else round(recipe.noise * recipe.batch)

    def draw(rng: np.random.Generator) -> tuple[NDArray[np.float32], Index]:
        chosen = np.searchsorted(cumulative, rng.random(recipe.batch - silent), side="right")
        x = np.empty((recipe.batch, material.spec.n_frames, material.spec.dims), np.float32)
        for slot, i in enumerate(chosen):
            x[slot] = renderings[rendering[i]].x[row[i]]
        if silent and material.noise is not None:
            x[len(chosen) :] = material.noise[rng.integers(len(material.noise), size=silent)]
        which = np.concatenate([clip[chosen], np.full(silent, -1)])
        return x, which

    return draw, mean, std


def _vary(
    x: NDArray[np.float32],
    clip: Index,
    material: Material,
    recipe: Recipe,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Another voice, another room's sounds, another microphone, on log-mel windows alone."""
    relative = material.spec.mel == "db_max"
    if recipe.warp:
        x = warp_spectrogram(x, recipe.warp, rng)
    if recipe.overlay and material.noise is not None:
        hit = np.flatnonzero((clip >= 0) & (rng.random(len(x)) < recipe.overlay))
        under = material.noise[rng.integers(len(material.noise), size=len(hit))]
        x[hit] = overlay_spectrogram(x[hit], under.astype(np.float32), rng, relative=relative)
    if recipe.tilt:
        x = tilt_spectrogram(x, recipe.tilt, rng, relative=relative)
    return x


def _save(path: Path, step: int, variables: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, step, *[np.asarray(v) for v in variables])
    partial.rename(path)


def _restore(path: Path, variables: Sequence[Any]) -> int:
    """Load a checkpoint into the variables; the step to go on with."""
    if not path.is_file():
        return 0
    with np.load(path) as arrays:
        step = int(arrays["arr_0"])
        for i, variable in enumerate(variables, start=1):
            variable.assign(arrays[f"arr_{i}"])
    return step

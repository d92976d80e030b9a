"""Keras graphs with the encoder: window → pooled statistics, and window → probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.train.model.whisper.encoder import constant, layers_of, loudness_weights
from speech_emotion.train.model.whisper.weights import Weights

WIDTH, BANDS = 512, 80
STATISTICS = (
    *("mean1", "mean2", "rest3", "mixed2", "mixed3", "hidden2", "hidden3", "std2"),
    *("melmean", "melstd"),
)
"""Statistics of every window that are stored for the choice of a recipe, see `blocks`."""


def spec(window_s: float = 3.0) -> FeatureSpec:
    """Whisper's input features as a feature spec, for windows of `window_s` seconds."""
    return FeatureSpec(
        window_s=window_s,
        hop_s=0.5,
        n_fft=400,
        hop_length=160,
        n_mfcc=0,
        chroma=False,
        n_mels=80,
        mel="db_max",
        chroma_tuning=0.0,
        gate="adaptive",
        frames=round(100 * window_s),
    )


@dataclasses.dataclass(frozen=True)
class Block:
    """Columns [start, stop) of the pooled statistics: one statistic of one layer."""

    name: str
    start: int
    stop: int


def blocks(names: Sequence[str] = STATISTICS) -> dict[str, Block]:
    """Statistic → its columns in a row.

    `meanN` and `stdN` are mean and deviation over time of the output of layer N, `mixedN` the
    mean of its attention output, `hiddenN` the mean of the hidden units of its feed-forward
    part, `restN` the mean of its output without the feed-forward part, `melmean` and `melstd`
    mean and deviation of the log-mel bands.
    """
    found, at = {}, 0
    for name in names:
        size = BANDS if name.startswith("mel") else WIDTH * (4 if name.startswith("hidden") else 1)
        found[name] = Block(name, at, at + size)
        at += size
    return found


def moments(x: Any, weight: Any) -> tuple[Any, Any]:
    """Weighted mean and standard deviation of frames (n, width), (1, width) each."""
    from keras import ops

    mean = ops.sum(x * weight, axis=0, keepdims=True)
    centred = x - mean
    variance = ops.sum(centred * centred * weight, axis=0, keepdims=True)
    return mean, ops.sqrt(variance + 1e-5)


def pooled_graph(
    weights: Weights, frames: int, bands: int = BANDS, names: Sequence[str] = STATISTICS
) -> Any:
    """A Keras model from a window to the named statistics side by side, see `blocks`."""
    import keras
    from keras import ops

    inputs = keras.Input((frames, bands), batch_size=1)
    return keras.Model(inputs, ops.concatenate(_statistics(inputs, weights, names), axis=1))


FRAME_LAYERS = (2, 3)
FRAME_STEP = 5
"""Frames at 50 Hz whose mean `frames_graph` gives."""


def frames_graph(
    weights: Weights,
    frames: int,
    bands: int = BANDS,
    layers: Sequence[int] = FRAME_LAYERS,
    step: int = FRAME_STEP,
) -> Any:
    """A Keras model from a window to its frames in steps, (1, steps * (columns + 1)).

    A step has the mean of the layers' outputs over its frames, each with its weight of speech, and
    the sum of these weights.
    """
    import keras
    from keras import ops

    inputs = keras.Input((frames, bands), batch_size=1)
    window = ops.reshape(inputs, inputs.shape[1:])
    found = layers_of(window, weights, max(layers))
    x = ops.concatenate([found[n - 1].output for n in layers], axis=1)
    weight = ops.reshape(loudness_weights(window), (-1, step, 1))
    steps, _, _ = weight.shape
    total = ops.sum(weight, axis=1)
    x = ops.reshape(x, (steps, step, -1)) * weight
    mean = ops.sum(x, axis=1) / (total + 1e-12)
    return keras.Model(inputs, ops.reshape(ops.concatenate([mean, total], axis=1), (1, -1)))


def _statistics(inputs: Any, weights: Weights, names: Sequence[str]) -> list[Any]:
    """The named statistics of a window (1, frames, bands), (1, size) each."""
    from keras import ops

    window = ops.reshape(inputs, inputs.shape[1:])
    weight = loudness_weights(window)
    deepest = max((int(name[-1]) for name in names if name[-1].isdigit()), default=0)
    layers = layers_of(window, weights, deepest) if deepest else []
    mel = ops.mean(ops.reshape(window, (-1, 2, window.shape[1])), axis=1)
    found = []
    for name in names:
        kind = name.rstrip("0123456789")
        if kind == name:
            found.append(moments(mel, weight)[name == "melstd"])
            continue
        layer = layers[int(name[-1]) - 1]
        match kind:
            case "mixed":
                found.append(moments(layer.mixed, weight)[0])
            case "hidden":
                found.append(moments(layer.hidden, weight)[0])
            case "rest":
                found.append(moments(layer.rest, weight)[0])
            case _:
                found.append(moments(layer.output, weight)[kind == "std"])
    return found


DISTANCE_STATISTIC = "mean2"
"""Statistic of the distance if the recipe has it; otherwise all its statistics."""


def distance_columns(names: Sequence[str]) -> slice:
    """Columns of the named statistics whose mean square, standardized, is a window's distance.

    It is 1 on average over the training windows, and higher for sounds unlike them.
    """
    start = 0
    for name in names:
        stop = start + blocks()[name].stop - blocks()[name].start
        if name == DISTANCE_STATISTIC:
            return slice(start, stop)
        start = stop
    return slice(0, start)


@dataclasses.dataclass(frozen=True)
class Relative:
    """Relative scores: linear in the standardized columns; a stream's mean is subtracted in use.

    Attributes:
        weight: (columns, labels).
        bias: of the scores after the subtraction, (labels,).
        prior: mean of the scores over the training corpora, (labels,).
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    prior: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Head:
    """Linear outputs on the pooled statistics: labels and speech.

    Attributes:
        names: of the statistics in column order, see `blocks`.
        mean, std: of each column, (columns,).
        weight, bias: of the scores of the labels, (columns, labels) and (labels,).
        speech_weight, speech_bias: of the score of speech, (columns,) and ().
        relative: of the relative scores; None without them.
    """

    names: tuple[str, ...]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    speech_weight: NDArray[np.float32]
    speech_bias: float
    relative: Relative | None = None

    def outputs(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """Outputs for statistics (windows, columns), (windows, labels + 2 or 2 * labels + 2).

        Probabilities of the labels and of speech, the distance, and the relative scores.
        """
        z = (x.astype(np.float32) - self.mean) / self.std
        scores = z @ self.weight + self.bias
        scores -= scores.max(axis=1, keepdims=True)
        raised = np.exp(scores)
        speech = 1.0 / (1.0 + np.exp(-(z @ self.speech_weight + self.speech_bias)))
        found = [raised / raised.sum(axis=1, keepdims=True), speech[:, np.newaxis]]
        near = z[:, distance_columns(self.names)]
        found.append(np.square(near).mean(axis=1, keepdims=True))
        if self.relative is not None:
            found.append(z @ self.relative.weight)
        return np.concatenate(found, axis=1).astype(np.float32)


def emotion_graph(weights: Weights, head: Head, frames: int, bands: int = 80) -> Any:
    """A Keras model from a window (1, frames, bands) to `head`'s outputs.

    The head stays in float32: it is small, and 8-bit weights would lose accuracy.
    """
    import keras
    from keras import ops

    inputs = keras.Input((frames, bands), batch_size=1)
    parts = _statistics(inputs, weights, head.names)
    z = (ops.concatenate(parts, axis=1) - constant(head.mean)) * constant(1.0 / head.std)

    def score(row: NDArray[np.float32], bias: float) -> Any:
        return ops.sum(z * constant(row), axis=1, keepdims=True) + float(bias)

    scores = [score(row, b) for row, b in zip(head.weight.T, head.bias, strict=True)]
    found = [ops.softmax(ops.concatenate(scores, axis=1), axis=1)]
    found.append(ops.sigmoid(score(head.speech_weight, head.speech_bias)))
    near = z[:, distance_columns(head.names)]
    found.append(ops.mean(near * near, axis=1, keepdims=True))
    if head.relative is not None:
        found += [score(row, 0.0) for row in head.relative.weight.T]
    return keras.Model(inputs, ops.concatenate(found, axis=1))


def run(interpreter: Any, window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Output (size,) of a TFLite interpreter for one normalized window (frames, bands)."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], window[np.newaxis])
    interpreter.invoke()
    found: NDArray[np.float32] = interpreter.get_tensor(
        interpreter.get_output_details()[0]["index"]
    )[0].copy()
    return found

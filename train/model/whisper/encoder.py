"""The lower layers of Whisper's encoder (Radford et al., 2022) as a Keras graph for TFLite.

Input: log-mel windows (frames, bands) at 100 Hz, scaled as Whisper scales them. Inside: frames
at 50 Hz. Every product is a dense layer, so that 8-bit weights run in one kind of kernel.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.model.whisper.weights import Weights

HEAD = 64
"""Width of one attention head."""
LOUDEST_LOG10 = 1.0
"""log10 of the mel power that the loudest band of a window is scaled to."""
SPEECH_DB, SLOPE_DB = 20.0, 4.0
"""Level below the loudest frame at which a frame has weight 0.5, and the sigmoid's scale."""


def statistics(dims: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation, (dims,) each, that convert dB relative to the maximum to Whisper's scale.

    Whisper's value is (log10 power + 4) / 4; the maximum is scaled to `LOUDEST_LOG10`.
    """
    mean = np.full(dims, -10.0 * (LOUDEST_LOG10 + 4.0), np.float32)
    return mean, np.full(dims, 40.0, np.float32)


@dataclasses.dataclass(frozen=True)
class Layer:
    """Keras tensors of one transformer layer, frames first.

    Attributes:
        output: input of the next layer, (n, width).
        rest: the part of `output` that does not come from the feed-forward part, (n, width).
        mixed: output of the attention before its projection, (n, width).
        hidden: hidden units of its feed-forward part after the GELU, (n, 4 width).
    """

    output: Any
    rest: Any
    mixed: Any
    hidden: Any


def layers_of(inputs: Any, weights: Weights, layers: int) -> list[Layer]:
    """The lowest `layers` layers.

    Args:
        inputs: Keras tensor (frames, bands): one window, without a batch.
    """
    x = _conv(inputs, weights, "conv1", 1)
    x = _conv(x, weights, "conv2", 2)
    x = x + constant(weights["position_encodings/encodings"][: x.shape[0]])
    found: list[Layer] = []
    for i in range(layers):
        found.append(_layer(found[-1].output if found else x, weights, f"layer_{i}/"))
    return found


def loudness_weights(inputs: Any) -> Any:
    """Weights of the 50 Hz frames, (frames // 2, 1), of sum 1, high for speech, low for pauses.

    A frame's level is the mean of its log-mel bands; frames `SPEECH_DB` below the loudest
    have weight 0.5 before scaling. Silence before and after the speech of a short clip changes
    little.
    """
    from keras import ops

    level = ops.mean(inputs, axis=1, keepdims=True) * 40.0
    level = ops.mean(ops.reshape(level, (-1, 2)), axis=1, keepdims=True)
    loudest = ops.max(level, axis=0, keepdims=True)
    weight = ops.sigmoid((level - loudest + SPEECH_DB) * (1.0 / SLOPE_DB))
    return weight / ops.sum(weight, axis=0, keepdims=True)


def constant(values: NDArray[np.float32]) -> Any:
    """An array as a float32 tensor."""
    from keras import ops

    return ops.convert_to_tensor(np.ascontiguousarray(values, np.float32))


def _conv(x: Any, weights: Weights, name: str, stride: int) -> Any:
    """A convolution of width 3 with its GELU, as one dense layer over three taps.

    With a stride of 2, `x` has an even number of frames; slices with a step are slow in TFLite,
    so pairs of frames are made by a reshape.
    """
    from keras import ops

    kernel = weights[f"{name}/weight"]  # (out, in, 3)
    n, width = x.shape
    if stride == 1:
        padded = ops.pad(x, ((1, 1), (0, 0)))
        taps = [padded[k : k + n, :] for k in range(3)]
    else:
        pairs = ops.reshape(ops.pad(x, ((1, 1), (0, 0))), (n // 2 + 1, 2 * width))
        taps = [pairs[:-1, :], pairs[1:, :width]]
    flat = kernel.transpose(0, 2, 1).reshape(len(kernel), -1)
    return _gelu(dense(ops.concatenate(taps, axis=1), flat, weights[f"{name}/bias"]))


def _layer(x: Any, weights: Weights, prefix: str) -> Layer:
    from keras import ops

    attention, feed = f"{prefix}self_attention/", f"{prefix}ffn/"
    n, width = x.shape
    y = _norm(x, weights, f"{attention}layer_norm/")
    # The factor of the scores, 1 / sqrt(HEAD) on query times key, goes into the query's weights.
    joint, bias = weights[f"{attention}linear_0/weight"], weights[f"{attention}linear_0/bias"]
    scale = np.ones((3 * width, 1), np.float32)
    scale[:width] = HEAD**-0.5
    parts = [
        dense(y, (joint * scale)[part], (bias * scale[:, 0])[part])
        for part in (slice(k * width, (k + 1) * width) for k in range(3))
    ]
    q, k, v = (ops.transpose(ops.reshape(a, (n, width // HEAD, HEAD)), (1, 0, 2)) for a in parts)
    mixed = ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), v)
    mixed = ops.reshape(ops.transpose(mixed, (1, 0, 2)), (n, width))
    x = x + dense(
        mixed, weights[f"{attention}linear_1/weight"], weights[f"{attention}linear_1/bias"]
    )
    y = _norm(x, weights, f"{feed}layer_norm/")
    hidden = _gelu(dense(y, weights[f"{feed}linear_0/weight"], weights[f"{feed}linear_0/bias"]))
    out = x + dense(hidden, weights[f"{feed}linear_1/weight"], weights[f"{feed}linear_1/bias"])
    return Layer(out, x, mixed, hidden)


def _norm(x: Any, weights: Weights, prefix: str) -> Any:
    from keras import ops

    centred = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(centred * centred, axis=-1, keepdims=True)
    gamma, beta = (constant(weights[f"{prefix}{name}"]) for name in ("gamma", "beta"))
    return centred * ops.rsqrt(variance + 1e-5) * gamma + beta


def _gelu(x: Any) -> Any:
    """GELU by its tanh formula (Hendrycks and Gimpel, 2016): one operator in TFLite."""
    from keras import ops

    return ops.gelu(x, approximate=True)


def dense(x: Any, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Any:
    """A dense layer with given weights (out, in)."""
    import keras

    layer = keras.layers.Dense(len(weight), kernel_initializer="zeros")
    y = layer(x)
    layer.set_weights([np.ascontiguousarray(weight.T), bias])
    return y

"""The convolutional networks, built from layers that both TFLite runtimes support."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Network:
    """Shape of a network: the table [network] of a recipe file.

    Attributes:
        channels: of each convolution over time and frequency.
        hidden: channels of the convolution over time that follows.
        dropout: rate before the last layer.
        channel_dropout: rate of whole channels after every convolution.
        recurrent: use a GRU over time instead of the convolution over time.
        centre: subtract from every band its mean over the window; removes the channel's response.
        centre_first: subtract that mean from the first feature only: c0 of the MFCC, the only
            one that holds the level.
        contrast: add the window minus that mean as a second input channel.
    """

    channels: tuple[int, ...] = (16, 32, 48, 64)
    hidden: int = 64
    dropout: float = 0.3
    channel_dropout: float = 0.1
    recurrent: bool = False
    centre: bool = False
    centre_first: bool = False
    contrast: bool = False


def build(network: Network, frames: int, dims: int, heads: dict[str, int]) -> Any:
    """A Keras model, (batch, frames, dims, 1) → head → raw scores (batch, size).

    Args:
        heads: name → size; `label` is exported.
    """
    import keras
    from keras import layers

    x = inputs = keras.Input((frames, dims, 1))
    if network.centre or network.contrast:
        centred = layers.Subtract()([x, layers.AveragePooling2D((frames, 1))(x)])
        x = layers.Concatenate()([x, centred]) if network.contrast else centred
    if network.centre_first:
        first, rest = x[:, :, :1], x[:, :, 1:]
        first = layers.Subtract()([first, layers.AveragePooling2D((frames, 1))(first)])
        x = layers.Concatenate(axis=2)([first, rest])
    for i, channels in enumerate(network.channels):
        x = layers.Conv2D(
            channels,
            5 if i == 0 else 3,
            strides=(2 if i < 2 else 1, 2),
            padding="same",
            use_bias=False,
        )(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.SpatialDropout2D(network.channel_dropout)(x)
    x = layers.Reshape((x.shape[1], x.shape[2] * x.shape[3]))(x)
    if network.recurrent:
        x = layers.Conv1D(network.hidden, 1, activation="relu")(x)
        x = layers.GRU(network.hidden, return_sequences=True)(x)
    else:
        x = layers.Conv1D(network.hidden, 3, padding="same", activation="relu")(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)])
    x = layers.Dropout(network.dropout)(x)
    return keras.Model(
        inputs, {name: layers.Dense(size, name=name)(x) for name, size in heads.items()}
    )

"""Keras to TFLite: float32 and int8 weights, both loadable by both runtimes."""

from __future__ import annotations

from typing import Any


def shipped(model: Any, *, speech: bool = False) -> Any:
    """The part of a training model that is shipped: fixed batch of 1, probabilities.

    Args:
        speech: the probability of speech stands behind those of the labels.
    """
    import keras
    from keras import layers

    inputs = keras.Input(model.input_shape[1:], batch_size=1)
    scores = model(inputs, training=False)
    outputs = layers.Softmax()(scores["label"])
    if speech:
        heard = layers.Activation("sigmoid")(scores["speech"])
        outputs = layers.Concatenate()([outputs, heard])
    return keras.Model(inputs, outputs)


def to_tflite(model: Any, *, quantized: bool = False) -> bytes:
    """A Keras model with a fixed batch of 1 as TFLite, float32 in and out.

    `quantized` stores the weights as 8-bit integers ("dynamic range").
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        # tflite-runtime 2.14 does not know per-channel weights of dense layers.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return bytes(converter.convert())

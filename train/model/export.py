"""Convert Keras models to TFLite with float32 or 8-bit weights that both TFLite runtimes load."""

from __future__ import annotations

from typing import Any


def export_model(model: Any, *, speech: bool = False) -> Any:
    """The part of a training model that a bundle holds, with a batch of 1.

    Args:
        model: (batch, frames, dims, 1) → raw scores per head.
        speech: append the probability of speech to those of the labels.

    Returns:
        Keras model, (1, frames, dims, 1) → (1, outputs), probabilities.
    """
    import keras
    from keras import layers

    inputs = keras.Input(model.input_shape[1:], batch_size=1)
    scores = model(inputs, training=False)
    outputs = layers.Softmax()(scores["label"])
    if speech:
        speech_probability = layers.Activation("sigmoid")(scores["speech"])
        outputs = layers.Concatenate()([outputs, speech_probability])
    return keras.Model(inputs, outputs)


def to_tflite(model: Any, *, quantized: bool = False) -> bytes:
    """Convert a Keras model with a batch of 1 to a TFLite flatbuffer, float32 in and out.

    Args:
        quantized: store the weights as 8-bit integers (dynamic-range quantization).
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        # tflite-runtime 2.14 cannot load per-channel quantized weights of dense layers.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return bytes(converter.convert())

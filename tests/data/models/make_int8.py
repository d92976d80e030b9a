"""Make int8.tflite: a Conv1D network in 8 bits, ends included, by TensorFlow's quantizer.

    python tests/data/models/make_int8.py

Its weights are seeded noise. It needs the extra `train`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

FRAMES, DIMS, LABELS = 10, 6, 4


def windows(count: int) -> Iterator[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield [rng.uniform(-80.0, 0.0, (1, FRAMES, DIMS)).astype(np.float32)]


keras.utils.set_random_seed(0)
inputs = keras.Input((FRAMES, DIMS), batch_size=1)
x = layers.Rescaling(1 / 20, offset=2.0)(inputs)
x = layers.Conv1D(8, 3, activation="relu")(x)
x = layers.GlobalAveragePooling1D()(x)
model = keras.Model(inputs, layers.Dense(LABELS, activation="softmax")(x))
converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: windows(200)
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.int8
Path(__file__).with_name("int8.tflite").write_bytes(converter.convert())

"""Tensors and networks with 8 bits, and the types that a network may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.infer.model import Model
from speech_emotion.infer.runtime.network import Tensor
from speech_emotion.infer.runtime.tflite import _tensor
from speech_emotion.train.bundle.convert import bundle_model
from tests.support.pipelines import ROOT

INT8 = ROOT / "tests" / "data" / "models" / "int8.tflite"
"""A Conv1D network whose input and output are int8, made by make_int8.py."""


def details(dtype: type[np.generic], scale: float = 0.0, zero: int = 0) -> dict[str, Any]:
    """One tensor as a TFLite interpreter describes it."""
    return {"shape": np.array([1, 4]), "dtype": dtype, "quantization": (scale, zero)}


@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, -20), (np.uint8, 100)])
def test_8_bit_values_are_those_of_the_scale(dtype: type[np.generic], zero: int) -> None:
    tensor = _tensor(details(dtype, 0.5, zero), "input", Path("m.tflite"))
    values = np.array([[0.0, 1.2, -3.3, 1e9]], np.float32)
    encoded = tensor.encode(values)
    highest = np.iinfo(dtype).max  # type: ignore[type-var]
    assert encoded.dtype == dtype
    assert encoded.tolist() == [[zero, zero + 2, zero - 7, highest]]
    assert tensor.decode(encoded).tolist() == [[0.0, 1.0, -3.5, 0.5 * (highest - zero)]]


def test_float_values_stay_as_they_are() -> None:
    tensor = _tensor(details(np.float32), "input", Path("m.tflite"))
    values = np.array([[0.1, 2.0, -3.0, 4.0]], np.float32)
    assert np.array_equal(tensor.decode(tensor.encode(values)), values)


@pytest.mark.parametrize(("dtype", "scale"), [(np.int16, 0.1), (np.int8, 0.0), (np.int64, 0.0)])
def test_other_types_are_refused(dtype: type[np.generic], scale: float) -> None:
    with pytest.raises(UserError, match=r"m\.tflite: output must be float32, or int8 or uint8"):
        _tensor(details(dtype, scale), "output", Path("m.tflite"))


def test_an_axis_without_a_size_fits_any() -> None:
    tensor = Tensor((None, 3, None), np.dtype(np.float32))
    assert tensor.fits((1, 3, 8000))
    assert not tensor.fits((1, 4, 8000))
    assert not tensor.fits((1, 3))


def real_weights() -> dict[tuple[int, ...], np.ndarray]:
    """Shape → real values of the kernels and the bias of `INT8`, by the scales in the file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(INT8))
    interpreter.allocate_tensors()
    found = {}
    for each in interpreter.get_tensor_details():
        scales = each["quantization_parameters"]["scales"]
        if tuple(each["shape"]) in ((8, 1, 3, 6), (8,), (4, 8)) and len(scales) > 1:
            stored = interpreter.get_tensor(each["index"]).astype(np.float64)
            found[stored.shape] = stored * scales.reshape(-1, *[1] * (stored.ndim - 1))
    return found


def test_a_network_of_tensorflow_with_8_bits_throughout_is_a_bundle(tmp_path: Path) -> None:
    spec = FeatureSpec(
        window_s=0.5,
        hop_s=0.25,
        frames=10,
        n_fft=256,
        hop_length=800,
        n_mfcc=0,
        chroma=False,
        n_mels=6,
        mel="db",
    )
    sound = np.random.default_rng(3).normal(0.0, 0.1, spec.window).astype(np.float32)
    labels = ("angry", "happy", "neutral", "sad")
    bundle = bundle_model([INT8], spec, labels, tmp_path / "made", sound)
    assert (bundle.layout, bundle.output) == ("frames,dims", "probabilities")
    model, weights = Model(bundle), real_weights()
    kernel, dense = weights[8, 1, 3, 6][:, 0], weights[4, 8]
    rng = np.random.default_rng(1)
    given = []
    for _ in range(20):
        features = rng.uniform(-80.0, 0.0, (spec.n_frames, spec.dims)).astype(np.float32)
        taps = np.lib.stride_tricks.sliding_window_view(features / 20.0 + 2.0, 3, axis=0)
        hidden = np.maximum(np.einsum("tdk,okd->to", taps, kernel) + weights[8,], 0.0)
        scores = np.exp(dense @ hidden.mean(axis=0))
        found = model.predict(features)
        assert found.dtype == np.float32
        assert found == pytest.approx(scores / scores.sum(), abs=0.02)
        given.append(found)
    assert len({values.tobytes() for values in given}) == len(given)

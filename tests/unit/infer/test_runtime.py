"""Tensors with 8 bits, and the types that a network may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.infer.runtime.network import Tensor
from speech_emotion.infer.runtime.tflite import _tensor


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

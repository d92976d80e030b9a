"""Small ONNX models for tests: mean over time, a product, softmax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LABELS = ("angry", "happy", "neutral", "sad")
IR_VERSION = 9
OPSET = 17
OUTPUT_SCALE = 1 / 256


def weights(dims: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(0).standard_normal((dims, len(LABELS)))
    return np.asarray(drawn.astype(np.float32) / dims, np.float32)


def expected(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities that the model gives for features (frames, dims)."""
    scores = features.mean(axis=0, dtype=np.float64) @ weights(features.shape[1])
    raised = np.exp(scores - scores.max())
    probabilities: NDArray[np.float64] = raised / raised.sum()
    return probabilities


def write(
    path: Path,
    frames: int | str,
    dims: int,
    *,
    ends: type[np.generic] = np.float32,
    scale: float = 0.02,
    zero_point: int = 0,
    batch: int | str = "batch",
    second_input: bool = False,
    noise: bool = False,
) -> Path:
    """Write a model for features (batch, frames, dims).

    Args:
        ends: type of input and output; the 8-bit ones have `scale` and `zero_point` at the input,
            and steps of `OUTPUT_SCALE` at the output.
        second_input: add one that nothing reads.
        noise: add random values, as dropout does.
    """
    constants: dict[str, Any] = {"w": weights(dims)}
    nodes = []
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(ends))
    quantized = ends is not np.float32
    if quantized:
        lowest = np.iinfo(ends).min  # type: ignore[type-var]
        constants |= {
            "in_scale": np.float32(scale),
            "in_zero": ends(zero_point),
            "out_scale": np.float32(OUTPUT_SCALE),
            "out_zero": ends(lowest),
        }
        nodes += [
            helper.make_node("Transpose", ["x"], ["moved"], perm=[0, 2, 1]),
            helper.make_node("DequantizeLinear", ["moved", "in_scale", "in_zero"], ["real"]),
            helper.make_node("ReduceMean", ["real"], ["mean"], axes=[2], keepdims=0),
        ]
    else:
        nodes.append(helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["mean", "w"], ["score"]))
    if noise:
        nodes += [
            helper.make_node("RandomNormalLike", ["score"], ["random"]),
            helper.make_node("Add", ["score", "random"], ["noisy"]),
        ]
    last = "p" if quantized else "y"
    nodes.append(helper.make_node("Softmax", ["noisy" if noise else "score"], [last], axis=-1))
    if quantized:
        nodes.append(helper.make_node("QuantizeLinear", ["p", "out_scale", "out_zero"], ["y"]))
    inputs = [helper.make_tensor_value_info("x", kind, [batch, frames, dims])]
    if second_input:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT64, [1]))
    graph = helper.make_graph(
        nodes,
        "test",
        inputs,
        [helper.make_tensor_value_info("y", kind, [batch, len(LABELS)])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path

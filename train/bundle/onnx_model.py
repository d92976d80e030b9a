"""A user's ONNX or PyTorch file as an ONNX model with float32 input and output."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from speech_emotion.common.errors import UserError
from speech_emotion.infer.runtime import find_runtime
from speech_emotion.infer.runtime.network import one_line
from speech_emotion.infer.runtime.onnx import open_session, tensors

READS = {"DequantizeLinear": 1, "QLinearConv": 1, "QLinearMatMul": 1}
"""Operator that reads an 8-bit value → position of its scale; the zero point follows."""
WRITES = {"QuantizeLinear": 1, "QLinearConv": 6, "QLinearMatMul": 6}
"""The same for an 8-bit value that it writes."""
MOVES = frozenset(
    ("Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators that leave the meaning of 8-bit values as it is."""


def read_model(path: Path, content: bytes) -> bytes:
    """The content of an .onnx or a .pt2 file as an ONNX model with float32 input and output.

    Raises:
        UserError: it is damaged, has several inputs or outputs, or needs a package that is missing.
    """
    find_runtime("auto", "model.onnx")
    if path.suffix == ".pt2":
        content = _export(path)
    elif path.with_name(path.name + ".data").exists():
        raise UserError(
            f"{path}: its weights are in {path.name}.data; export it as one file: "
            "torch.onnx.export(…, external_data=False)"
        )
    ends = tensors(open_session(content, path), path)
    if any(end.dtype != np.float32 for end in ends):
        return _with_float_ends(path, content)
    return content


def _export(path: Path) -> bytes:
    """A program that torch.export.save wrote, as ONNX, by the user's own PyTorch."""
    missing = [name for name in ("torch", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{path}: needs {' and '.join(missing)} to become ONNX; install it with pip, or "
            "convert the model where it was made: "
            f"torch.onnx.export(torch.export.load('{path.name}'), "
            "f='model.onnx', dynamo=True, external_data=False)"
        )
    import torch

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        try:
            program = torch.export.load(path)
            torch.onnx.export(program, f=target, dynamo=True, external_data=False, verbose=False)
        except Exception as error:  # torch raises many types for damaged files and operators
            raise UserError(
                f"{path}: PyTorch cannot convert it to ONNX ({one_line(error)})"
            ) from None
        return target.read_bytes()


def _with_float_ends(path: Path, content: bytes) -> bytes:
    """The model with QuantizeLinear before an 8-bit input and DequantizeLinear after the output.

    The scales are those with which the graph itself reads its input and writes its output.
    """
    if importlib.util.find_spec("onnx") is None:
        raise UserError(
            f"{path}: has 8-bit input or output; install onnx with pip, which reads their scales"
        )
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(content)
    graph = model.graph
    (source,) = [each for each in graph.input if each.name not in _constants(graph)]
    (sink,) = graph.output
    if source.type.tensor_type.elem_type != TensorProto.FLOAT:
        parameters = _parameters(graph, source.name, path, output=False)
        graph.node.insert(
            0, helper.make_node("QuantizeLinear", ["float_input", *parameters], [source.name])
        )
        source.name = "float_input"
        source.type.tensor_type.elem_type = TensorProto.FLOAT
    if sink.type.tensor_type.elem_type != TensorProto.FLOAT:
        parameters = _parameters(graph, sink.name, path, output=True)
        graph.node.append(
            helper.make_node("DequantizeLinear", [sink.name, *parameters], ["float_output"])
        )
        sink.name = "float_output"
        sink.type.tensor_type.elem_type = TensorProto.FLOAT
    return bytes(model.SerializeToString())


def _constants(graph: Any) -> set[str]:
    return {each.name for each in graph.initializer}


def _parameters(graph: Any, name: str, path: Path, *, output: bool) -> list[str]:
    """Names of scale and zero point of the graph's input or output."""
    positions = WRITES if output else READS
    while True:
        nodes = [n for n in graph.node if name in (n.output if output else n.input[:1])]
        known = [n for n in nodes if n.op_type in positions]
        if known:
            at = positions[known[0].op_type]
            return list(known[0].input[at : at + 2])
        moving = [n for n in nodes if n.op_type in MOVES]
        if not moving:
            end = "output" if output else "input"
            raise UserError(
                f"{path}: no operator beside its 8-bit {end} gives a scale; "
                f"quantize it with a float32 {end}"
            )
        name = moving[0].input[0] if output else moving[0].output[0]

"""ONNX networks, on onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from speech_emotion.common.errors import UserError
from speech_emotion.infer.runtime.network import Array, Tensor, one_line, only_one

FATAL = 4
"""onnxruntime's level of log lines; the others reach the caller as exceptions."""
TYPES = {
    "tensor(float)": np.float32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
}


class OnnxNetwork:
    """An .onnx file in a session of onnxruntime on the CPU.

    An ONNX file does not say what the values of an 8-bit input or output mean. `train bundle`
    finds their scales in the graph and adds the conversion, so the tensors here are float32.

    Args:
        shown: the path that errors name.

    Raises:
        UserError: see `load_network`.
    """

    def __init__(self, path: Path, shown: Path) -> None:
        self._session = open_session(path.read_bytes(), shown)
        self.input, self.output = tensors(self._session, shown)
        for tensor, what in ((self.input, "input"), (self.output, "output")):
            if tensor.dtype != np.float32:
                raise UserError(
                    f"{shown}: {what} must be float32, the model has {tensor.dtype.name}; make the "
                    "bundle with `train bundle`, which adds the conversion"
                )
        self._name: str = self._session.get_inputs()[0].name

    def run(self, values: Array) -> Array:
        try:
            (output,) = self._session.run(None, {self._name: values})
        except Exception as error:  # onnxruntime's own classes, derived from Exception
            raise RuntimeError(one_line(error)) from None
        return self.output.decode(output)


def open_session(content: bytes, shown: Path) -> Any:
    """A session of onnxruntime on one thread of the CPU.

    Raises:
        UserError: onnxruntime cannot load the model.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(FATAL)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, derived from Exception
        raise UserError(
            f"{shown}: cannot be loaded by onnxruntime ({one_line(error)}); the model is damaged, "
            "uses operators this version does not have, or has weights in another file"
        ) from None


def tensors(session: Any, shown: Path) -> tuple[Tensor, Tensor]:
    """Input and output of a session. The scale of an 8-bit one is not known here.

    Raises:
        UserError: there is not exactly one of each, or of another type.
    """
    found = []
    for what, arguments in (("input", session.get_inputs()), ("output", session.get_outputs())):
        only_one([each.name for each in arguments], what, shown)
        (argument,) = arguments
        if argument.type not in TYPES:
            raise UserError(
                f"{shown}: {what} must be float32, int8 or uint8, the model has "
                f"{argument.type}; export it with float32"
            )
        # Names stand for axes of any size, which are not negative.
        shape = tuple(n if isinstance(n, int) and n >= 0 else None for n in argument.shape)
        found.append(Tensor(shape, np.dtype(TYPES[argument.type])))
    return found[0], found[1]

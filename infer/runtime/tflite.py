"""TFLite networks, on ai-edge-litert or its predecessor tflite-runtime."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from speech_emotion.common.errors import UserError
from speech_emotion.infer.runtime.network import Array, Tensor, one_line, only_one

EIGHT_BITS = (np.int8, np.uint8)


class TfliteNetwork:
    """A .tflite file in a TFLite interpreter.

    Args:
        module: of the interpreter.
        package: its name for pip, for errors.
        shown: the path that errors name.

    Raises:
        UserError: see `load_network`.
    """

    def __init__(self, path: Path, module: str, package: str, shown: Path) -> None:
        self._interpreter = _load(path, module, package, shown)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        for details, what in ((inputs, "input"), (outputs, "output")):
            only_one([str(each["name"]) for each in details], what, shown)
        self.input = _tensor(inputs[0], "input", shown)
        self.output = _tensor(outputs[0], "output", shown)
        self._in: int = inputs[0]["index"]
        self._out: int = outputs[0]["index"]

    def run(self, values: Array) -> Array:
        self._interpreter.set_tensor(self._in, self.input.encode(values))
        self._interpreter.invoke()
        return self.output.decode(self._interpreter.get_tensor(self._out))


def _load(path: Path, module: str, package: str, shown: Path) -> Any:
    with path.open("rb") as file:
        if file.read(8)[4:] != b"TFL3":
            raise UserError(f"{shown}: is no TFLite model")
    if module.startswith("tflite_runtime"):
        _load_in_child(str(path), module, shown)
    interpreter_class = importlib.import_module(module).Interpreter
    try:
        with _hide_info_lines():
            interpreter = interpreter_class(model_path=str(path), num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{shown}: cannot be loaded by {package} ({one_line(error)}); "
            "the model is damaged or uses operators this runtime does not have"
        ) from None
    return interpreter


def _tensor(details: dict[str, Any], what: str, shown: Path) -> Tensor:
    shape = tuple(int(n) for n in details["shape"])
    dtype = np.dtype(details["dtype"])
    if dtype == np.float32:
        return Tensor(shape, dtype)
    scale, zero_point = details["quantization"]
    if dtype.type not in EIGHT_BITS or not scale > 0:
        raise UserError(
            f"{shown}: {what} must be float32, or int8 or uint8 with one scale; the model has "
            f"{dtype.name}; convert it with float {what}"
        )
    return Tensor(shape, dtype, float(scale), int(zero_point))


@contextlib.contextmanager
def _hide_info_lines() -> Iterator[None]:
    # TFLite's C++ code writes an INFO line about its delegate to stderr at every load. Forward
    # only the other lines.
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            output.seek(0)
            for line in output:
                if not line.startswith(b"INFO:"):
                    os.write(2, line)


def _load_in_child(path: str, module: str, shown: Path) -> None:
    # tflite-runtime 2.14 segfaults on a truncated file instead of raising: load in a child first.
    code = (
        f"import sys; from {module} import Interpreter; "
        "Interpreter(model_path=sys.argv[1]).allocate_tensors()"
    )
    if subprocess.run([sys.executable, "-c", code, path], capture_output=True).returncode < 0:
        raise UserError(f"{shown}: crashes tflite-runtime; {shown.name} is damaged, restore it")

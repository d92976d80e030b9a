"""The TFLite model of a bundle as one function, on either runtime."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import (
    OUTPUT_TOLERANCE,
    RELATIVE_TOLERANCE,
    Bundle,
)
from speech_emotion.common.errors import UserError

RUNTIMES = {
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    "tflite": ("tflite_runtime.interpreter", "tflite-runtime"),
}
"""Name on the command line → module and package, in order of preference."""

Array = NDArray[np.float32]


def find_runtime(wanted: str = "auto") -> str:
    """The runtime to use: the given one, or for `auto` the first that is installed.

    Raises:
        UserError: the given runtime is not installed, or for `auto` none is.
    """
    names = list(RUNTIMES) if wanted == "auto" else [wanted]
    for name in names:
        if importlib.util.find_spec(RUNTIMES[name][0].partition(".")[0]) is not None:
            return name
    packages = " or ".join(RUNTIMES[name][1] for name in names)
    raise UserError(f"no TFLite runtime for `{wanted}`: install {packages} with pip")


def shape_input(features: Array, layout: str) -> Array:
    """Features (frames, dims) in a model's input layout, with a batch axis of 1 first."""
    batch = features[np.newaxis]
    match layout:
        case "frames,dims,1":
            return batch[..., np.newaxis]
        case "frames,dims":
            return batch
        case "dims,frames":
            return np.ascontiguousarray(batch.transpose(0, 2, 1))
        case "dims,frames,1":
            return np.ascontiguousarray(batch.transpose(0, 2, 1))[..., np.newaxis]
        case "dims":
            mean: Array = batch.mean(axis=1, dtype=np.float32)
            return mean
    raise ValueError(f"unknown layout {layout!r}")


class Model:
    """A loaded model, one thread, checked against the bundle's shapes and golden vectors.

    Raises:
        UserError: the model cannot be loaded, does not match the bundle's spec, layout or
            labels, or computes other probabilities on this machine than the golden vectors.
    """

    def __init__(self, bundle: Bundle, runtime: str = "auto") -> None:
        self.runtime = find_runtime(runtime)
        self._layout = bundle.layout
        self._interpreter = _load(bundle, self.runtime)
        (inputs,) = _one(self._interpreter.get_input_details(), bundle, "input")
        (outputs,) = _one(self._interpreter.get_output_details(), bundle, "output")
        _check_tensor(inputs, bundle.input_shape, bundle, f"input, laid out {bundle.layout},")
        _check_tensor(outputs, (1, bundle.outputs), bundle, "output")
        self._input: int = inputs["index"]
        self._output: int = outputs["index"]
        self._self_test(bundle)

    def predict(self, features: Array) -> Array:
        """The model's raw output (bundle.outputs,) for normalized features (frames, dims)."""
        self._interpreter.set_tensor(self._input, shape_input(features, self._layout))
        self._interpreter.invoke()
        output: Array = self._interpreter.get_tensor(self._output)[0]
        return output

    def _self_test(self, bundle: Bundle) -> None:
        path = bundle.display("golden.npz")
        golden = bundle.arrays("golden.npz")
        shape = (bundle.spec.n_frames, bundle.spec.dims)
        if "normalized" not in golden or golden["normalized"].shape != shape:
            raise UserError(f"{path}: normalized must have shape {shape}")
        if "probabilities" not in golden or golden["probabilities"].shape != (bundle.outputs,):
            raise UserError(f"{path}: probabilities must have shape ({bundle.outputs},)")
        try:
            with np.errstate(all="ignore"):  # values that overflow fail the comparison
                output = self.predict(golden["normalized"].astype(np.float32))
                allowed = np.full(bundle.outputs, OUTPUT_TOLERANCE)
                if bundle.baseline is not None:
                    allowed[-len(bundle.labels) :] = RELATIVE_TOLERANCE
                off = np.abs(output - golden["probabilities"].astype(np.float32))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{bundle.model}: cannot be run on {self.runtime} "
                f"({str(error).splitlines()[0][:120]}); the model is damaged, rebuild the bundle"
            ) from None
        if not (off <= allowed).all():
            worst = int(np.argmax(off / allowed))
            raise UserError(
                f"{path}: the model gives other outputs on this machine than it must "
                f"(off by {off[worst]:.3g}, allowed {allowed[worst]:g}); "
                "the bundle is inconsistent, rebuild it"
            )


def _load(bundle: Bundle, runtime: str) -> Any:
    path, shown = bundle.model, bundle.display("model.tflite")
    if path.read_bytes()[4:8] != b"TFL3":
        raise UserError(f"{shown}: is no TFLite model")
    module = RUNTIMES[runtime][0]
    if runtime == "tflite":
        _load_in_child(str(path), module, shown)
    interpreter_class = importlib.import_module(module).Interpreter
    try:
        with _hide_info_lines():
            interpreter = interpreter_class(model_path=str(path), num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{shown}: cannot be loaded by {RUNTIMES[runtime][1]} "
            f"({str(error).splitlines()[0][:120]}); the model is damaged or uses operators "
            "this runtime does not have"
        ) from None
    return interpreter


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


def _one(details: list[dict[str, Any]], bundle: Bundle, what: str) -> list[dict[str, Any]]:
    if len(details) != 1:
        shown = bundle.display("model.tflite")
        raise UserError(f"{shown}: has {len(details)} {what}s, not one")
    return details


def _check_tensor(
    details: dict[str, Any], shape: tuple[int, ...], bundle: Bundle, what: str
) -> None:
    shown = bundle.display("model.tflite")
    actual = tuple(int(n) for n in details["shape"])
    if actual != shape:
        raise UserError(f"{shown}: {what} must have shape {shape}, the model has {actual}")
    if details["dtype"] is not np.float32:
        raise UserError(
            f"{shown}: {what} must be float32, the model has "
            f"{np.dtype(details['dtype']).name}; convert it with float input and output"
        )

"""The libraries that run a bundle's network: TFLite's and ONNX's, behind one function."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from speech_emotion.common.errors import UserError
from speech_emotion.infer.runtime.network import Array, Network, Tensor
from speech_emotion.infer.runtime.onnx import OnnxNetwork
from speech_emotion.infer.runtime.tflite import TfliteNetwork

__all__ = ["RUNTIMES", "Array", "Network", "Runtime", "Tensor", "find_runtime", "load_network"]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """One library.

    Attributes:
        suffix: of the files that it runs.
        module: that has its interpreter.
        package: that pip installs.
    """

    suffix: str
    module: str
    package: str


RUNTIMES = {
    "litert": Runtime(".tflite", "ai_edge_litert.interpreter", "ai-edge-litert"),
    "tflite": Runtime(".tflite", "tflite_runtime.interpreter", "tflite-runtime"),
    "onnx": Runtime(".onnx", "onnxruntime", "onnxruntime"),
}
"""Name on the command line → library, in order of preference."""
FORMATS = {".tflite": "TFLite", ".onnx": "ONNX"}


def find_runtime(wanted: str, file: str) -> str:
    """The runtime for a model file: the given one, or for `auto` the first that is installed.

    Raises:
        UserError: the given runtime does not run such a file or is not installed, or for `auto`
            none is.
    """
    suffix = Path(file).suffix
    fitting = [name for name, runtime in RUNTIMES.items() if runtime.suffix == suffix]
    if wanted != "auto" and wanted not in fitting:
        raise UserError(
            f"runtime `{wanted}` cannot run {file}: choose auto or {' or '.join(fitting)}"
        )
    names = fitting if wanted == "auto" else [wanted]
    for name in names:
        if importlib.util.find_spec(RUNTIMES[name].module.partition(".")[0]) is not None:
            return name
    packages = " or ".join(RUNTIMES[name].package for name in names)
    raise UserError(f"no {FORMATS[suffix]} runtime for `{wanted}`: install {packages} with pip")


def load_network(path: Path, runtime: str, shown: Path) -> Network:
    """Load a network on a runtime that `find_runtime` found.

    Args:
        shown: the path that errors name.

    Raises:
        UserError: the file is damaged, uses what the runtime lacks, has not exactly one input
            and one output, or has them of a type that is not supported.
    """
    chosen = RUNTIMES[runtime]
    if chosen.suffix == ".onnx":
        return OnnxNetwork(path, shown)
    return TfliteNetwork(path, chosen.module, chosen.package, shown)

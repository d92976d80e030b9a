"""Make a bundle of an existing model."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle, axes_of, layouts_of
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.infer.runtime import Network
from speech_emotion.infer.runtime.network import one_line
from speech_emotion.train.bundle.card import PURPOSE
from speech_emotion.train.bundle.onnx_model import read_model
from speech_emotion.train.bundle.writer import Samples, open_network, run_all, write_bundle

CONVERTED = (".tflite", ".onnx", ".pt2")
SUM_TOLERANCE = 0.02
"""An 8-bit output rounds each probability to 1/256."""


def bundle_model(
    files: Sequence[Path],
    spec: FeatureSpec,
    labels: tuple[str, ...],
    out: Path,
    golden: Samples,
    *,
    dimensions: tuple[str, ...] = (),
    stats: tuple[Path, Path] | None = None,
    quantized: bool = False,
) -> Bundle:
    """Make a bundle of an .onnx, .pt2, .tflite or .keras file, or config.json with .weights.h5.

    The temperature is 1 and no result is uncertain; run `calibrate` and `evaluate` next.

    Args:
        files: of the model.
        spec: feature spec that the model was trained with.
        labels: in the order of the model's outputs.
        dimensions: of its outputs after those of the labels.
        out: the bundle's folder.
        golden: one window of sound for the self-test, (spec.window,).
        stats: mean.npy and std.npy of the training set; without them features are not
            normalized.
        quantized: store the weights as 8-bit integers; Keras models only.

    Raises:
        UserError: the files are not a model, or the model does not fit the spec or the labels.
    """
    if not labels and not dimensions:
        raise UserError("--labels or --dimensions must name the outputs of the model")
    content, file = model_content(files, spec, quantized=quantized)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(content)
        network = open_network(path, files[0])
        layout = layout_of(network, files[0], spec)
        output = output_kind(network, files[0], layout, spec, labels, dimensions)
    name = out.name.lower()
    return write_bundle(
        out,
        name=name,
        model=content,
        model_file=file,
        labels=labels,
        dimensions=dimensions,
        spec=spec,
        layout=layout,
        output=output,
        stats=load_stats(stats, spec),
        golden_audio=golden,
        card=f"# Model card: {name}\n\nOutputs: {', '.join((*labels, *dimensions))}. Made from "
        f"{', '.join(f.name for f in files)}. **Not measured yet**: `python -m train evaluate`.\n\n"
        + PURPOSE,
        licence="See the model's own licence.\n",
        provenance={"files": [f.name for f in files]},
    )


def model_content(
    files: Sequence[Path], spec: FeatureSpec, *, quantized: bool
) -> tuple[bytes, str]:
    """Content and name of the bundle's model file.

    Raises:
        UserError: see `bundle_model`.
    """
    suffix = files[0].suffix if len(files) == 1 else ""
    if suffix in CONVERTED:
        if quantized:
            raise UserError(
                f"{files[0]}: only Keras models can be quantized here; quantize it before"
            )
        content = _read(files[0])
        if suffix == ".tflite":
            return content, "model.tflite"
        return read_model(files[0], content), "model.onnx"
    model = load_keras(files)
    layout = layout_for(tuple(model.input_shape[1:]), spec)
    from speech_emotion.train.model.export import to_tflite

    return to_tflite(_fixed(model, layout, spec), quantized=quantized), "model.tflite"


def load_keras(files: Sequence[Path]) -> Any:
    """A Keras model from a .keras file, or from a config.json and a .weights.h5.

    Raises:
        UserError: other files, or Keras cannot load them.
    """
    by_suffix = {
        "".join(f.suffixes[-2:]) if f.name.endswith(".weights.h5") else f.suffix: f for f in files
    }
    names = ", ".join(f.name for f in files)
    if weights := {".pt", ".pth", ".ckpt", ".safetensors"}.intersection(by_suffix):
        raise UserError(
            f"--model {names}: a {min(weights)} file has no network; export the model with "
            "torch.onnx.export or torch.export.save (docs/ANY_MODEL.md)"
        )
    if set(by_suffix) not in ({".keras"}, {".json", ".weights.h5"}):
        raise UserError(
            "--model takes one .onnx, .pt2, .tflite or .keras file, or a config.json and a "
            f".weights.h5; not {names}"
        )
    for file in files:
        _read(file)
    if importlib.util.find_spec("keras") is None:
        raise UserError(f"--model {names}: needs Keras; install the extra `train` with pip")
    import keras

    try:
        if ".keras" in by_suffix:
            return keras.models.load_model(by_suffix[".keras"], compile=False)
        model = keras.models.model_from_json(by_suffix[".json"].read_text())
        model.load_weights(by_suffix[".weights.h5"])
        return model
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"{files[0]}: Keras cannot load it ({one_line(error)})") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def layout_for(shape: tuple[int | None, ...], spec: FeatureSpec) -> str:
    """The first input layout that fits the model's shape without the batch axis.

    Args:
        shape: None fits any size.

    Raises:
        UserError: no layout fits.
    """
    layouts = layouts_of(spec)
    for layout in layouts:
        wanted = axes_of(layout, spec)
        if len(shape) == len(wanted) and all(
            a is None or a == b for a, b in zip(shape, wanted, strict=True)
        ):
            return layout
    if spec.waveform:
        raise UserError(
            f"the model takes {shape}, the spec gives {spec.window} samples: none of the layouts "
            f"{'; '.join(layouts)} fits; set features.window_s to {_seconds(shape, spec)}"
        )
    raise UserError(
        f"the model takes {shape}, the spec gives {spec.n_frames} frames of {spec.dims} dims: "
        f"none of the layouts {'; '.join(layouts)} fits; set features.frames, n_mfcc, chroma or "
        "n_mels in the spec to those the model was trained with"
    )


def _seconds(shape: tuple[int | None, ...], spec: FeatureSpec) -> str:
    samples = max((n for n in shape if n), default=0)
    return f"{samples / spec.sample_rate:g}" if samples > 1 else "the length it was trained with"


def layout_of(network: Network, path: Path, spec: FeatureSpec) -> str:
    """The input layout of a network.

    Raises:
        UserError: no layout fits, or its batch is fixed to more than 1.
    """
    batch, *shape = network.input.shape or (None,)
    if batch not in (1, None):
        raise UserError(f"{path}: takes {batch} windows at once; convert it with a batch of 1")
    try:
        return layout_for(tuple(shape), spec)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _fixed(model: Any, layout: str, spec: FeatureSpec) -> Any:
    """The model with all axes fixed and a batch of 1; recurrent layers convert only like this."""
    import keras

    inputs = keras.Input(axes_of(layout, spec), batch_size=1)
    return keras.Model(inputs, model(inputs, training=False))


def output_kind(
    network: Network,
    path: Path,
    layout: str,
    spec: FeatureSpec,
    labels: tuple[str, ...],
    dimensions: tuple[str, ...] = (),
) -> str:
    """`probabilities` where the labels' outputs, on seeded noise, are not negative and of sum 1.

    `logits` elsewhere.

    Raises:
        UserError: the network does not give one value per label and dimension, fails, or gives
            other values for the same window.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, spec.n_frames, spec.dims)).astype(np.float32)
    x *= np.float32(0.1 if spec.waveform else 3.0)
    try:
        outputs = run_all(network, x, layout)
        again = run_all(network, x, layout)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: cannot be run ({one_line(error)})") from None
    named = len(labels) + len(dimensions)
    if outputs.ndim != 2 or outputs.shape[1] != named:
        size = "x".join(map(str, outputs.shape[1:])) or "1"
        flags = "--labels and --dimensions name" if dimensions else "--labels names"
        raise UserError(f"{path}: gives {size} values, but {flags} {named}")
    if not np.array_equal(outputs, again, equal_nan=True):
        raise UserError(
            f"{path}: gives other values for the same window; export it without dropout "
            "(model.eval()) and without random operators"
        )
    of_labels = outputs[:, : len(labels)]
    likely = (of_labels >= 0).all() and np.allclose(of_labels.sum(axis=1), 1, atol=SUM_TOLERANCE)
    return "probabilities" if likely else "logits"


def load_stats(paths: tuple[Path, Path] | None, spec: FeatureSpec) -> tuple[Samples, Samples]:
    """Mean and standard deviation from .npy files; without files, 0 and 1.

    Raises:
        UserError: a file is missing or its shape is not (dims,) or (frames, dims).
    """
    if paths is None:
        return np.zeros(spec.dims, np.float32), np.ones(spec.dims, np.float32)
    arrays: list[NDArray[np.float32]] = []
    for path in paths:
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            raise UserError(f"{path}: is not a readable .npy file") from None
        array = np.squeeze(array)
        if array.shape not in ((spec.dims,), (spec.n_frames, spec.dims)):
            raise UserError(
                f"{path}: has shape {array.shape}, the spec needs ({spec.dims},) or "
                f"({spec.n_frames}, {spec.dims})"
            )
        arrays.append(array.astype(np.float32))
    return arrays[0], arrays[1]

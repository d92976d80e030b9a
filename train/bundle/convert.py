"""Make a bundle of an existing model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import LAYOUTS, Bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.train.bundle.card import PURPOSE
from speech_emotion.train.bundle.writer import Samples, run_tflite_all, write_bundle
from speech_emotion.train.model.export import to_tflite


def bundle_model(
    files: Sequence[Path],
    spec: FeatureSpec,
    labels: tuple[str, ...],
    out: Path,
    golden: Samples,
    *,
    stats: tuple[Path, Path] | None = None,
    quantized: bool = False,
) -> Bundle:
    """Make a bundle of a .keras file, a config.json with its .weights.h5, or a .tflite file.

    The temperature is 1 and no result is uncertain; run `calibrate` and `evaluate` next.

    Args:
        files: of the model.
        spec: feature spec that the model was trained with.
        labels: in the order of the model's outputs.
        out: the bundle's folder.
        golden: one window of sound for the self-test, (spec.window,).
        stats: mean.npy and std.npy of the training set; without them features are not
            normalized.
        quantized: store the weights as 8-bit integers; Keras models only.

    Raises:
        UserError: the files are not a model, or the model does not fit the spec or the labels.
    """
    if [f.suffix for f in files] == [".tflite"]:
        if quantized:
            raise UserError(f"{files[0]}: is TFLite already; only Keras models can be quantized")
        flat = _read(files[0])
        shape, size = tflite_shapes(files[0], flat)
        layout = layout_for(shape, spec)
    else:
        model = load_keras(files)
        layout = layout_for(tuple(model.input_shape[1:]), spec)
        size = int(model.output_shape[-1])
        flat = to_tflite(_fixed(model, layout, spec), quantized=quantized)
    if size != len(labels):
        raise UserError(f"{files[0]}: gives {size} values, but --labels names {len(labels)}")
    output = "probabilities" if gives_probabilities(flat, layout, spec) else "logits"
    name = out.name.lower()
    return write_bundle(
        out,
        name=name,
        model=flat,
        labels=labels,
        spec=spec,
        layout=layout,
        output=output,
        stats=load_stats(stats, spec),
        golden_audio=golden,
        card=f"# Model card: {name}\n\nLabels: {', '.join(labels)}. Made from "
        f"{', '.join(f.name for f in files)}. **Not measured yet**: `python -m train evaluate`.\n\n"
        + PURPOSE,
        licence="See the model's own licence.\n",
        provenance={"files": [f.name for f in files]},
    )


def load_keras(files: Sequence[Path]) -> Any:
    """A Keras model from a .keras file, or from a config.json and a .weights.h5.

    Raises:
        UserError: other files, or Keras cannot load them.
    """
    import keras

    by_suffix = {
        "".join(f.suffixes[-2:]) if f.name.endswith(".weights.h5") else f.suffix: f for f in files
    }
    for file in files:
        _read(file)
    try:
        if set(by_suffix) == {".keras"}:
            return keras.models.load_model(by_suffix[".keras"], compile=False)
        if set(by_suffix) == {".json", ".weights.h5"}:
            model = keras.models.model_from_json(by_suffix[".json"].read_text())
            model.load_weights(by_suffix[".weights.h5"])
            return model
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(f"{files[0]}: Keras cannot load it ({reason})") from None
    raise UserError(
        "--model takes one .keras file, a config.json and a .weights.h5, or one .tflite; "
        f"not {', '.join(f.name for f in files)}"
    )


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
    axes = {"frames": spec.n_frames, "dims": spec.dims, "1": 1}
    for layout in LAYOUTS:
        wanted = tuple(axes[axis] for axis in layout.split(","))
        if len(shape) == len(wanted) and all(
            a is None or a == b for a, b in zip(shape, wanted, strict=True)
        ):
            return layout
    raise UserError(
        f"the model takes {shape}, the spec gives {spec.n_frames} frames of {spec.dims} dims: "
        f"none of the layouts {'; '.join(LAYOUTS)} fits; set features.frames, n_mfcc, chroma or "
        "n_mels in the spec to those the model was trained with"
    )


def tflite_shapes(path: Path, flat: bytes) -> tuple[tuple[int, ...], int]:
    """Input shape without the batch, and the size of the output, of a TFLite model.

    Raises:
        UserError: it is not a TFLite model, or its batch is not 1.
    """
    from ai_edge_litert.interpreter import Interpreter

    if flat[4:8] != b"TFL3":
        raise UserError(f"{path}: is no TFLite model")
    try:
        interpreter = Interpreter(model_content=flat, num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be loaded ({str(error).splitlines()[0][:120]})") from None
    shape = tuple(int(n) for n in interpreter.get_input_details()[0]["shape"])
    if shape[0] != 1:
        raise UserError(f"{path}: takes {shape[0]} windows at once; convert it with a batch of 1")
    return shape[1:], int(interpreter.get_output_details()[0]["shape"][-1])


def _fixed(model: Any, layout: str, spec: FeatureSpec) -> Any:
    """The model with all axes fixed and a batch of 1; recurrent layers convert only like this."""
    import keras

    axes = {"frames": spec.n_frames, "dims": spec.dims, "1": 1}
    inputs = keras.Input(tuple(axes[axis] for axis in layout.split(",")), batch_size=1)
    return keras.Model(inputs, model(inputs, training=False))


def gives_probabilities(flat: bytes, layout: str, spec: FeatureSpec) -> bool:
    """Whether the model's outputs are probabilities: not negative and of sum 1, on seeded noise."""
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((8, spec.n_frames, spec.dims)).astype(np.float32)
    outputs = run_tflite_all(flat, x, layout)
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-3))


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

"""The model of a bundle as one function, on any of the runtimes."""

from __future__ import annotations

import numpy as np

from speech_emotion.common.bundle.manifest import (
    OUTPUT_TOLERANCE,
    RELATIVE_TOLERANCE,
    Bundle,
)
from speech_emotion.common.errors import UserError
from speech_emotion.infer.runtime import Array, Tensor, find_runtime, load_network
from speech_emotion.infer.runtime.network import one_line

__all__ = ["Array", "Model", "shape_input"]


def shape_input(features: Array, layout: str) -> Array:
    """Features (frames, dims) in a model's input layout, with a batch axis of 1 first."""
    batch = features[np.newaxis]
    match layout:
        case "frames,dims,1":
            return batch[..., np.newaxis]
        case "frames,dims" | "samples,1":
            return batch
        case "dims,frames" | "1,samples":
            return np.ascontiguousarray(batch.transpose(0, 2, 1))
        case "dims,frames,1":
            return np.ascontiguousarray(batch.transpose(0, 2, 1))[..., np.newaxis]
        case "dims":
            mean: Array = batch.mean(axis=1, dtype=np.float32)
            return mean
        case "samples":
            return batch[..., 0]
    raise ValueError(f"unknown layout {layout!r}")


class Model:
    """A loaded model, one thread, checked against the bundle's shapes and golden vectors.

    Raises:
        UserError: the model cannot be loaded, does not match the bundle's spec, layout or
            labels, or computes other probabilities on this machine than the golden vectors.
    """

    def __init__(self, bundle: Bundle, runtime: str = "auto") -> None:
        self.runtime = find_runtime(runtime, bundle.model_file)
        self._layout = bundle.layout
        self._network = load_network(bundle.model, self.runtime, bundle.display(bundle.model_file))
        _check(self._network.input, bundle.input_shape, bundle, f"input, laid out {bundle.layout},")
        _check(self._network.output, (1, bundle.outputs), bundle, "output")
        self._self_test(bundle)

    def predict(self, features: Array) -> Array:
        """The model's raw output (bundle.outputs,) for normalized features (frames, dims)."""
        output: Array = self._network.run(shape_input(features, self._layout))[0]
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
                    end = bundle.relative_end
                    allowed[end - len(bundle.labels) : end] = RELATIVE_TOLERANCE
                if bundle.distance_output:
                    allowed[bundle.distance_at] = RELATIVE_TOLERANCE
                if output.shape != allowed.shape:
                    raise ValueError(f"its output has shape {output.shape}")
                off = np.abs(output - golden["probabilities"].astype(np.float32))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{bundle.model}: cannot be run on {self.runtime} "
                f"({one_line(error)}); the model is damaged, rebuild the bundle"
            ) from None
        if not (off <= allowed).all():
            worst = int(np.argmax(off / allowed))
            raise UserError(
                f"{path}: the model gives other outputs on this machine than it must "
                f"(off by {off[worst]:.3g}, allowed {allowed[worst]:g}); "
                "the bundle is inconsistent, rebuild it"
            )


def _check(tensor: Tensor, shape: tuple[int, ...], bundle: Bundle, what: str) -> None:
    if not tensor.fits(shape):
        shown = bundle.display(bundle.model_file)
        sizes = ", ".join("any" if n is None else str(n) for n in tensor.shape)
        raise UserError(f"{shown}: {what} must have shape {shape}, the model has ({sizes})")

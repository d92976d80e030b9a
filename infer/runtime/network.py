"""A network as one function of one array, whatever library runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The input or the output of a network.

    An 8-bit tensor holds `values / scale + zero_point`, rounded.

    Attributes:
        shape: batch included; None fits any size.
        dtype: float32, int8 or uint8.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype[np.generic]
    scale: float = 1.0
    zero_point: int = 0

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an array of a shape can be this tensor."""
        return len(shape) == len(self.shape) and all(
            own in (None, size) for own, size in zip(self.shape, shape, strict=True)
        )

    def encode(self, values: Array) -> NDArray[np.generic]:
        """The tensor's own values for real ones; those out of its range are clipped."""
        if self.dtype == np.float32:
            return values
        limits = np.iinfo(self.dtype)  # type: ignore[type-var]
        steps = np.rint(values / np.float32(self.scale)) + np.float32(self.zero_point)
        encoded: NDArray[np.generic] = np.clip(steps, limits.min, limits.max).astype(self.dtype)
        return encoded

    def decode(self, values: NDArray[np.generic]) -> Array:
        """The real values for the tensor's own ones."""
        if self.dtype == np.float32:
            return values.astype(np.float32, copy=False)
        steps = values.astype(np.float32) - np.float32(self.zero_point)
        return steps * np.float32(self.scale)


class Network(Protocol):
    """A loaded network with one input and one output. It computes on one thread."""

    @property
    def input(self) -> Tensor: ...
    @property
    def output(self) -> Tensor: ...

    def run(self, values: Array) -> Array:
        """The output of one batch, as real values.

        Raises:
            RuntimeError, ValueError: the library refuses the values or its own model.
        """
        ...


def only_one(names: Sequence[str], what: str, shown: Path) -> None:
    """Raises UserError where a model has not exactly one input or output."""
    if len(names) != 1:
        listed = f" ({', '.join(names)[:120]})" if names else ""
        raise UserError(
            f"{shown}: has {len(names)} {what}s{listed}, not one; export a model with one input, "
            "the features or samples of one window, and one output"
        )


def one_line(error: Exception) -> str:
    """The start of a library's error text, for one line of ours."""
    printable = "".join(c if c.isprintable() else " " for c in str(error).strip())
    return printable[:160] or type(error).__name__

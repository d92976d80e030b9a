"""The `[personal]` table of a bundle that was adapted to labels of its own users."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

from speech_emotion.common.bundle.parameters import read_vector
from speech_emotion.common.errors import UserError

MAX_WEIGHT = 20.0
"""Largest magnitude of a number of the map."""


@dataclasses.dataclass(frozen=True)
class Personal:
    """An affine map of a window's log-probabilities (Kull et al., 2019: Dirichlet calibration).

    The adapted probabilities are softmax(matrix @ s + bias), where s are the logarithms of the
    bundle's own probabilities less their mean.

    Attributes:
        matrix: one row per label, (labels, labels).
        bias: one per label, (labels,).
        before: the bundle's file with the manifest before this map was fitted.
    """

    matrix: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    before: str


def read_personal(
    table: Mapping[str, Any], labels: int, files: Mapping[str, Any], where: str
) -> Personal | None:
    """The `[personal]` of a manifest; None where the bundle was not adapted.

    Args:
        labels: number of labels.
        files: the files that the manifest lists.
        where: the manifest in errors.

    Raises:
        UserError: a key is unknown, missing or out of range.
    """
    values = table.get("personal")
    if values is None:
        return None
    keys = [field.name for field in dataclasses.fields(Personal)]
    if not isinstance(values, dict) or set(values) != set(keys):
        raise UserError(f"{where}: personal must be a table with the keys {', '.join(keys)}")
    matrix, before = values["matrix"], values["before"]
    if not isinstance(matrix, list) or len(matrix) != labels:
        raise UserError(f"{where}: personal.matrix must have {labels} rows, one per label")
    if not isinstance(before, str) or before not in files:
        raise UserError(
            f"{where}: personal.before = {reprlib.repr(before)} must be one of the files"
        )
    rows = tuple(read_vector(row, labels, "personal.matrix", MAX_WEIGHT, where) for row in matrix)
    return Personal(
        rows, read_vector(values["bias"], labels, "personal.bias", MAX_WEIGHT, where), before
    )

"""The key `dimensions` of a bundle, whose model has values of them after its other outputs."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from speech_emotion.common.errors import UserError

DIMENSIONS = ("arousal", "valence", "dominance")
"""Dimensions of emotion (Russell and Mehrabian, 1977). A value is 0 to 1, low to high."""


def read_dimensions(table: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The names in the order of the model's output; empty without the key.

    Args:
        where: the manifest in errors.

    Raises:
        UserError: the key is no list of different dimensions, or a bundle without labels has a
            key that belongs to labels.
    """
    names = table.get("dimensions", [])
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and name in DIMENSIONS for name in names)
        or len(set(names)) != len(names)
    ):
        raise UserError(
            f"{where}: dimensions = {reprlib.repr(names)} must be a list of "
            f"{', '.join(DIMENSIONS)}, each at most once"
        )
    if names and table.get("labels") == []:
        for key in ("relative_output", "baseline", "personal"):
            if table.get(key):
                raise UserError(f"{where}: {key} needs labels; this bundle has dimensions only")
    return tuple(names)

"""The file of labels: one JSON object per line, an utterance with the label that a person gave."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speech_emotion.common.errors import UserError
from speech_emotion.infer.offline.analyzer import RUN as OFFLINE_RUN

MOST = 2000
"""Labels that are used: the newest, which are the last of the file."""
IDENTITY = ("stream", "run", "seq", "clip")
"""Keys that together name an utterance. All recordings have the run `offline`."""


@dataclasses.dataclass(frozen=True)
class Label:
    """An utterance with the label that a person gave.

    Attributes:
        where: file and line, for errors.
        truth: index of the person's label.
        probabilities: as published, in label order; None where only sound is known.
        bundle: id of the bundle that gave them; empty without.
        clip: file with the utterance's sound, or None.
    """

    where: str
    truth: int
    probabilities: tuple[float, ...] | None
    bundle: str
    clip: Path | None


def read_labels(file: Path, labels: Sequence[str]) -> list[Label]:
    """The newest `MOST` labels of a file, in its order. A later line about the same utterance or
    clip replaces an earlier one.

    Args:
        labels: of the bundle.

    Raises:
        UserError: the file cannot be read, or a line is no label.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{file}: is not a text file in UTF-8; write one JSON object a line"
        ) from None
    found: dict[str, Label] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        table = _object(line, where)
        label = _label(table, labels, file.parent, where)
        key = _identity(table, where)
        found.pop(key, None)
        found[key] = label
    return list(found.values())[-MOST:]


def _identity(table: Mapping[str, Any], where: str) -> str:
    """What two lines about the same utterance have in common."""
    values = [table.get(key) for key in IDENTITY]
    if values[-1] is None and (None in values[:-1] or values[1] == OFFLINE_RUN):
        return where
    return json.dumps(values)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise UserError(f"{where}: is not a JSON object; write one object a line")
    return table


def _label(table: Mapping[str, Any], labels: Sequence[str], folder: Path, where: str) -> Label:
    label, bundle, clip = table.get("label"), table.get("bundle", ""), table.get("clip")
    if not isinstance(label, str) or label not in labels:
        raise UserError(
            f"{where}: label = {reprlib.repr(label)} must be one of {', '.join(labels)}"
        )
    if clip is not None and (not isinstance(clip, str) or not clip or "\0" in clip):
        raise UserError(f"{where}: clip = {reprlib.repr(clip)} must be the path of a sound file")
    probabilities = table.get("probabilities")
    if probabilities is not None:
        probabilities = _probabilities(probabilities, labels, where)
        if not isinstance(bundle, str) or not bundle:
            raise UserError(
                f"{where}: has probabilities but no bundle; copy the whole utterance message"
            )
    elif clip is None:
        raise UserError(
            f"{where}: needs probabilities and bundle, as an utterance message has them, or clip"
        )
    return Label(
        where=where,
        truth=list(labels).index(label),
        probabilities=probabilities,
        bundle=bundle if probabilities is not None else "",
        clip=None if clip is None else folder / clip,
    )


def _probabilities(value: object, labels: Sequence[str], where: str) -> tuple[float, ...]:
    if (
        not isinstance(value, dict)
        or set(value) != set(labels)
        or not all(
            type(p) in (int, float) and math.isfinite(p) and 0 <= p <= 1 for p in value.values()
        )
        or not 0.98 <= sum(value.values()) <= 1.02
    ):
        raise UserError(
            f"{where}: probabilities must be one number of 0 to 1 for each of "
            f"{', '.join(labels)}, with the sum 1"
        )
    return tuple(float(value[label]) for label in labels)

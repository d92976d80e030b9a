"""Tracks as a database of audformat: the tables `utterances` and `windows`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speech_emotion.commands.export.source import Message, Track
from speech_emotion.common.errors import UserError, needs_extra
from speech_emotion.infer.offline.frame import PROSODY_COLUMNS, frame_of


def write(tracks: Iterable[Track], folder: Path, root: str) -> None:
    """Write `db.yaml` and one table per kind.

    audformat wants names of files relative to the database: those below `root` become so.

    Raises:
        UserError: audformat is not installed, or a file lies outside `root`.
    """
    try:
        import audformat
    except ImportError:
        raise UserError(f"a database {needs_extra('archive')}") from None
    files: list[tuple[str, list[Message]]] = []
    lengths: dict[str, float] = {}
    labels: dict[str, None] = {}
    dimensions: dict[str, None] = {}
    bundles: dict[str, None] = {}
    for track in tracks:
        name = _portable(track.name, root)
        files.append((name, list(track.messages)))
        lengths[name] = track.about.get("end") or 0.0
        labels |= dict.fromkeys(track.labels)
        dimensions |= dict.fromkeys(track.dimensions)
        bundles[track.bundle] = None
    names = tuple(labels)
    prosody = any(
        getattr(message, "prosody", None) for _, messages in files for message in messages
    )
    database = audformat.Database(
        name=folder.resolve().name,
        source=", ".join(bundles),
        usage=audformat.define.Usage.OTHER,
        description="Emotions as computed by speech-emotion-pipeline; no annotation of people.",
    )
    schemes = audformat.Scheme
    database.schemes["emotion"] = schemes(labels=[*names, "uncertain"])
    database.schemes["confidence"] = schemes(dtype="float", minimum=0.0, maximum=1.0)
    for name in (*(f"p_{label}" for label in names), *dimensions):
        database.schemes[name] = schemes(dtype="float", minimum=0.0, maximum=1.0)
    for text in ("state", "reason"):
        database.schemes[text] = schemes(dtype="str")
    database.schemes["rms_db"] = schemes(dtype="float")
    database.schemes["windows"] = schemes(dtype="int")
    for name in PROSODY_COLUMNS if prosody else ():
        database.schemes[name] = schemes(dtype="int" if name == "pauses" else "float")
    for table, utterances in (("utterances", True), ("windows", False)):
        frame = frame_of(
            files, names, utterances=utterances, prosody=prosody, dimensions=tuple(dimensions)
        )
        made = database[table] = audformat.Table(frame.index)
        for column in frame.columns:
            made[column] = audformat.Column(scheme_id=column)
            made[column].set(_plain(frame[column]))
    database.save(os.fspath(folder), storage_format="csv")


def _plain(column: Any) -> Any:
    return column.astype(object).where(column.notna(), None) if column.dtype == "string" else column


def _portable(name: str, root: str) -> str:
    path = os.path.relpath(name, root) if root else name
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise UserError(f"{name}: lies outside --root {root or '.'}; name a folder above all files")
    return path.replace(os.sep, "/")

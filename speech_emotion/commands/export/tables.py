"""Tracks as tables: Parquet, CSV, JSON. The rows are those of `infer --out` (docs/ARCHIVE.md)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TextIO

from speech_emotion.commands.export.source import Track
from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.infer.batch.table import (
    AFTER,
    BEFORE,
    COMPRESSION,
    GROUP_ROWS,
    PROSODY,
    row_of,
    schema_of,
)

Row = dict[str, Any]
ABOUT = ("error", "source_rate", "channels", "peak_db", "snr_db", "clipped")
"""Columns that only rows of a file have, which CSV and JSON leave out."""


def parquet(tracks: Iterable[Track], out: BinaryIO) -> None:
    """One Parquet file. A recording or history of several bundles has the labels of the first.

    Raises:
        UserError: tracks have different labels.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    schema: pa.Schema | None = None
    labels: tuple[str, ...] = ()
    rows: list[Row] = []
    for track in tracks:
        if writer is None:
            labels = track.labels
            schema = schema_of(
                labels, track.bundle, prosody=track.prosody, dimensions=track.dimensions
            )
            writer = pq.ParquetWriter(out, schema, compression=COMPRESSION)
        if track.labels and track.labels != labels:
            raise UserError(
                f"{track.name}: has the labels {', '.join(track.labels)}, not those of the first "
                f"recording, {', '.join(labels)}; --format json takes both"
            )
        for row in rows_of(track, with_file=True):
            rows.append(row)
            if len(rows) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema), GROUP_ROWS)
                rows.clear()
    if writer is not None:
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema), GROUP_ROWS)
        writer.close()


def rows_of(track: Track, *, with_file: bool = False) -> Iterator[Row]:
    """A row per message; with `with_file` a last one for the recording, where there is one."""
    for message in track.messages:
        yield {"file": track.name, **row_of(message)}
    if with_file and track.about:
        yield track.about


def as_csv(tracks: Iterable[Track], out: TextIO, kinds: tuple[str, ...]) -> None:
    """CSV with a line of names; the labels are those of the first recording that has some."""
    writer: csv.DictWriter[str] | None = None
    for track in tracks:
        if writer is None:
            schema = _columns(track)
            writer = csv.DictWriter(out, schema, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
        writer.writerows(
            {name: _safe(value) for name, value in row.items()}
            for row in rows_of(track)
            if row["kind"] in kinds
        )


def as_json(tracks: Iterable[Track], out: TextIO, kinds: tuple[str, ...]) -> None:
    """A JSON list: each message as the socket publishes it, with `file` and `kind`."""
    encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode
    divider = "[\n"
    for track in tracks:
        for message in track.messages:
            if message.topic in kinds:
                row = {"file": track.name, "kind": message.topic, **public.to_json_map(message)}
                out.write(f"{divider}{encode(row)}")
                divider = ",\n"
    out.write("[]\n" if divider == "[\n" else "\n]\n")


TEXT_TABLES: dict[str, Callable[[Iterable[Track], TextIO, tuple[str, ...]], None]] = {
    "csv": as_csv,
    "json": as_json,
}


def _columns(track: Track) -> list[str]:
    names = [
        *(name for name, _ in BEFORE),
        *(f"{kind}_{label}" for kind in ("p", "raw") for label in track.labels),
        *(name for name, _ in (PROSODY if track.prosody else ())),
        *track.dimensions,
        *(name for name, _ in AFTER),
    ]
    return [name for name in names if name not in ABOUT]


def _safe(value: object) -> object:
    # A spreadsheet takes a text with such a first character for a formula.
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value

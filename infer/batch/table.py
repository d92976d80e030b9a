"""Results as rows of a Parquet table, and rows as the messages they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from speech_emotion.common.bundle.dimensions import DIMENSIONS
from speech_emotion.common.errors import UserError, needs_extra
from speech_emotion.common.wire import public
from speech_emotion.infer.offline.analyzer import RUN, STREAM, Message
from speech_emotion.infer.offline.frame import PROSODY_COLUMNS, probabilities_of

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
"""Version of the table; part of every key."""
METADATA = b"speech_emotion"
ROWS = 8192
"""Rows that are held in memory before they are written: an hour of results."""
GROUP_ROWS = 1 << 16
"""Rows of one row group of a table of many files."""
COMPRESSION = "zstd"
"""Of a table of many files."""

BEFORE = (
    ("file", "string"),
    ("kind", "string"),
    ("seq", "int64"),
    ("start", "double"),
    ("end", "double"),
    ("state", "string"),
    ("emotion", "string"),
    ("confidence", "double"),
    ("reason", "string"),
    ("rms_db", "double"),
    ("lost", "int64"),
    ("skipped", "int64"),
    ("windows", "int64"),
    ("baseline", "double"),
    ("baseline_forgotten", "bool"),
)
"""Columns before those of the labels; `start` and `end` are in seconds."""
PROSODY = tuple((name, "int64" if name == "pauses" else "double") for name in PROSODY_COLUMNS)
"""Columns of the prosody of utterances, after those of the labels, where it is measured."""
AFTER = (
    ("rate", "int32"),
    ("bundle", "string"),
    ("time", "double"),
    ("clipped", "double"),
    ("peak_db", "double"),
    ("snr_db", "double"),
    ("source_rate", "int32"),
    ("channels", "int32"),
    ("error", "string"),
)
"""Columns after those of the labels."""
RESULT, UTTERANCE, FILE = "result", "utterance", "file"
"""Values of `kind`. Each input has one row `file`, the last one, with its length and quality."""


def schema_of(
    labels: tuple[str, ...],
    bundle: str,
    *,
    prosody: bool = False,
    dimensions: tuple[str, ...] = (),
) -> pa.Schema:
    """The columns of a table: per label `p_LABEL`, which `confidence` is of, and `raw_LABEL`.

    Args:
        prosody: with the columns of prosody.
        dimensions: with a column for each of these.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise UserError(f"Parquet {needs_extra('archive')}") from None
    columns = [
        *BEFORE,
        *((f"{kind}_{label}", "double") for kind in ("p", "raw") for label in labels),
        *(PROSODY if prosody else ()),
        *((name, "double") for name in dimensions),
        *AFTER,
    ]
    about = json.dumps({"version": VERSION, "bundle": bundle, "labels": labels})
    fields = [pa.field(name, pa.type_for_alias(kind)) for name, kind in columns]
    return pa.schema(fields, {METADATA: about.encode()})


def about(schema: pa.Schema) -> tuple[str, tuple[str, ...]]:
    """Bundle id and labels of a table.

    Raises:
        UserError: it is none of this program and version.
    """
    try:
        table = json.loads((schema.metadata or {})[METADATA])
        version, bundle, labels = table["version"], table["bundle"], tuple(table["labels"])
    except (KeyError, TypeError, ValueError):
        raise UserError("is a table of another program") from None
    if version != VERSION:
        raise UserError(f"is a table of version {version}; this program reads {VERSION}")
    return bundle, labels


def row_of(message: Message) -> dict[str, Any]:
    """The columns of a result or an utterance that are not null, without `file`."""
    rate = message.rate
    row: dict[str, Any] = {
        "kind": message.topic,
        "seq": message.seq,
        "start": message.start / rate,
        "end": message.end / rate,
        "emotion": message.emotion,
        "confidence": message.confidence,
        "reason": message.reason,
        "rate": rate,
        "bundle": message.bundle,
        "time": message.time,
    }
    if isinstance(message, public.Result):
        row |= {
            "state": message.state,
            "rms_db": message.rms_db,
            "lost": message.lost,
            "skipped": message.skipped,
            "baseline": message.baseline,
            "baseline_forgotten": message.baseline_forgotten,
        }
        if message.probabilities is not None:
            row |= {f"raw_{label}": p for label, p in message.probabilities.items()}
    else:
        row["windows"] = message.windows
        if message.prosody is not None:
            row |= vars(message.prosody)
    if (shown := probabilities_of(message)) is not None:
        row |= {f"p_{label}": p for label, p in shown.items()}
    return row | (message.dimensions or {})


class TableWriter:
    """Writes the rows of one input to an open file, in constant memory.

    Args:
        file: open for writing; stays open.
        name: value of the column `file`.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, name: str) -> None:
        import pyarrow.parquet as pq

        self._schema = schema
        self._name = name
        self._bundle, _ = about(schema)
        self._columns: dict[str, list[Any]] = {column: [] for column in schema.names}
        # Dictionaries, statistics and better compression cost more than the analysis of a short
        # clip; the table of many files has them.
        self._writer = pq.ParquetWriter(
            file, schema, compression="snappy", use_dictionary=False, write_statistics=False
        )

    def add(self, message: Message) -> None:
        """Add a result or an utterance."""
        self._add(row_of(message))

    def end(self, **row: Any) -> None:
        """Add the row `file` and complete the table.

        Args:
            row: `end` in seconds, and any of the columns for quality and `error`.
        """
        self._add({"kind": FILE, "start": 0.0, "bundle": self._bundle, **row})
        self._write()
        self._writer.close()

    def _add(self, row: dict[str, Any]) -> None:
        row["file"] = self._name
        for column, values in self._columns.items():
            values.append(row.get(column))
        if len(self._columns["file"]) >= ROWS:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        batch = pa.record_batch(list(self._columns.values()), schema=self._schema)
        self._writer.write_batch(batch)
        for values in self._columns.values():
            values.clear()


def messages_of(table: pa.Table | pa.RecordBatch) -> Iterator[tuple[str, Message]]:
    """File and message of each row that is one, with the bits that were written."""
    _, labels = about(table.schema)
    for row in table.to_pylist():
        if row["kind"] != FILE:
            yield row["file"], message_of(row, labels)


def message_of(row: dict[str, Any], labels: tuple[str, ...]) -> Message:
    """The message of a row that is a result or an utterance."""

    def probabilities(kind: str) -> dict[str, float] | None:
        shown = {label: row[f"{kind}_{label}"] for label in labels}
        heard = None not in shown.values() if labels else row["emotion"] is not None
        return shown if heard else None

    rate = row["rate"]
    found = {name: row[name] for name in DIMENSIONS if row.get(name) is not None}
    shared: dict[str, Any] = {
        "stream": STREAM,
        "run": RUN,
        "start": round(row["start"] * rate),
        "end": round(row["end"] * rate),
        **{name: row[name] for name in ("seq", "rate", "emotion", "confidence", "reason")},
        **{name: row[name] for name in ("time", "bundle")},
        "dimensions": found or None,
    }
    if row["kind"] == UTTERANCE:
        shown = probabilities("p") or {}
        prosody = None
        if row.get("voiced") is not None:
            prosody = public.Prosody(**{name: row[name] for name in PROSODY_COLUMNS})
        return public.Utterance(
            **shared, probabilities=shown, windows=row["windows"], prosody=prosody
        )
    return public.Result(
        **shared,
        state=row["state"],
        probabilities=probabilities("raw"),
        smoothed=probabilities("p"),
        rms_db=row["rms_db"],
        lost=row["lost"],
        skipped=row["skipped"],
        timing_ms=None,
        baseline=row["baseline"],
        baseline_forgotten=row["baseline_forgotten"],
    )

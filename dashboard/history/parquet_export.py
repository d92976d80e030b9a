"""The history as Parquet on standard output: a process of its own, because pyarrow is large.

    python -m speech_emotion.dashboard.history.parquet_export FILE TABLE STREAM FROM TO [KEY]

An empty STREAM means all streams. FROM and TO are unix times in seconds; KEY is that of a row, of
which only the rows after it are written.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from speech_emotion.common.linux.entry import guarded
from speech_emotion.dashboard.history.rows import HistoryRows, Key

ROWS = 5000
"""Rows of one row group: what is in memory at once."""
TYPES = {
    "time": pa.float64(),
    "rate": pa.int32(),
    **dict.fromkeys(("seq", "first", "last", "lost", "skipped", "windows"), pa.int64()),
    **dict.fromkeys(("confidence", "rms_db", "total_ms"), pa.float64()),
    **dict.fromkeys(
        ("smoothed", "probabilities", "dimensions"), pa.map_(pa.string(), pa.float64())
    ),
}
"""Types of the columns; a column without a row is text."""


class Pipe:
    """Standard output as pyarrow wants a file: a place is asked for, but never sought."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._written = 0

    def write(self, data: bytes) -> int:
        self._written += len(data)
        return self._out.write(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self._out.flush()

    def close(self) -> None:
        """The stream stays open: it is the process's own."""
        self._out.flush()


def export(rows: HistoryRows, out: BinaryIO) -> None:
    """Write all rows as one Parquet file."""
    schema = pa.schema([(name, TYPES.get(name, pa.string())) for name in rows.columns])
    source = (row for _, row in rows)
    with pa.PythonFile(Pipe(out), mode="w") as file, pq.ParquetWriter(file, schema) as writer:
        while part := list(itertools.islice(source, ROWS)):
            table = [{name: _cell(name, value) for name, value in row.items()} for row in part]
            writer.write_table(pa.Table.from_pylist(table, schema=schema))


def _cell(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return list(value.items()) if name in TYPES else json.dumps(value)


def main(words: list[str]) -> int:
    """Write the file; returns the exit code."""
    path, table, stream, start, end, *rest = words
    span = float(start), float(end), Key.parse(rest[0]) if rest else None
    with HistoryRows(Path(path), table, stream or None, *span) as rows:
        export(rows, sys.stdout.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(guarded("history", lambda: main(sys.argv[1:])))

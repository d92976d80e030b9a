"""The parts of a run as one Parquet file, in the order of the inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from speech_emotion.infer.batch.parts import Draft, OutputError
from speech_emotion.infer.batch.table import COMPRESSION, GROUP_ROWS

if TYPE_CHECKING:
    import pyarrow as pa


def merge(parts: Iterable[Path], schema: pa.Schema, out: Path) -> None:
    """Write the rows of all parts to one file, which appears when it is complete.

    Memory: one group of rows.

    Raises:
        OutputError: a part cannot be read, or the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with Draft(out.parent, out.name) as draft:
        with pq.ParquetWriter(draft.file, schema, compression=COMPRESSION) as writer:
            held: list[pa.RecordBatch] = []
            rows = 0
            for batch in _batches(parts):
                held.append(batch)
                rows += batch.num_rows
                if rows >= GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(held, schema), GROUP_ROWS)
                    held, rows = [], 0
            if held:
                writer.write_table(pa.Table.from_batches(held, schema), GROUP_ROWS)
        draft.publish(out.name, sync=True)


def _batches(parts: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in parts:
        try:
            with pq.ParquetFile(part) as file:
                yield from file.iter_batches()
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{part}: cannot be read ({error}); remove it") from None

"""What can be exported: tables of `infer --out`, recordings of `--record`, histories."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from speech_emotion.capture.recording.reader import MESSAGES, TIMELINE
from speech_emotion.common.bundle.dimensions import DIMENSIONS
from speech_emotion.common.errors import UserError, needs_extra
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.infer.batch.parts import INDEX
from speech_emotion.infer.batch.table import FILE, about, message_of
from speech_emotion.infer.offline.frame import PROSODY_COLUMNS

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Message: TypeAlias = public.Result | public.Utterance

PAGE = 5000
"""Rows of a history that one query takes."""
SQLITE = b"SQLite format 3\0"


@dataclasses.dataclass(frozen=True)
class Track:
    """One recording, or one run of a live stream.

    Attributes:
        name: the file, the folder of the recording, or the stream.
        labels: labels of its bundle.
        bundle: id of its bundle; of several the first.
        messages: results and utterances in order; can be read once.
        about: row `file` of a table, with length, quality and error; empty for others.
        prosody: the utterances may have it.
        dimensions: those that its messages may have.
    """

    name: str
    labels: tuple[str, ...]
    bundle: str
    messages: Iterable[Message]
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    prosody: bool = False
    dimensions: tuple[str, ...] = ()


def tracks(source: str) -> Iterator[Track]:
    """The tracks of a source, in its order. Read the messages of one before the next.

    Raises:
        UserError: the source is missing, damaged, or none of these.
    """
    path = Path(source)
    if path.is_dir():
        if (path / INDEX).exists():
            return _of_parts(path)
        folders = [path] if (path / TIMELINE).exists() else _recordings(path)
        if folders:
            return map(_of_recording, folders)
        raise UserError(f"{path}: is neither an output of infer --out nor a recording")
    try:
        with path.open("rb") as file:
            head = file.read(len(SQLITE))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or folder") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason})") from None
    if head == SQLITE:
        return _of_history(path)
    if head[:4] == b"PAR1":
        return _of_table(path)
    raise UserError(f"{path}: is no Parquet table, no history and no recording")


def _of_parts(folder: Path) -> Iterator[Track]:
    names = [(name, part) for part in folder.glob("??/*.parquet") for name in _names(part)]
    if not names:
        raise UserError(f"{folder}: holds no results")
    for _, part in sorted(names):
        yield from _of_table(part)


def _names(part: Path) -> Iterator[str]:
    with _opened(part) as file:
        for batch in file.iter_batches(1, columns=["file"]):
            yield batch.to_pylist()[0]["file"]
            return


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(f"Parquet {needs_extra('archive')}") from None
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"{path}: is damaged ({error})") from None


def _of_table(path: Path) -> Iterator[Track]:
    with _opened(path) as file:
        bundle, labels = about(file.schema_arrow)
        prosody = set(PROSODY_COLUMNS).issubset(file.schema_arrow.names)
        dimensions = tuple(name for name in file.schema_arrow.names if name in DIMENSIONS)
        rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
        for name, group in itertools.groupby(rows, key=lambda row: row["file"]):
            # The row `file` is the last one: its content is known after the others.
            held = list(group)
            last = held.pop() if held[-1]["kind"] == FILE else {}
            messages = (message_of(row, labels) for row in held)
            shown = last.get("bundle") or bundle
            yield Track(name, labels, shown, messages, last, prosody, dimensions)


def _recordings(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{TIMELINE}"))


def _of_recording(folder: Path) -> Track:
    path = folder / MESSAGES
    try:
        # After the last line end is nothing, or what a killed recorder has left.
        *lines, _ = path.read_text().split("\n")
        rows = [json.loads(line) for line in lines]
        found = [_message(row) for row in rows if row["topic"] in ("result", "utterance")]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the recording has no messages") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is damaged") from None
    labels = next((tuple(m.probabilities) for m in found if m.probabilities), ())
    prosody = any(getattr(message, "prosody", None) for message in found)
    dimensions = next((tuple(m.dimensions) for m in found if m.dimensions), ())
    bundle = found[0].bundle if found else ""
    return Track(str(folder), labels, bundle, found, prosody=prosody, dimensions=dimensions)


def _message(row: dict[str, Any]) -> Message:
    message = public.from_json_map(row["topic"], row)
    assert isinstance(message, public.Result | public.Utterance)
    return message


def _of_history(path: Path) -> Iterator[Track]:
    with HistoryReader(path) as reader:
        sources = reader.rows("SELECT * FROM source ORDER BY stream, id", ())
        if not sources:
            raise UserError(f"{path}: holds no results")
        streams = [source["stream"] for source in sources]
        prosody = "prosody" in reader.columns("utterance") and bool(
            reader.rows("SELECT 1 FROM utterance WHERE prosody IS NOT NULL LIMIT 1", ())
        )
        for source in sources:
            name = source["stream"]
            if streams.count(name) > 1:
                name = f"{name}-{source['run']}-{source['bundle']}"
            labels = tuple(json.loads(source["labels"] or "[]"))
            dimensions = _dimensions_of(reader, source["id"])
            results = _pages(reader, "result", "seq", source["id"])
            utterances = _pages(reader, "utterance", "first", source["id"])
            messages = heapq.merge(
                (_result(row, source, labels) for row in results),
                (_utterance(row, source, labels) for row in utterances),
                key=lambda message: (message.end, message.topic),
            )
            yield Track(
                *(name, labels, source["bundle"], messages), prosody=prosody, dimensions=dimensions
            )


def _dimensions_of(reader: HistoryReader, source: int) -> tuple[str, ...]:
    if "dimensions" not in reader.columns("utterance"):
        return ()  # a file of an earlier version
    for table in ("utterance", "result"):
        query = (
            f"SELECT dimensions FROM {table} WHERE source = ? AND dimensions IS NOT NULL LIMIT 1"
        )
        if found := reader.rows(query, (source,)):
            return tuple(json.loads(found[0]["dimensions"]))
    return ()


def _pages(reader: HistoryReader, table: str, key: str, source: int) -> Iterator[dict[str, Any]]:
    """All rows of a source, page by page: a long read would keep the file from being cleaned."""
    last = -1
    query = f"SELECT * FROM {table} WHERE source = ? AND {key} > ? ORDER BY {key} LIMIT {PAGE}"
    while rows := reader.rows(query, (source, last)):
        last = rows[-1][key]
        yield from rows


def _result(row: dict[str, Any], source: dict[str, Any], labels: tuple[str, ...]) -> Message:
    smoothed = None if row["smoothed"] is None else json.loads(row["smoothed"])
    return public.Result(
        **{name: source[name] for name in ("stream", "run", "rate", "bundle")},
        **{name: row[name] for name in ("seq", "state", "emotion", "confidence", "reason")},
        **{name: row[name] for name in ("rms_db", "lost", "skipped")},
        start=row["first"],
        end=row["last"],
        time=row["at"],
        probabilities=None,
        smoothed=None if smoothed is None else dict(zip(labels, smoothed, strict=False)),
        timing_ms=None,
        dimensions=json.loads(row.get("dimensions") or "null"),
    )


def _utterance(row: dict[str, Any], source: dict[str, Any], labels: tuple[str, ...]) -> Message:
    table = json.loads(row["probabilities"])
    measured = row.get("prosody")  # files of earlier versions have no such column
    return public.Utterance(
        **{name: source[name] for name in ("stream", "run", "rate", "bundle")},
        **{name: row[name] for name in ("seq", "emotion", "confidence", "reason", "windows")},
        start=row["first"],
        end=row["last"],
        time=row["at"],
        probabilities=table if isinstance(table, dict) else dict(zip(labels, table, strict=False)),
        prosody=public.Prosody(**json.loads(measured)) if measured else None,
        dimensions=json.loads(row.get("dimensions") or "null"),
    )

"""Messages as rows of the tables (docs/FLEET.md): columns, types, and what is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from typing import Any

import pyarrow as pa

from speech_emotion.common.config.checks import STREAM_NAME
from speech_emotion.common.wire import public
from speech_emotion.common.wire.codec import ProtocolError
from speech_emotion.fleet.messages import (
    BOX,
    EVENT,
    HEALTH,
    KINDS,
    RESULT,
    ROLLOUT,
    ROOT,
    UTTERANCE,
)

SUBJECT = re.compile(
    rf"{ROOT}\.({STREAM_NAME})\.({STREAM_NAME})\.({STREAM_NAME}|{BOX}|{ROLLOUT})\.({'|'.join(KINDS)})"
)
TEXT, INTEGER, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
TIME = pa.timestamp("us", tz="UTC")
BY_NAME = pa.map_(TEXT, REAL)

COMMON = {"time": TIME, "box": TEXT, "id": TEXT, "run": TEXT, "bundle": TEXT}
WINDOWS = {
    "seq": INTEGER,
    "start": INTEGER,
    "end": INTEGER,
    "rate": INTEGER,
    "emotion": TEXT,
    "confidence": REAL,
    "reason": TEXT,
    "probabilities": BY_NAME,
    "dimensions": BY_NAME,
}
SCHEMAS = {
    RESULT: pa.schema(
        {
            **COMMON,
            **WINDOWS,
            "smoothed": BY_NAME,
            "state": TEXT,
            "rms_db": REAL,
            "lost": INTEGER,
            "skipped": INTEGER,
            "total_ms": REAL,
            "baseline": REAL,
        }
    ),
    UTTERANCE: pa.schema({**COMMON, **WINDOWS, "windows": INTEGER, "prosody": BY_NAME}),
    EVENT: pa.schema({**COMMON, "event": TEXT, "state": TEXT, "reason": TEXT, "message": TEXT}),
    HEALTH: pa.schema({**COMMON, "state": TEXT, "muted": FLAG, "message": TEXT}),
}
"""Kind → columns; `day`, `site` and `stream` are in the path of a file."""


class RefusedError(Exception):
    """A message that is none of docs/FLEET.md."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row and its place.

    Attributes:
        partition: `KIND/day=…/site=…/stream=…`, a folder.
        kind: its table.
        values: by column.
    """

    partition: str
    kind: str
    values: dict[str, Any]


def row_of(subject: str, id: str, body: bytes, arrived: dt.datetime) -> Row:
    """A message as a row.

    Args:
        id: its `Nats-Msg-Id`.
        arrived: when the server received it, for a message that has no time itself.

    Raises:
        RefusedError: it is no message of a box.
    """
    found = SUBJECT.fullmatch(subject)
    if found is None:
        raise RefusedError(f"subject {subject[:100]!r}")
    site, box, stream, kind = found.groups()
    try:
        table = json.loads(body)
        if not isinstance(table, dict):
            raise ValueError("no object")
        values = _event(table) if kind == EVENT else _public(kind, table)
        unix = table.get("time")
        time = arrived if unix is None else dt.datetime.fromtimestamp(unix, dt.UTC)
    except (ValueError, TypeError, KeyError, OverflowError, OSError, ProtocolError) as error:
        raise RefusedError(f"{subject}: {error}") from None
    values |= {"time": time, "box": box, "id": id}
    partition = f"{kind}/day={time.date().isoformat()}/site={site}/stream={stream}"
    return Row(partition, kind, values)


def table_of(kind: str, rows: list[dict[str, Any]]) -> tuple[pa.Table, int]:
    """Rows as a table, and the number of rows that no column can hold."""
    try:
        return pa.Table.from_pylist(rows, SCHEMAS[kind]), 0
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        good = [row for row in rows if _fits(kind, row)]
        return pa.Table.from_pylist(good, SCHEMAS[kind]), len(rows) - len(good)


def _fits(kind: str, row: dict[str, Any]) -> bool:
    try:
        pa.Table.from_pylist([row], SCHEMAS[kind])
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return False
    return True


def _public(kind: str, table: dict[str, Any]) -> dict[str, Any]:
    public.from_json_map(kind, table)  # raises where it is none
    values = dict(table)
    if kind == HEALTH:
        values |= {"muted": table.get("mute") is not None, "message": json.dumps(table)}
    else:
        values["probabilities"] = _pairs(table["probabilities"])
        values["dimensions"] = _pairs(table.get("dimensions"))
        values["smoothed"] = _pairs(table.get("smoothed"))
        values["prosody"] = _pairs(table.get("prosody"))
        values["total_ms"] = (table.get("timing_ms") or {}).get("total")
    return values


def _event(table: dict[str, Any]) -> dict[str, Any]:
    values = {name: table.get(name) for name in ("event", "run", "bundle", "state", "reason")}
    if not isinstance(values["event"], str):
        raise ValueError("no event")
    if any(value is not None and not isinstance(value, str) for value in values.values()):
        raise ValueError("a text is none")
    return {**values, "message": json.dumps(table)}


def _pairs(table: dict[str, float] | None) -> list[tuple[str, float]] | None:
    return None if table is None else list(table.items())

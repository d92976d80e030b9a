"""The history as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from speech_emotion.dashboard.history.rows import PAGE, HistoryRows


def csv_text(rows: HistoryRows) -> Iterator[str]:
    """The file in parts of many lines; closes the history at its end."""
    with rows:
        yield _line(rows.columns)
        lines: list[str] = []
        for _, row in rows:
            lines.append(_line(row.values()))
            if len(lines) == PAGE:
                yield "".join(lines)
                lines.clear()
        yield "".join(lines)


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(_cell, values))
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value)
    # A spreadsheet interprets a text with such a first character as a formula.
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" and value else value

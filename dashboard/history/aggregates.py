"""What the bins of the history say: charts of long times, shares by hour, counts.

The work of each function is bounded by the number of bins, not by the number of windows.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from typing import Any

from speech_emotion.dashboard.history.bins import LEVELS, UTTERANCE
from speech_emotion.dashboard.history.schema import DIGITS

Bin = tuple[int, str, str, int, float, float, float]
"""Step, state, label, count, and sums of confidence, level and lost samples."""


def complete_after(db: sqlite3.Connection) -> float:
    """Unix time after which every row of the file is in a bin; infinite without bins."""
    table = db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'binned'").fetchone()
    row = db.execute("SELECT after FROM binned").fetchone() if table else None
    return math.inf if row is None else float(row[0])


def level_of(step: float) -> int:
    """The longest bins that are not longer than a step; 0: there are none."""
    return max((seconds for seconds in LEVELS if seconds <= step), default=0)


def chart_rows(
    db: sqlite3.Connection, stream: str, start: int, end: float, step: int, labels: list[str]
) -> list[list[Any]]:
    """Rows of a chart, one per step with windows; their columns are those of the reader.

    Args:
        start: unix time; a multiple of `step`.
        step: length in seconds; a multiple of a bin's.
        labels: order of the shares.
    """
    steps: dict[int, list[Bin]] = {}
    for one in _bins(db, stream, start, end, step, spoken=False):
        steps.setdefault(one[0], []).append(one)
    means = _means(db, stream, start, end, step)
    return [
        _chart_row(start + (number + 1) * step, step, found, labels, means.get(number))
        for number, found in steps.items()
    ]


def _chart_row(
    at: float, step: float, found: list[Bin], labels: list[str], means: dict[str, float] | None
) -> list[Any]:
    states = {state for _, state, *_ in found}
    state = next((one for one in ("speech", "gap") if one in states), "silence")
    given = {label: count for _, _, label, count, *_ in found if label}
    emotion = max(given, key=lambda label: given[label]) if given else None
    windows = sum(one[3] for one in found)
    confidence = sum(one[4] for one in found) / sum(given.values()) if given else None
    shares = None
    if speech := sum(one[3] for one in found if one[1] == "speech"):
        shares = [round(given.get(label, 0) / speech, DIGITS) for label in labels]
    level = round(sum(one[5] for one in found) / windows, 1)
    lost = int(sum(one[6] for one in found))
    return [None, at, step, state, emotion, confidence, None, level, lost, shares, means]


def utterance_counts(
    db: sqlite3.Connection, stream: str, start: int, end: float, step: int
) -> dict[int, dict[str, int]]:
    """How many utterances have each label in each step."""
    counts: dict[int, dict[str, int]] = {}
    for number, _, label, count, *_ in _bins(db, stream, start, end, step, spoken=True):
        counts.setdefault(number, {})[label] = count
    return counts


def share_rows(
    db: sqlite3.Connection,
    stream: str,
    span: tuple[int, float],
    step: int,
    seconds: int,
    labels: list[str],
) -> Iterator[list[Any]]:
    """Rows of `messages.Shares`, one per step with windows or utterances.

    Args:
        span: unix times; the first is a multiple of `seconds`.
        step: length of a step in seconds, a multiple of `seconds`.
        seconds: length of the bins that are read.
        labels: order of the shares and counts.
    """
    start, end = span
    steps: dict[int, list[Bin]] = {}
    for one in _bins(db, stream, start, end, step, seconds=seconds):
        steps.setdefault(one[0], []).append(one)
    for number, found in steps.items():
        windows = sum(one[3] for one in found if one[1] != UTTERANCE)
        by_state = {
            state: sum(one[3] for one in found if one[1] == state) for state in ("speech", "gap")
        }
        given = {label: count for _, state, label, count, *_ in found if state == "speech"}
        spoken = {label: count for _, state, label, count, *_ in found if state == UTTERANCE}
        yield [
            *(stream, start + number * step, windows),
            *(round(count / max(1, windows), DIGITS) for count in by_state.values()),
            [round(given.get(label, 0) / max(1, by_state["speech"]), DIGITS) for label in labels],
            [spoken.get(label, 0) for label in labels],
            sum(spoken.values()),
        ]


def bounds(db: sqlite3.Connection, stream: str) -> tuple[int, int] | None:
    """Start of the first and end of the last of the longest bins of a stream."""
    query = "SELECT {} FROM bin WHERE stream = ? AND seconds = ?"
    first, last = (
        db.execute(query.format(what), (stream, LEVELS[-1])).fetchone()[0]
        for what in ("min(start)", "max(start)")
    )
    return None if first is None else (first, last + LEVELS[-1])


def _bins(
    db: sqlite3.Connection,
    stream: str,
    start: int,
    end: float,
    step: int,
    *,
    spoken: bool | None = None,
    seconds: int = 0,
) -> Iterator[Bin]:
    """Bins of each step.

    Args:
        spoken: those of utterances, or those of windows; None: both.
        seconds: length of the bins; 0: the longest that fit.
    """
    yield from db.execute(
        "SELECT (start - ?1) / ?2 AS step, state, emotion, sum(count), sum(confidence), "
        "sum(rms_db), sum(lost) FROM bin WHERE stream = ?3 AND seconds = ?4 "
        "AND start >= ?1 AND start < ?5 AND ifnull((state = ?6) = ?7, 1) "
        "GROUP BY step, state, emotion ORDER BY step",
        (start, step, stream, seconds or level_of(step), end, UTTERANCE, spoken),
    ).fetchall()


def _means(
    db: sqlite3.Connection, stream: str, start: int, end: float, step: int
) -> dict[int, dict[str, float]]:
    """The mean of each dimension in each step; empty in a file of an earlier version."""
    means: dict[int, dict[str, float]] = {}
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'dimension_bin'").fetchone():
        return means
    for number, name, mean in db.execute(
        "SELECT (start - ?1) / ?2 AS step, dimension, sum(total) / sum(count) FROM dimension_bin "
        "WHERE stream = ?3 AND seconds = ?4 AND start >= ?1 AND start < ?5 "
        "GROUP BY step, dimension",
        (start, step, stream, level_of(step), end),
    ):
        means.setdefault(number, {})[name] = round(mean, DIGITS)
    return means

"""Which messages of each outbox are stored. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Any, TypeAlias

Spans: TypeAlias = list[list[int]]
"""Numbers as ordered `[first, last]`, no two of them adjacent."""


class Numbers:
    """The numbers of every outbox. Messages of an outbox are numbered from 1 without a hole.

    Args:
        table: of `to_json`; box → outbox → spans.
    """

    def __init__(self, table: dict[str, dict[str, Spans]] | None = None) -> None:
        self._table = table or {}

    def add(self, box: str, outbox: str, number: int) -> bool:
        """Add a number; False where it is there already."""
        spans = self._table.setdefault(box, {}).setdefault(outbox, [])
        if spans and number == spans[-1][1] + 1:  # nearly always
            spans[-1][1] = number
            return True
        place = bisect.bisect_right(spans, number, key=lambda span: span[0])
        if place and number <= spans[place - 1][1]:
            return False
        spans.insert(place, [number, number])
        for left in (place, place - 1):
            if 0 <= left < len(spans) - 1 and spans[left][1] + 1 == spans[left + 1][0]:
                spans[left][1] = spans.pop(left + 1)[1]
        return True

    def missing(self) -> dict[str, int]:
        """Box → messages that were numbered and are not stored, where there are any."""
        counts = {box: sum(map(holes, outboxes.values())) for box, outboxes in self._table.items()}
        return {box: count for box, count in counts.items() if count}

    def to_json(self) -> dict[str, Any]:
        """The table."""
        return self._table


def holes(spans: Iterable[list[int]]) -> int:
    """Numbers that are missing between 1 and the last one."""
    missing, following = 0, 1
    for first, last in spans:
        missing += first - following
        following = last + 1
    return missing

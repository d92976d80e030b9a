"""The window grid of a stream: which samples window k covers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

MAX_MISSING = 0.10
"""A window missing more than this share of its samples is a gap."""


@dataclasses.dataclass(frozen=True)
class WindowGrid:
    """Windows `[k*hop, k*hop + window)` over the absolute sample index of a stream."""

    window: int
    hop: int

    def start(self, k: int) -> int:
        return k * self.hop

    def end(self, k: int) -> int:
        return k * self.hop + self.window

    def complete(self, position: int) -> int:
        """How many windows have all their samples once `position` samples are there."""
        return 0 if position < self.window else 1 + (position - self.window) // self.hop

    def total(self, length: int) -> int:
        """Windows of a stream that ended after `length` samples.

        The end that fills no window gives none; only a source shorter than one window is
        one window, filled with digital silence.
        """
        return max(1, self.complete(length)) if length > 0 else 0

    def is_gap(self, missing: int) -> bool:
        return missing > MAX_MISSING * self.window


def missing_samples(gaps: list[list[int]], start: int, end: int) -> int:
    """Samples of `[start, end)` that lie in any of the disjoint `gaps` spans."""
    return sum(max(0, min(end, b) - max(start, a)) for a, b in gaps)

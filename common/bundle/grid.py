"""The window grid of a stream: which samples window k covers."""

from __future__ import annotations

import dataclasses

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
        """Number of windows that are complete after `position` samples."""
        return 0 if position < self.window else 1 + (position - self.window) // self.hop

    def total(self, length: int) -> int:
        """Number of windows of a stream that ended after `length` samples.

        Samples at the end that do not fill a window give none. A source shorter than one
        window gives one, filled up with digital silence.
        """
        return max(1, self.complete(length)) if length > 0 else 0

    def is_gap(self, missing: int) -> bool:
        """Whether a window with `missing` missing samples is a gap."""
        return missing > MAX_MISSING * self.window


def missing_samples(gaps: list[list[int]], start: int, end: int) -> int:
    """Samples of `[start, end)` that lie in any of the disjoint `gaps` spans."""
    return sum(max(0, min(end, b) - max(start, a)) for a, b in gaps)

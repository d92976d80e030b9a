"""Drift of a source's clock: how much faster it counts samples than the clock of this machine.

A block arrives late, never early, by the delays of driver, network and scheduler. So the least
delayed block of some seconds is compared with that of others, and the median of all slopes between
two of them (Theil-Sen) is the drift: a burst of delays changes few of them.
"""

from __future__ import annotations

from collections import deque

import numpy as np

BIN_S = 5.0
"""Seconds of which the least delayed block counts."""
SPAN_S = 600.0
"""Longest time over which the drift is measured."""
LEAST_S = 60.0
"""Shortest one: a delay that varies by 1 ms gives a drift of 20 ppm within it."""


class Drift:
    """Measures the drift of one source from the arrival of its blocks.

    Attributes:
        figures: `drift_ppm`, positive where the source is fast, and `drift_s`, the seconds over
            which it was measured; empty before there is enough sound.
    """

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}
        self._bins: deque[tuple[float, float]] = deque(maxlen=round(SPAN_S / BIN_S) + 1)
        self._least: tuple[float, float] | None = None
        self._due = 0.0

    def add(self, start: float, arrived: float) -> bool:
        """Count a block; whether `figures` has changed.

        Args:
            start: when the source began, by this block: its arrival less the seconds of sound up
                to its end. It decreases where the source is fast.
            arrived: CLOCK_MONOTONIC, in seconds.
        """
        if self._least is None:
            self._due = arrived + BIN_S
        if self._least is None or start < self._least[0]:
            self._least = start, arrived
        if arrived < self._due:
            return False
        self._bins.append(self._least)
        self._least = None
        span = self._bins[-1][1] - self._bins[0][1]
        if span < LEAST_S:
            return False
        self.figures = {"drift_ppm": round(self._slope(), 1), "drift_s": float(round(span))}
        return True

    def _slope(self) -> float:
        starts, times = np.array(self._bins).T
        first, second = np.triu_indices(len(times), k=1)
        slopes = (starts[second] - starts[first]) / (times[second] - times[first])
        return float(-1e6 * np.median(slopes))

"""Limits of CPU, memory, start time and rate: one row for every process that can run.

They hold for one live stream of speech with the shipped bundle on the machines of
docs/PERFORMANCE.md. `make bench` measures them; `tests/system/test_budgets.py` fails where a
process has no row or exceeds it by far.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits of one process.

    Attributes:
        cpu_percent: greatest CPU load, of one core.
        pss_mb: greatest proportional set size in MiB; each further stream maps its ring as well.
        start_s: longest time from the start of the supervisor until it is ready, with warm caches.
        rate_hz: least and greatest count per second: ticks of capture, windows of features and
            infer, messages of record, history, alerts, fleet and dashboard, utterances of review,
            `health` of the supervisor.
    """

    cpu_percent: float
    pss_mb: float
    start_s: float
    rate_hz: tuple[float, float]


BUDGETS = {
    "supervisor": Budget(1.5, 60.0, 1.0, (0.8, 3.0)),
    "capture": Budget(2.5, 60.0, 2.5, (1.8, 15.0)),
    "features": Budget(1.5, 60.0, 2.5, (1.2, 2.8)),
    "infer": Budget(4.0, 70.0, 2.5, (1.2, 2.8)),
    "record": Budget(2.5, 60.0, 2.5, (1.2, 4.0)),
    "history": Budget(1.5, 60.0, 3.0, (2.0, 6.0)),
    "alerts": Budget(1.5, 60.0, 3.0, (2.0, 6.0)),
    "fleet": Budget(1.5, 60.0, 3.0, (2.0, 6.0)),
    "review": Budget(1.5, 80.0, 3.0, (0.0, 2.0)),
    "dashboard": Budget(3.0, 70.0, 3.0, (2.0, 6.0)),
}
"""Name of the process without its number → its limits."""


def budget_of(process: str) -> Budget:
    """The row of a process by its name in `health`, such as `features/1`; raises KeyError."""
    return BUDGETS[process.partition("/")[0]]

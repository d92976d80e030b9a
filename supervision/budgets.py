"""What each process may cost and must do: one row for every process that can run.

For one live stream of speech with the shipped bundle, on a machine like those that
docs/PERFORMANCE.md names; `make bench` measures it, and `tests/system/test_budgets.py` fails
where a process has no row or is far beyond it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Budget:
    """One process.

    Attributes:
        cpu_percent: of one core, at most.
        pss_mb: proportional set size in MiB, at most; each further stream maps its ring as well.
        start_s: from the supervisor's start to its own readiness, warm, at most.
        rate_hz: what it counts each second, from, to: announcements of capture, windows of
            features and infer, messages of record, history and dashboard, health of the supervisor.
    """

    cpu_percent: float
    pss_mb: float
    start_s: float
    rate_hz: tuple[float, float]


BUDGETS = {
    "supervisor": Budget(1.5, 60.0, 1.0, (0.8, 3.0)),
    "capture": Budget(2.5, 60.0, 2.5, (2.0, 15.0)),
    "features": Budget(1.5, 60.0, 2.5, (1.2, 2.8)),
    "infer": Budget(1.5, 60.0, 2.5, (1.2, 2.8)),
    "record": Budget(2.5, 60.0, 2.5, (1.2, 4.0)),
    "history": Budget(1.5, 60.0, 3.0, (2.0, 6.0)),
    "dashboard": Budget(3.0, 70.0, 3.0, (2.0, 6.0)),
}
"""By the name of the stage; `features/1` is a `features`."""


def budget_of(process: str) -> Budget:
    """The row of a process by its name in `health`; raises KeyError."""
    return BUDGETS[process.partition("/")[0]]

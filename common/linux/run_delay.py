"""Time that a process was ready to run but did not get a processor.

A process on a busy machine is late without being stuck. See `run_delay` in the kernel's
Documentation/scheduler/sched-stats.rst.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class _Thread:
    """One look at a thread: CPU time and waiting time in ns, and whether it is ready to run."""

    ran: int
    waited: int
    ready: bool


class RunDelay:
    """The longest wait of any thread of a process since the first look.

    Args:
        pid: process id.
        now: CLOCK_MONOTONIC.
        from_start: count from the start of the process instead.
    """

    def __init__(self, pid: int, now: float, *, from_start: bool = False) -> None:
        self._pid = pid
        self._last = now
        self._threads = _threads(pid)
        self._base = {} if from_start else {t: one.waited for t, one in self._threads.items()}
        self._pending: dict[str, float] = {}

    def seconds(self, now: float) -> float:
        """The wait in seconds. 0.0 where the kernel does not measure it."""
        threads, elapsed = _threads(self._pid), now - self._last
        longest = 0.0
        for thread, one in threads.items():
            # The kernel adds a wait when it ends. A thread that was ready at both looks and did
            # not run between them waited the whole time.
            same = one.ready and one == self._threads.get(thread)
            self._pending[thread] = self._pending.get(thread, 0.0) + elapsed if same else 0.0
            waited = (one.waited - self._base.get(thread, 0)) / 1e9 + self._pending[thread]
            longest = max(longest, waited)
        self._threads, self._last = threads, now
        return longest


def _threads(pid: int) -> dict[str, _Thread]:
    threads = {}
    with contextlib.suppress(OSError):
        for folder in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                ran, waited, _ = map(int, (folder / "schedstat").read_text().split())
                stat = (folder / "stat").read_bytes()
                state = stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3]
                threads[folder.name] = _Thread(ran, waited, state == b"R")
    return threads

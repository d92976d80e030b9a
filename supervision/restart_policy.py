"""When a stage is started, found hung, restarted or given up: a state machine without a clock.

    WAITING -> STARTING -> READY -> WAITING ...     a stage that died, after its delay
                   \\          \\-> STOPPING -> DONE   told to stop, or its work is over
                    \\-> FAILED                      the user's mistake, or never ready

The supervisor feeds it what happened and asks `act(now)` what to do.
"""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Callable

from speech_emotion.common.errors import EXIT_DEVICE, EXIT_OK, EXIT_USER


class ProcessState(enum.Enum):
    """Where a stage stands; the value is its `state` in `health`."""

    WAITING = "restarting"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"


class Action(enum.Enum):
    """What the supervisor has to do now."""

    START = "start"
    KILL = "kill"


@dataclasses.dataclass(frozen=True)
class RestartPolicy:
    """Bounds and delays, in seconds.

    Attributes:
        ready_within: a start that takes longer has hung.
        beat_within: a ready stage whose heartbeat is older has hung.
        quick: a stage that dies sooner after it was ready is not kept by a restart.
        delay, delay_limit: the first delay behind an immediate restart, and the longest.
        never_ready_limit: starts without ever having been ready before it is given up.
        quick_limit: quick deaths in a row before it is given up; None: never.
        ends: exit 0 means that its work is over; else somebody else told it to end (a SIGTERM
            of an out-of-memory daemon), and it is restarted.
        vital: the pipeline is nothing without it. Another stage is never given up, and so
            never ends the pipeline.
    """

    ready_within: float = 30.0
    beat_within: float = 2.5
    quick: float = 5.0
    delay: float = 0.5
    delay_limit: float = 30.0
    never_ready_limit: int = 3
    quick_limit: int | None = None
    ends: bool = True
    vital: bool = True


class ProcessLifecycle:
    """One stage. Times are CLOCK_MONOTONIC, handed in.

    Args:
        jitter: gives a factor around 1 for each delay, so that stages do not die in step.
    """

    def __init__(
        self,
        policy: RestartPolicy,
        now: float,
        jitter: Callable[[], float] = lambda: random.uniform(0.75, 1.25),
    ) -> None:
        self.state = ProcessState.WAITING
        self.restarts = 0
        self.reason: str | None = None
        self.exit_code: int | None = None
        self._policy = policy
        self._jitter = jitter
        self._due = now
        self._since = now
        self._beat = now
        self._ever_ready = False
        self._starts = 0
        self._quick_deaths = 0
        self._absences = 0
        self._killing = False

    @property
    def over(self) -> bool:
        return self.state in (ProcessState.DONE, ProcessState.FAILED)

    def act(self, now: float) -> Action | None:
        """What is to be done now."""
        if self.state is ProcessState.WAITING and now >= self._due:
            return Action.START
        if self._killing:
            return None
        if self.state is ProcessState.STARTING and now - self._since > self._policy.ready_within:
            return self._hung(f"not ready within {self._policy.ready_within:g} s")
        if self.state is ProcessState.READY and now - self._beat > self._policy.beat_within:
            return self._hung(f"no heartbeat for {now - self._beat:.1f} s")
        return None

    def started(self, now: float) -> None:
        """The process was spawned."""
        self.state = ProcessState.STARTING
        self._since = now
        self._killing = False
        self._starts += 1
        if self._starts > 1:
            self.restarts += 1

    def beat(self, now: float, *, ready: bool) -> None:
        """A heartbeat of the present process came at `now`."""
        self._beat = now
        if self.state is ProcessState.STARTING and ready:
            self.state = ProcessState.READY
            self._since = now
            self._ever_ready = True

    def replaced(self, now: float) -> None:
        """Another process, ready, has taken over in good order."""
        if not self.over:
            self.state = ProcessState.READY
            self._since = self._beat = now
            self._ever_ready = True
            self._killing = False

    def start_again(self, now: float) -> None:
        """The process was taken away; another one is to be started at once."""
        if not self.over:
            self.state = ProcessState.WAITING
            self._due = now
            self._killing = False

    def stop(self) -> None:
        """The process was told to end; its death is now wanted."""
        if not self.over:
            self.state = (
                ProcessState.DONE if self.state is ProcessState.WAITING else ProcessState.STOPPING
            )

    def exited(self, now: float, code: int, last_words: str | None) -> None:
        """The process is gone.

        Args:
            code: exit code, negative for a signal.
            last_words: the last line it wrote to stderr.
        """
        self.exit_code = code
        if self.state is ProcessState.STOPPING or (code == EXIT_OK and self._policy.ends):
            self.state = ProcessState.DONE
            return
        if not self._killing:
            died = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self.reason = f"{died}: {last_words}" if last_words else died
        if code in (EXIT_USER, EXIT_DEVICE):
            self.reason = last_words or self.reason
        if code == EXIT_USER and self._policy.vital:
            self.state = ProcessState.FAILED
            return
        lived = self.state is ProcessState.READY and now - self._since >= self._policy.quick
        self._quick_deaths = 0 if lived else self._quick_deaths + 1
        self._absences += code == EXIT_DEVICE
        # A device may come back after days; nothing else is waited for without end.
        if code != EXIT_DEVICE and self._hopeless():
            self.state = ProcessState.FAILED
            return
        self.state = ProcessState.WAITING
        self._due = now + self._delay()

    def _hopeless(self) -> bool:
        if not self._policy.vital:
            return False
        if not self._ever_ready:
            return self._starts - self._absences >= self._policy.never_ready_limit
        limit = self._policy.quick_limit
        return limit is not None and self._quick_deaths >= limit

    def _delay(self) -> float:
        # The first restart is immediate; only dying again and again makes it wait.
        if self._quick_deaths <= 1:
            return 0.0
        # 2 ** 10 is beyond every limit; months of deaths must not overflow a float.
        grown = self._policy.delay * 2.0 ** min(self._quick_deaths - 2, 10)
        return min(grown, self._policy.delay_limit) * self._jitter()

    def _hung(self, reason: str) -> Action:
        self.reason = reason
        self._killing = True
        return Action.KILL

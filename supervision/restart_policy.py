"""When a process is started, killed, restarted or given up: a state machine without a clock.

    WAITING -> STARTING -> READY -> WAITING ...    a process that ended, after its delay
                   \\         \\-> STOPPING -> DONE  stopped by the supervisor, or work done
                    \\-> FAILED                    a mistake of the user, or never ready

The supervisor reports events to it and asks `act(now)` for the next action.
"""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Callable

from speech_emotion.common.errors import EXIT_DEVICE, EXIT_FAULT, EXIT_OK, EXIT_USER


class ProcessState(enum.Enum):
    """State of a process; the value is its `state` in `health`."""

    WAITING = "restarting"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"


class Action(enum.Enum):
    """What the supervisor has to do."""

    START = "start"
    KILL = "kill"


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Delays before restarts of a process that ends again and again.

    Attributes:
        first_s: delay before the second restart in a row; the first restart is immediate.
        factor: growth of the delay with every further restart.
        limit_s: longest delay.
        jitter: each delay is multiplied by a random factor of 1 ± `jitter`, so that processes do
            not restart in step.
    """

    first_s: float = 0.5
    factor: float = 2.0
    limit_s: float = 30.0
    jitter: float = 0.25

    def delay_s(self, quick_ends: int) -> float:
        """Delay before the restart that follows so many quick ends in a row, without jitter."""
        if quick_ends <= 1:
            return 0.0
        # The exponent is bounded: the delay reaches its limit long before, and months of
        # restarts must not overflow a float.
        return min(self.first_s * self.factor ** min(quick_ends - 2, 10), self.limit_s)


BACKOFF = Backoff()


@dataclasses.dataclass(frozen=True)
class RestartPolicy:
    """Limits of one process, in seconds.

    Attributes:
        ready_within: longest start.
        beat_within: greatest age of the newest heartbeat of a ready process. Of this time and of
            `ready_within`, the time in which a busy machine did not run the process is deducted.
        patience: factor on `ready_within` and `beat_within` beyond which nothing is deducted.
        quick: a process that ends sooner than this after it became ready has ended quickly.
        backoff: delays before restarts.
        never_ready_limit: starts without ever being ready after which it is given up.
        quick_limit: quick ends in a row after which it is given up; None: never.
        ends: whether exit code 0 means that its work is done. Else something outside stopped it,
            such as the SIGTERM of an out-of-memory daemon, and it is restarted.
        vital: whether the pipeline needs it. A process that is not vital is never given up, and
            so never ends the pipeline, unless its first start fails by a mistake of the user.
    """

    ready_within: float = 30.0
    beat_within: float = 2.5
    patience: float = 12.0
    quick: float = 5.0
    backoff: Backoff = BACKOFF
    never_ready_limit: int = 3
    quick_limit: int | None = None
    ends: bool = True
    vital: bool = True


class ProcessLifecycle:
    """State of one process. Every `now` is CLOCK_MONOTONIC.

    Args:
        random_factor: returns the jitter of a delay, a factor around 1; default: uniform in
            1 ± `policy.backoff.jitter`.
    """

    def __init__(
        self,
        policy: RestartPolicy,
        now: float,
        random_factor: Callable[[], float] | None = None,
    ) -> None:
        self.state = ProcessState.WAITING
        self.restarts = 0
        self.reason: str | None = None
        self.exit_code: int | None = None
        self._policy = policy
        jitter = policy.backoff.jitter
        self._random_factor = random_factor or (lambda: random.uniform(1.0 - jitter, 1.0 + jitter))
        self._due = now
        self._since = now
        self._beat = now
        self._ever_ready = False
        self._starts = 0
        self._quick_ends = 0
        self._absences = 0
        self._killing = False
        self._renewing = False

    @property
    def over(self) -> bool:
        """Whether it is never started again."""
        return self.state in (ProcessState.DONE, ProcessState.FAILED)

    @property
    def restarting(self) -> bool:
        """Whether it was ready, has ended, and is not ready again."""
        return self._ever_ready and self.awaited

    @property
    def awaited(self) -> bool:
        """Whether it is to start or to become ready."""
        return self.state in (ProcessState.WAITING, ProcessState.STARTING)

    def restart_in(self, now: float) -> float:
        """Seconds until the next start of a process that waits for one."""
        return max(0.0, self._due - now)

    def silence_s(self, now: float) -> float:
        """Time since the newest heartbeat, or since the start of a process that is not ready."""
        if self.state is ProcessState.STARTING:
            return now - self._since
        return now - self._beat if self.state is ProcessState.READY else 0.0

    def postpone(self, seconds: float) -> None:
        """Extend all deadlines, because the supervisor itself did not run for some time."""
        self._since += seconds
        self._beat += seconds

    def act(self, now: float, starved_s: float = 0.0) -> Action | None:
        """The next action, None where nothing is due.

        Args:
            starved_s: time in which a busy machine did not run the process, since its newest
                heartbeat or its start.
        """
        if self.state is ProcessState.WAITING and now >= self._due:
            return Action.START
        if self._killing:
            return None
        silence = self.silence_s(now)
        starting = self.state is ProcessState.STARTING
        limit = self._policy.ready_within if starting else self._policy.beat_within
        if silence - starved_s <= limit and silence <= limit * self._policy.patience:
            return None
        return self._kill(
            f"not ready within {silence:.0f} s" if starting else f"no heartbeat for {silence:.1f} s"
        )

    def started(self, now: float) -> None:
        """The process was started."""
        self.state = ProcessState.STARTING
        self._since = self._beat = now
        self._killing = False
        self._starts += 1
        if self._starts > 1:
            self.restarts += 1

    def not_started(self, now: float, reason: str) -> None:
        """The start of the process failed; it is tried again after a delay."""
        self.started(now)
        self.exited(now, EXIT_FAULT, None)
        self.reason = reason

    def beat(self, now: float, *, ready: bool) -> None:
        """A heartbeat of the current process arrived at `now`."""
        self._beat = max(self._beat, now)
        if self.state is ProcessState.STARTING and ready:
            self.state = ProcessState.READY
            self._since = now
            self._ever_ready = True

    def replaced(self, now: float) -> None:
        """A process that is ready has replaced the current one in an orderly way."""
        if not self.over:
            self.state = ProcessState.READY
            self._since = self._beat = now
            self._ever_ready = True
            self._killing = False

    def start_again(self, now: float) -> None:
        """The process was removed; start another one at once."""
        if not self.over:
            self.state = ProcessState.WAITING
            self._due = now
            self._killing = False

    def repeat_end(self, now: float) -> None:
        """The process was killed while it ended; start it at once, to be stopped again."""
        self.state = ProcessState.WAITING
        self._due = now
        self._killing = False

    def renew(self) -> None:
        """The supervisor ends the process to start it with another job; that is no failure."""
        self._renewing = True

    def stop(self) -> None:
        """The supervisor stops the process; its end is expected."""
        if not self.over:
            self.state = (
                ProcessState.DONE if self.state is ProcessState.WAITING else ProcessState.STOPPING
            )

    def exited(self, now: float, code: int, last_line: str | None) -> None:
        """The process has ended.

        Args:
            code: exit code, negative for a signal.
            last_line: the last line that it wrote to stderr.
        """
        self.exit_code = code
        renewing, self._renewing = self._renewing, False
        if self.state is ProcessState.STOPPING or (
            code == EXIT_OK and self._policy.ends and not renewing
        ):
            self.state = ProcessState.DONE
            return
        if renewing:
            self.reason = "its settings have changed"
            self.start_again(now)
            return
        if not self._killing:
            ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self.reason = f"{ended}: {last_line}" if last_line else ended
        if code in (EXIT_USER, EXIT_DEVICE):
            self.reason = last_line or self.reason
        # At the first start a mistake of the user ends the pipeline, whatever the process does.
        if code == EXIT_USER and (self._policy.vital or not self._ever_ready):
            self.state = ProcessState.FAILED
            return
        quick = self.state is not ProcessState.READY or now - self._since < self._policy.quick
        self._quick_ends = self._quick_ends + 1 if quick else 0
        self._absences += code == EXIT_DEVICE
        # A device may return after days; every other failure has a limit.
        if code != EXIT_DEVICE and self._hopeless():
            self.state = ProcessState.FAILED
            return
        self.state = ProcessState.WAITING
        self._due = now + self._policy.backoff.delay_s(self._quick_ends) * self._random_factor()

    def _hopeless(self) -> bool:
        if not self._policy.vital:
            return False
        if not self._ever_ready:
            return self._starts - self._absences >= self._policy.never_ready_limit
        limit = self._policy.quick_limit
        return limit is not None and self._quick_ends >= limit

    def _kill(self, reason: str) -> Action:
        self.reason = reason
        self._killing = True
        return Action.KILL

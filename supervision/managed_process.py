"""One process of the pipeline: its job, its state and its child."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence

from speech_emotion.common.hub.observed import ReceivedHeartbeat, Snapshot
from speech_emotion.common.linux.run_delay import RunDelay
from speech_emotion.common.source_state import SourceState
from speech_emotion.common.stage.jobs import CaptureJob, Job
from speech_emotion.common.wire.states import FINE_STAGES
from speech_emotion.supervision.child import Child
from speech_emotion.supervision.process_table import PlannedProcess
from speech_emotion.supervision.restart_policy import Action, ProcessLifecycle, ProcessState

log = logging.getLogger("supervisor")

SUSPICIOUS_S = 1.0
"""Age of a heartbeat from which the supervisor measures how long the process waits for a
processor; a heartbeat is due every 0.5 s."""

TAKING = (
    *(SourceState.LIVE, SourceState.SILENT_INPUT, SourceState.STUCK),
    SourceState.CANCELLED,
)
"""States of a source from which samples come."""


class ManagedProcess:
    """Starts, observes, restarts and stops one process. Use from the supervisor's loop only.

    Args:
        planned: its row of the table, its job and its restart policy.
        now: CLOCK_MONOTONIC.
        arguments: further command line arguments of the process.
        inherit: file descriptors that the process keeps open.
        write: takes the lines that the process writes to stderr.
        wake: wakes the supervisor's loop.

    Attributes:
        job: the job of the next start; a bundle swap or a changed setting changes it.
        child: the process that runs, if one does.
    """

    def __init__(
        self,
        planned: PlannedProcess,
        now: float,
        *,
        arguments: tuple[str, ...] = (),
        inherit: tuple[int, ...] = (),
        write: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self.name = planned.name
        self.kind = planned.kind
        self.job = planned.job
        self.arguments = arguments
        self.lifecycle = ProcessLifecycle(planned.policy, now)
        self.child: Child | None = None
        self._inherit = inherit
        self._write = write
        self._wake = wake
        self._delays: tuple[RunDelay, ...] = ()
        self._last_reason: str | None = None
        self._repeats = 0
        self._killed = False

    @property
    def interrupted(self) -> bool:
        """Whether another program killed it while it ended, so that its data is not complete."""
        return (
            self.kind.before_capture
            and self.lifecycle.state is ProcessState.DONE
            and (self.lifecycle.exit_code or 0) < 0
            and not self._killed
        )

    @property
    def streams(self) -> list[str]:
        """The streams that this process captures."""
        return [row.name for row in self.job.streams] if isinstance(self.job, CaptureJob) else []

    @property
    def fine(self) -> bool:
        """Whether it is ready, or done with its work."""
        return self.lifecycle.state.value in FINE_STAGES

    def turn(self, now: float, heartbeat: ReceivedHeartbeat | None, *, may_start: bool) -> None:
        """Do what is due.

        Args:
            now: CLOCK_MONOTONIC.
            heartbeat: the newest heartbeat under its name.
            may_start: whether a process that waits for its start may start now.
        """
        lifecycle, child = self.lifecycle, self.child
        if child is not None and (code := child.exit_code()) is not None:
            self.child = None
            self._wake()  # a restart may be due at once
            lifecycle.exited(now, code, child.last_line())
            if lifecycle.state is ProcessState.WAITING:
                self._log_restart(now)
            return
        if child is not None and heartbeat is not None and heartbeat.heartbeat.pid == child.pid:
            if lifecycle.state is ProcessState.STARTING and lifecycle.restarts:
                log.info("%s: ready again", self.name)
            lifecycle.beat(heartbeat.received, ready=heartbeat.heartbeat.state == "ready")
        match lifecycle.act(now, self._starved_s(now)):
            case Action.START if may_start:
                self._start(now)
            case Action.KILL:
                assert child is not None
                log.warning("%s: killed (%s)", self.name, lifecycle.reason)
                child.kill()

    def _start(self, now: float) -> None:
        module, arguments = self.kind.module, self.arguments
        try:
            self.child = Child(module, arguments, self.job, self._write, self._inherit, self._wake)
        except (OSError, RuntimeError) as error:  # too many descriptors, processes or threads
            reason = getattr(error, "strerror", None) or str(error)
            self.lifecycle.not_started(now, f"cannot be started ({reason})")
            if self.lifecycle.state is ProcessState.WAITING:
                self._log_restart(now)
        else:
            self.lifecycle.started(now)
            self._delays = ()

    def _starved_s(self, now: float) -> float:
        """Time without a processor, of the process and of the supervisor that hears it."""
        if self.child is None or self.lifecycle.silence_s(now) < SUSPICIOUS_S:
            self._delays = ()
            return 0.0
        if not self._delays:
            starting = self.lifecycle.state is ProcessState.STARTING
            self._delays = (
                RunDelay(self.child.pid, now, from_start=starting),
                RunDelay(os.getpid(), now),
            )
        return sum(delay.seconds(now) for delay in self._delays)

    def renew(self, job: Job) -> None:
        """Continue with another job: the process that runs ends in order, and is started again."""
        if job == self.job:
            return
        self.job = job
        if self.child is not None:
            self.lifecycle.renew()
            self.child.terminate()

    def stop(self) -> None:
        """Ask it to stop in an orderly way; from now on its end is expected."""
        self.lifecycle.stop()
        if self.child is not None:
            self.child.terminate()

    def kill(self) -> None:
        """End its process at once, if one runs."""
        if self.child is not None:
            self._killed = True
            self.child.kill()

    def abandon(self, now: float) -> None:
        """Count a killed process that does not end as ended."""
        if self.child is not None:
            log.error(
                "%s: process %d was killed and does not end: its disk does not answer",
                *(self.name, self.child.pid),
            )
            self.child = None
            self.lifecycle.exited(now, -signal.SIGKILL, None)

    def _log_restart(self, now: float) -> None:
        # A microphone may be absent for weeks: the same reason again is logged after 2, 4, 8 …
        # times only.
        reason = self.lifecycle.reason
        self._repeats = self._repeats + 1 if reason == self._last_reason else 1
        self._last_reason = reason
        if self._repeats & (self._repeats - 1) == 0:
            times = f", {self._repeats} times" if self._repeats > 1 else ""
            delay = self.lifecycle.restart_in(now)
            log.warning("%s: restarting in %.1f s (%s%s)", self.name, delay, reason, times)


def status_line(processes: Sequence[ManagedProcess]) -> str:
    """State of the pipeline in one line: all ready, or the first process that is not."""
    for process in processes:
        if not process.fine:
            state, reason = process.lifecycle.state.value, process.lifecycle.reason
            return f"{process.name} {state}: {reason or 'not yet ready'}"
    return f"all {len(processes)} stages ready"


def sound_is_taken(captures: Sequence[ManagedProcess], snapshot: Snapshot) -> bool:
    """Whether a capture process that runs reports a source from which sound comes."""
    for process in captures:
        received = snapshot.heartbeats.get(process.name)
        if process.child is None or received is None:
            continue
        if received.heartbeat.pid == process.child.pid and any(
            SourceState(row.state) in TAKING for row in received.heartbeat.streams
        ):
            return True
    return False

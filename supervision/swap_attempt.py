"""One attempt to replace the bundle: test the new one, replace the processes, try, roll back.

TESTING ──► ENDING ──► SWITCHING ──► TRIAL ──► done
   │                                   │
   └── refused: nothing has changed    └── rolled back: the old bundle stays in use
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import time
from collections.abc import Callable, Sequence

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, EXIT_USER, UserError
from speech_emotion.common.hub.hub import Hub
from speech_emotion.common.stage.jobs import BundleJob, InferJob, Job
from speech_emotion.common.stage.supervised import STANDBY
from speech_emotion.common.wire import control_messages
from speech_emotion.common.wire.states import DONE, REFUSED, ROLLED_BACK
from speech_emotion.supervision.child import Child
from speech_emotion.supervision.managed_process import ManagedProcess
from speech_emotion.supervision.pipeline_state import standby_name
from speech_emotion.supervision.process_table import bundle_folder
from speech_emotion.supervision.restart_policy import ProcessState

log = logging.getLogger("swap")

READY_WITHIN_S = 30.0
"""Longest time in which the new processes must be ready."""
END_WITHIN_S = 3.0
"""Longest time that the old processes may take to stop before they are killed."""
TRIAL_S = 10.0
"""Longest time in which the new bundle must give a result, if enough sound arrives for one."""


class Phase(enum.Enum):
    """Progress of an attempt."""

    TESTING = "testing"
    ENDING = "ending"
    SWITCHING = "switching"
    TRIAL = "on trial"


def check_grid(old: Bundle, new: Bundle) -> None:
    """Raises UserError where a bundle does not fit the rings and windows of the pipeline."""
    for what, unit in (("sample_rate", "Hz"), ("window", "samples"), ("hop", "samples")):
        before, after = getattr(old.spec, what), getattr(new.spec, what)
        if before != after:
            raise UserError(
                f"{new.display()}: {what} is {after} {unit}, the running pipeline's {before}; "
                "restart it to use this bundle"
            )


class SwapAttempt:
    """One attempt. The supervisor's loop calls `turn` until it returns the outcome.

    Args:
        processes: those that work with a bundle.
        old, new: the bundles, in folders that no other program changes.
        use: makes a bundle the one in use, in the supervisor and in the hub.
        write: takes the lines that the new processes write.

    Raises:
        OSError, RuntimeError: the system has no descriptor, process or thread left.
    """

    def __init__(
        self,
        processes: Sequence[ManagedProcess],
        old: Bundle,
        new: Bundle,
        hub: Hub,
        use: Callable[[Bundle], None],
        write: Callable[[str], None],
    ) -> None:
        self.phase = Phase.TESTING
        self.old, self.new = old, new
        self._processes = processes
        self._hub = hub
        self._use = use
        self._deadline = time.monotonic() + READY_WITHIN_S
        self._accepted = 0
        self._positions: dict[str, int] = {}
        self._fresh: dict[str, Child] = {}
        try:
            for process in processes:
                job = _job_with(process.job, new, old, standby=standby_name(process.name))
                self._fresh[process.name] = Child(
                    process.kind.module, process.arguments, job, write, hold=True
                )
        except (OSError, RuntimeError):
            self.cancel()
            raise
        log.info("%s: testing; %s stays in use", new.id, old.id)

    def holds(self, process: ManagedProcess) -> bool:
        """Whether the attempt replaces a process now, so that nothing else may change it."""
        return self.between and any(process is one for one in self._processes)

    @property
    def between(self) -> bool:
        """Whether the old processes stop and the new ones do not work yet."""
        return self.phase in (Phase.ENDING, Phase.SWITCHING)

    @property
    def on_trial(self) -> bool:
        """Whether the new processes work."""
        return self.phase is Phase.TRIAL

    def cancel(self) -> None:
        """End the new processes; the old ones stay."""
        for child in self._fresh.values():
            child.kill()
        self._forget_standby()

    def postpone(self, seconds: float) -> None:
        """Extend the deadline, because the supervisor itself did not run for some time."""
        self._deadline += seconds

    def turn(self, now: float) -> control_messages.Swapped | None:
        """Do the next step; returns the outcome at the end."""
        match self.phase:
            case Phase.TESTING:
                return self._testing(now)
            case Phase.ENDING:
                self._ending(now)
            case Phase.SWITCHING:
                self._switching(now)
            case Phase.TRIAL:
                return self._trial(now)
        return None

    def _testing(self, now: float) -> control_messages.Swapped | None:
        for name, child in self._fresh.items():
            if (code := child.exit_code()) is not None:
                reason = child.last_line() or f"{name}: exit code {code}"
                return self._refused(reason, EXIT_USER if code == EXIT_USER else None)
        if now > self._deadline:
            return self._refused(f"not ready within {READY_WITHIN_S:g} s")
        if all(self._stands_by(name) for name in self._fresh):
            for process in self._processes:
                if process.child is not None:
                    process.child.terminate()
            self.phase, self._deadline = Phase.ENDING, now + END_WITHIN_S
        return None

    def _stands_by(self, name: str) -> bool:
        beat = self._hub.snapshot().heartbeats.get(standby_name(name))
        return (
            beat is not None
            and beat.heartbeat.pid == self._fresh[name].pid
            and beat.heartbeat.state == STANDBY
        )

    def _ending(self, now: float) -> None:
        for process in self._processes:
            if process.child is None:
                continue
            if process.child.exit_code() is not None:
                process.child = None
            elif now > self._deadline:
                process.child.kill()
        if all(process.child is None for process in self._processes):
            self._use(self.new)
            self.phase = Phase.SWITCHING

    def _switching(self, now: float) -> None:
        if self._hub.snapshot().bundle != self.new.id:
            return  # the hub's thread has not switched yet
        snapshot = self._hub.snapshot()
        self._accepted = snapshot.counters["results_accepted"]
        self._positions = {name: source.position for name, source in snapshot.sources.items()}
        for process in self._processes:
            process.job = _job_with(process.job, self.new, self.old)
            process.child = self._fresh[process.name]
            process.child.release()
            process.lifecycle.replaced(now)
        self._forget_standby()
        self.phase, self._deadline = Phase.TRIAL, now + TRIAL_S

    def _trial(self, now: float) -> control_messages.Swapped | None:
        # First: after a result under the new bundle it stays, even if a process dies just then.
        if self._hub.snapshot().counters["results_accepted"] > self._accepted:
            return self._done("")
        for process in self._processes:
            child = self._fresh[process.name]
            code = child.exit_code()
            if code is not None or process.lifecycle.state is not ProcessState.READY:
                reason = child.last_line() if code is not None else process.lifecycle.reason
                reason = reason or f"exit code {code}"
                return self._roll_back(f"{process.name} failed: {reason}", now)
        if now > self._deadline:
            if self._enough_sound():
                return self._roll_back(f"no result within {TRIAL_S:g} s", now)
            return self._done("; not tried yet, because too little sound arrived")
        return None

    def _enough_sound(self) -> bool:
        enough = 2 * self.new.spec.window
        return any(
            source.position - self._positions.get(name, 0) >= enough
            for name, source in self._hub.snapshot().sources.items()
        )

    # Outcomes -----------------------------------------------------------------------------

    def _refused(self, why: str, code: int | None = None) -> control_messages.Swapped:
        self.cancel()
        text = f"{self.new.id}: refused, {self.old.id} stays in use: {why}"
        code = EXIT_FAULT if code is None else code
        return control_messages.Swapped(code, text, REFUSED, why)

    def _done(self, note: str) -> control_messages.Swapped:
        text = f"{self.new.id} has replaced {self.old.id}{note}"
        return control_messages.Swapped(EXIT_OK, text, DONE)

    def _roll_back(self, why: str, now: float) -> control_messages.Swapped:
        self._use(self.old)
        for process in self._processes:
            process.job = _job_with(process.job, self.old)
            if process.child is not None:
                process.child.kill()
                process.child.last_line()
                process.child = None
            process.lifecycle.start_again(now)
        text = f"{self.new.id}: rolled back, {self.old.id} is in use again: {why}"
        return control_messages.Swapped(EXIT_FAULT, text, ROLLED_BACK, why)

    def _forget_standby(self) -> None:
        for name in self._fresh:
            self._hub.forget(standby_name(name))


def _job_with(job: Job, bundle: Bundle, *known: Bundle, standby: str | None = None) -> Job:
    """A job with another bundle.

    Args:
        known: earlier bundles, for utterances that began under them.
    """
    assert isinstance(job, BundleJob)
    folder = bundle_folder(bundle)
    if isinstance(job, InferJob):
        earlier = tuple(map(bundle_folder, known))
        return dataclasses.replace(job, bundle=folder, standby=standby, known=earlier)
    return dataclasses.replace(job, bundle=folder, standby=standby)

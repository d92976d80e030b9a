"""Swap the bundle of a running pipeline: test the new one, exchange the processes, try, roll back.

TESTING ──► ENDING ──► SWITCHING ──► TRIAL ──► done
   │                                   │
   └── refused: nothing has changed    └── rolled back: the old bundle goes on
"""

from __future__ import annotations

import enum
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, EXIT_USER, UserError
from speech_emotion.common.hub.hub import Hub
from speech_emotion.common.stage.jobs import STANDBY
from speech_emotion.common.wire import internal
from speech_emotion.supervision.child import Child
from speech_emotion.supervision.restart_policy import ProcessLifecycle, ProcessState

log = logging.getLogger("swap")


BUNDLE_STAGES = ("features", "infer")
"""Modules of the stages that work with a bundle."""


READY_WITHIN_S = 30.0


END_WITHIN_S = 3.0
"""So long may the old processes take to end before they are killed."""


TRIAL_S = 10.0
"""Within so long the new bundle must have given a result, where there was sound for one."""


class Phase(enum.Enum):
    """How far an exchange has come."""

    TESTING = "testing"
    ENDING = "ending"
    SWITCHING = "switching"
    TRIAL = "on trial"


class Swappable(Protocol):
    """A stage whose process can be exchanged; a row of the supervisor's table."""

    name: str
    module: str
    arguments: list[str]
    job: dict[str, Any]
    supervision: ProcessLifecycle
    child: Child | None


def check_grid(old: Bundle, new: Bundle) -> None:
    """Raises UserError where rings and windows of a running pipeline do not fit a bundle."""
    for what, unit in (("sample_rate", "Hz"), ("window", "samples"), ("hop", "samples")):
        before, after = getattr(old.spec, what), getattr(new.spec, what)
        if before != after:
            raise UserError(
                f"{new.path}: {what} is {after} {unit}, the running pipeline's {before}; "
                "restart it to use this bundle"
            )


class BundleSwap:
    """One exchange; `turn` is called from the supervisor's loop until it gives the outcome.

    Args:
        stages: those that work with a bundle.
        old, new: bundles in folders that nobody changes.
        use: makes a bundle the one in force, in the supervisor and in the hub.
        write: takes the lines that the fresh processes write.
    """

    def __init__(
        self,
        stages: Sequence[Swappable],
        old: Bundle,
        new: Bundle,
        hub: Hub,
        use: Callable[[Bundle], None],
        write: Callable[[str], None],
    ) -> None:
        self.phase = Phase.TESTING
        self.old, self.new = old, new
        self._stages = stages
        self._hub = hub
        self._use = use
        self._deadline = time.monotonic() + READY_WITHIN_S
        self._accepted = 0
        self._heard: dict[str, int] = {}
        self._fresh: dict[str, Child] = {}
        for stage in stages:
            job = {**stage.job, **_jobs(new, old), "standby": standby_name(stage.name)}
            self._fresh[stage.name] = Child(stage.module, stage.arguments, job, write, hold=True)
        log.info("%s: testing it beside %s", new.id, old.id)

    def holds(self, stage: Swappable) -> bool:
        """Whether a stage's process is being exchanged, and nobody else may look after it."""
        return self.between and any(stage is one for one in self._stages)

    @property
    def between(self) -> bool:
        """Whether the old processes are told to end and the new ones not yet at work."""
        return self.phase in (Phase.ENDING, Phase.SWITCHING)

    @property
    def on_trial(self) -> bool:
        """Whether the new processes are at work."""
        return self.phase is Phase.TRIAL

    def cancel(self) -> None:
        """End the processes that wait; what they were to replace goes on."""
        for child in self._fresh.values():
            child.kill()
        self._forget()

    def turn(self, now: float) -> internal.Swapped | None:
        """Do the next step; the outcome once there is one."""
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

    def _testing(self, now: float) -> internal.Swapped | None:
        for name, child in self._fresh.items():
            if (code := child.exit_code()) is not None:
                words = child.last_words() or f"exit code {code}"
                return self._refused(f"{name}: {words}", EXIT_USER if code == EXIT_USER else None)
        if now > self._deadline:
            return self._refused(f"not ready within {READY_WITHIN_S:g} s")
        if all(self._stands_by(name) for name in self._fresh):
            for stage in self._stages:
                if stage.child is not None:
                    stage.child.terminate()
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
        for stage in self._stages:
            if stage.child is None:
                continue
            if stage.child.exit_code() is not None:
                stage.child = None
            elif now > self._deadline:
                stage.child.kill()
        if all(stage.child is None for stage in self._stages):
            self._use(self.new)
            self.phase = Phase.SWITCHING

    def _switching(self, now: float) -> None:
        if self._hub.snapshot().bundle != self.new.id:
            return  # the hub has not taken its turn yet
        snapshot = self._hub.snapshot()
        self._accepted = snapshot.counters["results_accepted"]
        self._heard = {name: source.position for name, source in snapshot.sources.items()}
        for stage in self._stages:
            stage.job = {**stage.job, **_jobs(self.new, self.old)}
            stage.child = self._fresh[stage.name]
            stage.child.release()
            stage.supervision.replaced(now)
        self._forget()
        self.phase, self._deadline = Phase.TRIAL, now + TRIAL_S

    def _trial(self, now: float) -> internal.Swapped | None:
        for stage in self._stages:
            child = self._fresh[stage.name]
            code = child.exit_code()
            if code is not None or stage.supervision.state is not ProcessState.READY:
                words = child.last_words() if code is not None else stage.supervision.reason
                return self._roll_back(f"{stage.name} died: {words or f'exit code {code}'}", now)
        if self._hub.snapshot().counters["results_accepted"] > self._accepted:
            return self._done("")
        if now > self._deadline:
            if self._sound_came():
                return self._roll_back(f"no result within {TRIAL_S:g} s", now)
            return self._done("; no sound has come that could try it")
        return None

    def _sound_came(self) -> bool:
        enough = 2 * self.new.spec.window
        return any(
            source.position - self._heard.get(name, 0) >= enough
            for name, source in self._hub.snapshot().sources.items()
        )

    # Outcomes -----------------------------------------------------------------------------

    def _refused(self, why: str, code: int | None = None) -> internal.Swapped:
        self.cancel()
        text = f"{self.new.id}: not taken, {self.old.id} goes on: {why}"
        return internal.Swapped(EXIT_FAULT if code is None else code, text)

    def _done(self, more: str) -> internal.Swapped:
        return internal.Swapped(EXIT_OK, f"{self.new.id} has taken over from {self.old.id}{more}")

    def _roll_back(self, why: str, now: float) -> internal.Swapped:
        self._use(self.old)
        for stage in self._stages:
            stage.job = {**stage.job, **_jobs(self.old)}
            if stage.child is not None:
                stage.child.kill()
                stage.child.last_words()
                stage.child = None
            stage.supervision.start_again(now)
        text = f"{self.new.id}: rolled back, {self.old.id} goes on: {why}"
        return internal.Swapped(EXIT_FAULT, text)

    def _forget(self) -> None:
        for name in self._fresh:
            self._hub.forget(standby_name(name))


def standby_name(stage: str) -> str:
    """The name under which a process waits that is to take a stage's place."""
    return f"{stage}+next"


def _jobs(bundle: Bundle, *known: Bundle) -> dict[str, Any]:
    """What a stage's job says of bundles; `known` ones are for utterances that began under them."""
    return {"bundle": str(bundle.path), "known": [str(b.path) for b in known], "standby": None}


def remove_bundle_copy(bundle: Bundle, folder: Path) -> None:
    """Remove a copy of a bundle in `folder` that nobody needs any more."""
    if bundle.path.parent == folder:
        shutil.rmtree(bundle.path, ignore_errors=True)

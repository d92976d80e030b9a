"""Another bundle while the pipeline runs: tested beside it, exchanged between two windows.

    TESTING ──► ENDING ──► SWITCHING ──► TRIAL ──► done
       │                                   │
       └── refused: nothing has changed    └── rolled back: the old bundle goes on

Fresh features and infer processes load the new bundle and hold it against its golden vectors
while the old ones work on. Then those end, the hub goes over to the new bundle, and the fresh
ones take their places and go on at the next window, from the hub's checkpoint: what the old ones
had not finished is read from the ring again. Whoever names another bundle than the hub is not
listened to, so no window mixes two. `Exchange` is the machine, `Control` where it is asked for.
"""

from __future__ import annotations

import enum
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import zmq

from common import messages as m
from common.bundle import Bundle, load_bundle
from common.child import Child
from common.errors import EXIT_FAULT, EXIT_OK, EXIT_USER, UserError
from common.hub import Hub
from common.process import ProcessIdentity
from common.runtime import base_folder
from common.sockets import bind, configure, connect, remove_file, send
from common.stage import STANDBY
from common.supervision import State, Supervision

log = logging.getLogger("swap")

CONTROL = "control"
EXCHANGED = ("features", "infer")
"""Modules of the stages that work with a bundle."""
READY_WITHIN_S = 30.0
END_WITHIN_S = 3.0
"""So long may the old processes take to end before they are killed."""
TRIAL_S = 10.0
"""Within so long the new bundle must have given a result, where there was sound for one."""
ANSWER_S = 90.0


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
    supervision: Supervision
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


class Exchange:
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

    def turn(self, now: float) -> m.Swapped | None:
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

    def _testing(self, now: float) -> m.Swapped | None:
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
        beat = self._hub.beats.get(standby_name(name))
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
        if self._hub.ledger.bundle != self.new.id:
            return  # the hub has not taken its turn yet
        self._accepted = self._hub.counters["results_accepted"]
        self._heard = {name: source.position for name, source in self._hub.sources.items()}
        for stage in self._stages:
            stage.job = {**stage.job, **_jobs(self.new, self.old)}
            stage.child = self._fresh[stage.name]
            stage.child.release()
            stage.supervision.replaced(now)
        self._forget()
        self.phase, self._deadline = Phase.TRIAL, now + TRIAL_S

    def _trial(self, now: float) -> m.Swapped | None:
        for stage in self._stages:
            child = self._fresh[stage.name]
            code = child.exit_code()
            if code is not None or stage.supervision.state is not State.READY:
                words = child.last_words() if code is not None else stage.supervision.reason
                return self._roll_back(f"{stage.name} died: {words or f'exit code {code}'}", now)
        if self._hub.counters["results_accepted"] > self._accepted:
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
            for name, source in list(self._hub.sources.items())
        )

    # Outcomes -----------------------------------------------------------------------------

    def _refused(self, why: str, code: int | None = None) -> m.Swapped:
        self.cancel()
        text = f"{self.new.id}: not taken, {self.old.id} goes on: {why}"
        return m.Swapped(EXIT_FAULT if code is None else code, text)

    def _done(self, more: str) -> m.Swapped:
        return m.Swapped(EXIT_OK, f"{self.new.id} has taken over from {self.old.id}{more}")

    def _roll_back(self, why: str, now: float) -> m.Swapped:
        self._use(self.old)
        for stage in self._stages:
            stage.job = {**stage.job, **_jobs(self.old)}
            if stage.child is not None:
                stage.child.kill()
                stage.child.last_words()
                stage.child = None
            stage.supervision.start_again(now)
        text = f"{self.new.id}: rolled back, {self.old.id} goes on: {why}"
        return m.Swapped(EXIT_FAULT, text)

    def _forget(self) -> None:
        for name in self._fresh:
            self._hub.beats.pop(standby_name(name), None)


def standby_name(stage: str) -> str:
    """The name under which a process waits that is to take a stage's place."""
    return f"{stage}+next"


def _jobs(bundle: Bundle, *known: Bundle) -> dict[str, Any]:
    """What a stage's job says of bundles; `known` ones are for utterances that began under them."""
    return {"bundle": str(bundle.path), "known": [str(b.path) for b in known], "standby": None}


# Asking for it ------------------------------------------------------------------------------


class Control:
    """Where a running supervisor is asked: a socket in its own folder, for its user only."""

    def __init__(self, folder: Path) -> None:
        self._endpoint = f"ipc://{folder}/{CONTROL}"
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        configure(self._socket)
        bind(self._socket, self._endpoint, CONTROL)
        self.malformed = 0

    def requests(self) -> Iterator[tuple[bytes, m.Swap]]:
        """Who asks for what, without waiting."""
        for _ in range(100):
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                if len(parts) != 2:
                    raise m.ProtocolError(f"{len(parts)} frames instead of 2")
                message = m.decode(parts[1])
            except m.ProtocolError:
                self.malformed += 1
                continue
            if isinstance(message, m.Swap):
                yield parts[0], message
            else:
                self.malformed += 1

    def answer(self, identity: bytes, outcome: m.Swapped) -> None:
        """Tell who asked; nothing happens where he has gone."""
        try:
            self._socket.send_multipart([identity, m.encode(outcome)], zmq.DONTWAIT)
        except zmq.ZMQError:
            return

    def close(self) -> None:
        self._context.destroy(linger=200)
        remove_file(self._endpoint)


def forget_copy(bundle: Bundle, folder: Path) -> None:
    """Remove a copy of a bundle in `folder` that nobody needs any more."""
    if bundle.path.parent == folder:
        shutil.rmtree(bundle.path, ignore_errors=True)


def running() -> dict[int, Path]:
    """Control sockets of this user's supervisors that run, by process id.

    Raises:
        UserError: the folder for sockets cannot be used.
    """
    found = {}
    for folder in base_folder().iterdir():
        owner = ProcessIdentity.parse(folder.name)
        if owner is not None and owner.alive() and (folder / CONTROL).is_socket():
            found[owner.pid] = folder / CONTROL
    return found


def ask(control: Path, bundle: Path) -> m.Swapped:
    """Ask a supervisor to go on with a bundle, and wait for the outcome.

    Raises:
        UserError: it does not answer.
    """
    context: zmq.Context[Any] = zmq.Context()
    try:
        socket = connect(context, f"ipc://{control}", CONTROL)
        send(socket, m.Swap(str(bundle)))
        deadline = time.monotonic() + ANSWER_S
        while not socket.poll(200):
            if not control.exists():
                raise UserError(f"{control}: the pipeline has ended")
            if time.monotonic() > deadline:
                raise UserError(f"{control}: no answer within {ANSWER_S:g} s")
        answer = m.decode(socket.recv())
    finally:
        context.destroy(linger=0)
    if not isinstance(answer, m.Swapped):
        raise UserError(f"{control}: does not answer as a supervisor does")
    return answer


def main(words: list[str]) -> int:
    """`supervisor.py swap`; an exit code.

    Raises:
        UserError: no such bundle, or no pipeline, or several.
    """
    from common.stage import Parser

    flags = Parser(
        prog="python supervisor.py swap",
        description="Lets a running pipeline go on with another bundle, between two windows.",
    )
    flags.add_argument("bundle", type=Path, metavar="DIR", help="folder of the bundle")
    flags.add_argument("--pid", type=int, help="process id of the supervisor, where several run")
    arguments = flags.parse_args(words)
    load_bundle(arguments.bundle)
    found = running()
    if arguments.pid is not None:
        found = {pid: path for pid, path in found.items() if pid == arguments.pid}
    if not found:
        which = f"with process id {arguments.pid}" if arguments.pid is not None else "of this user"
        raise UserError(f"no pipeline {which} runs here")
    if len(found) > 1:
        raise UserError(f"several pipelines run: choose by --pid {' or '.join(map(str, found))}")
    (control,) = found.values()
    outcome = ask(control, arguments.bundle.resolve())
    print(outcome.text)
    return outcome.code

"""The supervisor's loop: start, observe, restart and stop the processes of a pipeline."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from speech_emotion.common.config.model import Config
from speech_emotion.common.errors import EXIT_DEVICE, EXIT_FAULT, EXIT_OK, EXIT_USER, UserError
from speech_emotion.common.hub.observed import Snapshot
from speech_emotion.common.linux.systemd import SystemdNotifier
from speech_emotion.common.wire.control_messages import (
    AskHealth,
    ForgetBaseline,
    LogIn,
    Reconfigure,
    ReviewAct,
    SetMute,
    Swap,
)
from speech_emotion.supervision.bundle_choice import bundle_to_use
from speech_emotion.supervision.bundle_swap import BundleSwap
from speech_emotion.supervision.console.log_lines import LogLines
from speech_emotion.supervision.console.view import BackgroundView, make_view
from speech_emotion.supervision.forget_baseline import forget_baseline
from speech_emotion.supervision.managed_process import (
    ManagedProcess,
    sound_is_taken,
    status_line,
)
from speech_emotion.supervision.privacy.audit_events import note_log_in, note_request, note_review
from speech_emotion.supervision.reconfiguration import Reconfiguration
from speech_emotion.supervision.resources import Resources
from speech_emotion.supervision.restart_policy import ProcessState
from speech_emotion.supervision.signals import SignalRequests

log = logging.getLogger("supervisor")

TURN_S = 0.25
"""Longest time between two turns of the loop. A line, an ended process or a new state wakes it."""
SWAP_TURN_S = 0.02
"""The same while a bundle is swapped: capture's sound waits in the ring."""
SHOW_S = 0.1
"""Time between two updates of the view."""
DRAIN_S = 6.0
"""Longest time that capture may wait for its last results to be accepted before it is killed."""
END_S = 6.0
"""Longest time that the other processes may take to stop before they are killed."""
KILLED_S = 3.0
"""Longest time that a killed process may take to end. Longer takes one whose disk does not answer:
the kernel ends it when the disk does."""
RESTART_S = 15.0
"""Longest time at the end for a recorder or history writer that restarts or does not answer: it
writes what the ring still holds, and counts what it has missed."""
QUIET_START_S = 10.0
"""Longest time that log lines wait for all processes to be ready. The line that explains a mistake
of the user is then the only one."""
CAPTURE_WAITS_S = 5.0
"""Longest time that capture waits for the recorder and the history writer to start."""
ABSENCE_S = 1.0
"""Time between two turns from which the supervisor itself did not run."""
CHECK_S = 1.0
"""Time between two checks for rings, sockets and bundles that another program removed."""
HUB_TURN_S = 3.0
"""Greatest age of the last turn of a healthy hub."""


class Pipeline:
    """Runs the processes from start to end. Use from the main thread.

    Args:
        resources: what the pipeline owns; closed at the end of `run`.
        running: the configuration that it was started with.
        load: loads the configuration as the start did; of another file where one is given.
        lines: the log lines.
        signals: stops, reloads and wake-ups of the loop.
    """

    def __init__(
        self,
        resources: Resources,
        running: Config,
        load: Callable[[Path | None], Config],
        lines: LogLines,
        signals: SignalRequests,
    ) -> None:
        self._resources = resources
        self._hub = resources.hub
        self._processes = resources.processes
        self._mute = resources.mute
        self._captures = [p for p in self._processes if p.kind.capture]
        self._swap = BundleSwap(resources, lambda: bundle_to_use(load(None)), lines.write)
        self._settings = Reconfiguration(resources, running, load)
        self._lines = lines
        self._signals = signals
        self._notifier = SystemdNotifier()
        self._began = self._turned = time.monotonic()
        self._show_due = 0.0
        self._check_due = 0.0
        self._end_due: float | None = None
        self._removed: str | None = None
        self._reloads = 0
        self._failed: ManagedProcess | None = None

    def run(self) -> int:
        """Run until the sources end, a signal arrives, or a process cannot be kept running.

        Returns:
            The exit code.
        """
        self._hub.start()
        try:
            with make_view() as view:
                while not self._over():
                    self._turn(view)
                    self._wait(view)
                self._notifier.stopping()
                self._swap.end()
                self._end(view, self._captures, DRAIN_S)
                self._await_restarts(view)
                self._end(view, [p for p in self._processes if not p.kind.capture], END_S)
                self._repeat_interrupted_ends(view)
                code = self._verdict(view)
                self._resources.audit.note("stop", code=code)
                self._resources.audit.close()  # it logs the last hash
                if not self._lines.held:
                    self._release(view)
                return code
        finally:
            self._swap.end()
            for process in self._processes:
                process.kill()
            self._resources.close()
            self._notifier.close()

    def _over(self) -> bool:
        if self._swap.between:
            return False  # an orderly end needs the new processes
        return bool(
            self._signals.stops
            or self._failed
            or self._removed
            or self._hub.failure
            or all(process.lifecycle.over for process in self._captures)
        )

    def _end(self, view: BackgroundView, processes: Sequence[ManagedProcess], limit: float) -> None:
        """Stop processes, and kill those that take longer than `limit` seconds."""
        for process in processes:
            process.stop()
        self._end_due = time.monotonic() + limit
        stops = self._signals.stops
        while any(process.child is not None for process in processes):
            # A pipeline that was never ready has nothing to end in an orderly way. A user who
            # repeats the stop does not want to wait.
            never_ready = self._failed is not None and self._lines.held
            late = time.monotonic() > self._end_due
            if never_ready or late or self._signals.stops > stops + 1:
                for process in processes:
                    process.kill()
            if time.monotonic() > self._end_due + KILLED_S:
                for process in processes:
                    process.abandon(time.monotonic())
            self._turn(view)
            self._wait(view)

    def _await_restarts(self, view: BackgroundView) -> None:
        """Wait for a heartbeat of the recorder and of the history writer.

        One that has just died or hangs is restarted meanwhile. A heartbeat is due every 0.5 s.
        """
        lifecycles = [p.lifecycle for p in self._processes if p.kind.before_capture]
        began, stops = time.monotonic(), self._signals.stops
        broken = self._failed or self._removed or self._hub.failure
        while not broken and self._signals.stops <= stops:
            passed = (now := time.monotonic()) - began
            if passed > RESTART_S or not any(
                one.restarting or one.silence_s(now) > passed for one in lifecycles
            ):
                return
            self._turn(view)
            self._wait(view)

    def _repeat_interrupted_ends(self, view: BackgroundView) -> None:
        """Start a recorder or history writer again that another program killed while it ended.

        The ring and the hub still have what it has not written; then it is stopped again.
        """
        deadline, stops = time.monotonic() + RESTART_S, self._signals.stops
        broken = self._failed or self._removed or self._hub.failure
        while interrupted := [p for p in self._processes if p.interrupted]:
            if broken or self._signals.stops > stops or time.monotonic() > deadline:
                for process in interrupted:
                    log.error("%s: killed while it ended; its last data is lost", process.name)
                return
            for process in interrupted:
                log.warning("%s: killed while it ended; it is started again", process.name)
                process.lifecycle.repeat_end(time.monotonic())
            while any(p.lifecycle.awaited for p in interrupted) and time.monotonic() <= deadline:
                self._turn(view)
                self._wait(view)
            self._end(view, interrupted, END_S)

    def _verdict(self, view: BackgroundView) -> int:
        """Show the last results and the cause of the end; the exit code."""
        failed = self._failed
        self._removed = self._removed or self._resources.removed()
        if self._removed is not None:  # what a process says about its end is a consequence
            self._release(view)
            view.settle()
            log.error("%s was removed by another program; start again", self._removed)
            self._release(view)
            return EXIT_FAULT
        mistake = failed is not None and failed.lifecycle.exit_code == EXIT_USER
        if not mistake or not self._lines.held:  # else no process was ready: no line is of use
            self._release(view)
            view.show(self._hub.drain_results(), self._resources.state.health(self._hub.snapshot()))
            view.settle()
        if failed is not None and mistake:
            view.write(failed.lifecycle.reason or f"{failed.name}: exit code {EXIT_USER}")
            return EXIT_USER
        if failed is not None:
            log.error("%s: given up (%s)", failed.name, failed.lifecycle.reason)
        if self._hub.failure is not None:
            log.error("hub: failed (%r)", self._hub.failure)
        self._release(view)
        return EXIT_FAULT if failed is not None or self._hub.failure is not None else EXIT_OK

    # One turn ---------------------------------------------------------------------------

    def _turn(self, view: BackgroundView) -> None:
        now = self._account_for_absence()
        if self._removed is None and now >= self._check_due and not self._swap.active:
            self._check_due = now + CHECK_S
            self._removed = self._resources.removed()
        if self._signals.reloads > self._reloads:
            self._reloads = self._signals.reloads
            self._reload()
        before = [process.lifecycle.state for process in self._processes]
        self._take_requests(now)
        self._swap.turn(now, ending=self._over())
        snapshot = self._hub.snapshot()
        heartbeats = snapshot.heartbeats
        self._guard_sound(now, snapshot)
        for process in self._processes:
            if not self._swap.holds(process):
                may_start = not process.kind.capture or not self._too_early(now)
                process.turn(now, heartbeats.get(process.name), may_start=may_start)
                if process.lifecycle.state is ProcessState.FAILED:
                    self._failed = self._failed or process
        if before != [process.lifecycle.state for process in self._processes]:
            self._hub.health_changed()
        self._show(view, now)
        self._notify(now)

    def _reload(self) -> None:
        """Take the settings and the bundle that the configuration names now."""
        try:
            self._settings.take("reload")
        except UserError as error:
            log.error("nothing is changed: %s", error)
        else:
            self._swap.reload()

    def _take_requests(self, now: float) -> None:
        """Take what has arrived at the control socket."""
        control = self._resources.control
        for client, request in control.requests():
            match request:
                case Swap():
                    self._swap.request(client, request, ending=self._over())
                case ForgetBaseline():
                    control.answer(client, forget_baseline(self._resources, request))
                case AskHealth():
                    # A hub that does not turn publishes nothing: no answer, the client reports it.
                    if self._hub_turns(now):
                        control.answer(client, self._resources.state.health(self._hub.snapshot()))
                case Reconfigure():
                    control.answer(client, self._settings.request(request, ending=self._over()))
                case LogIn():
                    note_log_in(self._resources.audit, request)
                case ReviewAct():
                    note_review(self._resources.audit, request)
                case SetMute():
                    note_request(self._resources.audit, request)
                    self._mute.request(request, now, functools.partial(control.answer, client))

    def _guard_sound(self, now: float, snapshot: Snapshot) -> None:
        """Decide whether sound may be taken, and show by the light whether it is."""
        taken, light = sound_is_taken(self._captures, snapshot), self._resources.light
        if light is not None:
            light.turn(now, wanted=taken)
        self._mute.turn(now, taken=taken, light=light.failure if light else None)
        if dropped := self._resources.audit.dropped:
            self._hub.set_counter("audit_unwritten", dropped)

    def _account_for_absence(self) -> float:
        """Extend all deadlines by a time in which the loop did not run; the time now.

        Ctrl-Z, a debugger or a frozen container stops the supervisor: a heartbeat is old then
        because it was not received, not because it was not sent.
        """
        now = time.monotonic()
        if (absence := now - self._turned) > ABSENCE_S:
            log.warning(
                "the supervisor did not run for %.1f s; all deadlines are extended", absence
            )
            for process in self._processes:
                process.lifecycle.postpone(absence)
            self._swap.postpone(absence)
            self._began += absence
            if self._end_due is not None:
                self._end_due += absence
        self._turned = now
        return now

    def _show(self, view: BackgroundView, now: float) -> None:
        started = all(process.fine for process in self._processes)
        if started or now - self._began > QUIET_START_S:
            self._release(view)
        if not self._lines.held and now >= self._show_due:
            self._show_due = now + SHOW_S
            results = list(self._hub.drain_results())
            if results or view.live:
                # With hundreds of streams it costs more than all other turns of this loop.
                state = self._resources.state
                view.show(results, state.health(self._hub.snapshot()) if view.live else None)

    def _release(self, view: BackgroundView) -> None:
        self._lines.release(view)
        if view.dropped:
            self._hub.set_counter("supervisor_lines_dropped", view.dropped)

    def _notify(self, now: float) -> None:
        """Notify the service manager. A device that is absent does not delay `READY=1`."""
        self._notifier.turn(
            now,
            ready=all(p.fine or p.lifecycle.exit_code == EXIT_DEVICE for p in self._processes),
            well=self._hub_turns(now),
            status=status_line(self._processes),
        )

    def _hub_turns(self, now: float) -> bool:
        return self._hub.failure is None and now - self._hub.turned < HUB_TURN_S

    def _too_early(self, now: float) -> bool:
        """Whether capture has to wait for the first start of the recorder or history writer."""
        return now - self._began <= CAPTURE_WAITS_S and any(
            process.lifecycle.state is not ProcessState.READY and not process.lifecycle.restarts
            for process in self._processes
            if process.kind.before_capture
        )

    def _wait(self, view: BackgroundView) -> None:
        """Wait for the next turn."""
        idle = SHOW_S if view.live else TURN_S
        self._signals.wait(SWAP_TURN_S if self._swap.active else idle)

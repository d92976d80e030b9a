"""Requests to a running pipeline, and swaps of its bundle: copies of bundles, answers."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from speech_emotion.common.bundle.manifest import Bundle, copy_bundle, load_bundle
from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, EXIT_USER, UserError
from speech_emotion.common.wire.control_messages import Swap, Swapped
from speech_emotion.common.wire.states import BUSY, DONE, REFUSED
from speech_emotion.supervision.managed_process import ManagedProcess
from speech_emotion.supervision.privacy.audit_events import note_swap
from speech_emotion.supervision.resources import Resources
from speech_emotion.supervision.swap_attempt import SwapAttempt, check_grid

log = logging.getLogger("swap")


class BundleSwap:
    """Takes requests, those for another bundle one at a time. The supervisor's loop calls `turn`.

    Args:
        configured: returns the bundle that the configuration names now.
        write: takes the lines that new processes write to stderr.
    """

    def __init__(
        self,
        resources: Resources,
        configured: Callable[[], Path],
        write: Callable[[str], None],
    ) -> None:
        self._resources = resources
        self._configured = configured
        self._write = write
        self._attempt: SwapAttempt | None = None
        self._client: bytes | None = None
        self._by = ""
        self._copies = 0
        self._previous = resources.state.bundle
        self._reload = False

    @property
    def active(self) -> bool:
        """Whether an attempt is in progress, so that the loop has to turn more often."""
        return self._attempt is not None

    @property
    def between(self) -> bool:
        """Whether the pipeline has neither the old processes nor the new ones."""
        return self._attempt is not None and self._attempt.between

    def holds(self, process: ManagedProcess) -> bool:
        """Whether an attempt replaces a process now, so that nothing else may change it."""
        return self._attempt is not None and self._attempt.holds(process)

    def reload(self) -> None:
        """Take the bundle that the configuration names now, at the next turn without an attempt."""
        self._reload = True

    def postpone(self, seconds: float) -> None:
        """Extend the deadlines, because the supervisor itself did not run for some time."""
        if self._attempt is not None:
            self._attempt.postpone(seconds)

    def request(self, client: bytes, request: Swap, *, ending: bool) -> None:
        """Begin an attempt for a client, or refuse it.

        Args:
            ending: whether the pipeline ends; requests are refused then.
        """
        find = functools.partial(Path, request.bundle) if request.bundle else self._configured
        refusal = self._begin(find, ending=ending)
        if refusal is not None:
            self._resources.control.answer(client, refusal)
        else:
            self._client, self._by = client, request.by

    def turn(self, now: float, *, ending: bool) -> None:
        """Do the next step of the attempt.

        Args:
            now: CLOCK_MONOTONIC.
            ending: whether the pipeline ends; no attempt begins then.
        """
        if self._reload and self._attempt is None:
            self._reload = False
            if (refusal := self._begin(self._configured, ending=ending)) is not None:
                _log(refusal)
        if self._attempt is not None and (outcome := self._attempt.turn(now)) is not None:
            self._finish(self._attempt, outcome)

    def end(self) -> None:
        """End an attempt because the pipeline ends. Processes that work already stay."""
        if self._attempt is not None and not self._attempt.on_trial:
            self._attempt.cancel()
        if self._client is not None:
            answer = Swapped(EXIT_FAULT, "the pipeline has ended", BUSY)
            self._resources.control.answer(self._client, answer)
        self._attempt = self._client = None

    def _begin(self, find: Callable[[], Path], *, ending: bool) -> Swapped | None:
        """Begin an attempt; returns the refusal where that is not possible."""
        if self._attempt is not None or ending:
            text = "busy: another swap is in progress or the pipeline ends"
            return Swapped(EXIT_FAULT, text, BUSY)
        current = self._resources.state.bundle
        self._copies += 1
        copy = self._resources.folder / f"bundle.{self._copies}"
        try:
            bundle = load_bundle(find())
            if bundle.id == current.id:
                return Swapped(EXIT_OK, f"{bundle.id} is already in use", DONE)
            check_grid(current, bundle)
            bundle = copy_bundle(bundle, copy)
            processes = [p for p in self._resources.processes if p.kind.uses_bundle]
            hub = self._resources.hub
            self._attempt = SwapAttempt(processes, current, bundle, hub, self._use, self._write)
        except UserError as error:
            shutil.rmtree(copy, ignore_errors=True)
            return Swapped(EXIT_USER, str(error), REFUSED, str(error))
        except (OSError, RuntimeError) as error:  # too many descriptors, processes or threads
            shutil.rmtree(copy, ignore_errors=True)
            reason = getattr(error, "strerror", None) or str(error)
            text = f"the new processes cannot be started ({reason})"
            return Swapped(EXIT_FAULT, text, REFUSED, text)
        return None

    def _use(self, bundle: Bundle) -> None:
        state = self._resources.state
        keep_gate = bundle.spec.gate == state.bundle.spec.gate
        state.bundle = bundle
        self._resources.hub.use(bundle.id, keep_gate=keep_gate)

    def _finish(self, attempt: SwapAttempt, outcome: Swapped) -> None:
        self._attempt = None
        _log(outcome)
        note_swap(self._resources.audit, outcome, self._by)
        self._by = ""
        if outcome.code == EXIT_OK:
            # The old bundle stays: an utterance that began under it may not have ended yet.
            if self._previous is not attempt.old:
                self._remove(self._previous)
            self._previous = attempt.old
        else:
            self._remove(attempt.new)
        if self._client is not None:
            self._resources.control.answer(self._client, outcome)
            self._client = None
        self._resources.hub.health_changed()

    def _remove(self, bundle: Bundle) -> None:
        """Remove a copy of a bundle that no process needs."""
        if bundle.path.parent == self._resources.folder:
            shutil.rmtree(bundle.path, ignore_errors=True)


def _log(outcome: Swapped) -> None:
    log.log(logging.ERROR if outcome.code else logging.INFO, "%s", outcome.text)

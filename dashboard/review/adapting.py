"""Adapts the bundle to the labels or undoes it: one child process at a time, with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from speech_emotion.common.bundle.adapted import is_adapted_from
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.linux.parent_death import die_with_parent
from speech_emotion.common.stage.control import ask
from speech_emotion.common.stage.jobs import ReviewOptions
from speech_emotion.common.wire.control_messages import Swap, Swapped
from speech_emotion.dashboard.review_messages import LabelGain, ReviewTask

DEADLINE_S = 120.0
"""Longest time in seconds that the child process may take."""
END_S = 2.0
"""Longest time in seconds that it may take to end after Ctrl-C."""
ADAPT, ROLL_BACK = "adapt", "roll back"


class Adapting:
    """Runs `train personal`, and lets the pipeline use the bundle that it wrote.

    Args:
        options: where labels and bundles are.
        control: control socket of the supervisor; None: the pipeline is not changed.
        deadline_s: longest time in seconds that the child process may take.

    Attributes:
        task: what runs, or what ran last; None: nothing yet.
    """

    def __init__(
        self, options: ReviewOptions, control: Path | None, deadline_s: float = DEADLINE_S
    ) -> None:
        self.task: ReviewTask | None = None
        self._options = options
        self._control = control
        self._deadline_s = deadline_s
        self._running: asyncio.Task[None] | None = None

    def start(self, name: str) -> bool:
        """Start a task by its name, `ADAPT` or `ROLL_BACK`; False while one runs."""
        if self._running is not None and not self._running.done():
            return False
        self.task = ReviewTask(name, "running", "")
        self._running = asyncio.create_task(self._run(name))
        return True

    async def close(self) -> None:
        """End the child process."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def _run(self, name: str) -> None:
        try:
            self.task = await (self._adapt() if name == ADAPT else self._roll_back())
        except UserError as error:
            self.task = ReviewTask(name, "failed", str(error))

    async def _adapt(self) -> ReviewTask:
        own, adapted = self._options.bundle, self._options.adapted
        words = ["--labels", str(self._options.labels)]
        if await run_in_threadpool(self._exists):
            words += ["--bundle", str(adapted)]
        else:
            words += ["--bundle", str(own), "--out", str(adapted)]
        table = await self._train(words)
        replaced = bool(table["replaced"])
        text = "not better on held-out labels: the bundle stays as it is"
        if replaced or adapted.exists():
            used = await self._use()
            text = used if replaced else text
        return ReviewTask(
            ADAPT,
            *("done", text, replaced),
            sum(table["counts"].values()),
            *(_gain(table[key]) for key in ("kept_back", "present")),
        )

    async def _roll_back(self) -> ReviewTask:
        await self._train(["--rollback", "--bundle", str(self._options.adapted)])
        return ReviewTask(ROLL_BACK, "done", await self._use(), replaced=True)

    def _exists(self) -> bool:
        """Whether there is an adapted bundle.

        Raises:
            UserError: it was made from another bundle, or one of them is not valid.
        """
        own, adapted = self._options.bundle, self._options.adapted
        if not adapted.exists():
            return False
        if not is_adapted_from(load_bundle(adapted), load_bundle(own)):
            raise UserError(f"{adapted}: was adapted from another bundle than {own}; move it away")
        return True

    async def _use(self) -> str:
        """Let the pipeline use the adapted bundle; the outcome in words."""
        if self._control is None:
            return "this page was not started by a pipeline: the bundle is used from the next start"
        request = Swap(str(self._options.adapted.resolve()))
        outcome: Swapped = await run_in_threadpool(ask, self._control, request, Swapped)
        if outcome.code != EXIT_OK:
            raise UserError(f"the bundle is used from the next start only: {outcome.text}")
        return outcome.text

    async def _train(self, words: list[str]) -> dict[str, Any]:
        """What `train personal` prints.

        Raises:
            UserError: it failed, or took too long.
        """
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", "10", sys.executable, "-m", "speech_emotion", "train", "personal"),
            *(*words, "--json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=lambda: die_with_parent(signal.SIGINT),
        )
        try:
            out, errors = await asyncio.wait_for(process.communicate(), self._deadline_s)
        except TimeoutError:
            raise UserError(f"it took longer than {self._deadline_s:g} s and was ended") from None
        finally:
            await _end(process)
        if process.returncode == EXIT_OK and out:
            table: dict[str, Any] = json.loads(out)
            return table
        lines = errors.decode("utf-8", "replace").splitlines()
        cause = lines[-1] if lines else f"exit code {process.returncode}"
        raise UserError(cause.partition("personal: ")[2] or cause)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process in an orderly way, so that it removes its temporary folder; else kill it."""
    for end in (signal.SIGINT, signal.SIGKILL):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(end)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_S)


def _gain(table: dict[str, Any] | None) -> LabelGain | None:
    if table is None:
        return None
    return LabelGain(
        *(table["before"], table["after"], tuple(table["interval"])),
        *(table["uar_before"], table["uar_after"], tuple(table["uar_interval"])),
    )

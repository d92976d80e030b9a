"""Workers for the inputs of a batch: started, fed, replaced when they die."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD
from speech_emotion.common.paths import IMPORT_ROOT
from speech_emotion.infer.batch.analysis import Outcome
from speech_emotion.infer.batch.parts import OutputError
from speech_emotion.infer.batch.setting import Setting

ATTEMPTS = 2
"""Workers that may die with the same input before it counts as its fault."""
MODULE = "speech_emotion.infer.batch.worker"


@dataclasses.dataclass
class Job:
    """An input and the workers that died with it.

    Attributes:
        number: its place in the run.
        known: parts that it has from earlier runs.
    """

    number: int
    name: str
    known: list[str]
    deaths: int = 0


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that a worker reports.

    Attributes:
        seconds, share: progress within the input.
        outcome: the input is done.
        death: how the last of `ATTEMPTS` workers died that had the input.
    """

    job: Job
    seconds: float = 0.0
    share: float = 0.0
    outcome: Outcome | None = None
    death: str | None = None


class Worker(Protocol):
    """A process that analyses one input at a time.

    Attributes:
        job: the input that it has.
        ready: it has begun, and takes inputs.
        ended: it has died.
    """

    job: Job | None
    ready: bool
    ended: bool

    def give(self, job: Job | None) -> None:
        """Give it the next input; None: it has done its part."""

    def answers(self) -> list[dict[str, Any]]:
        """What it has said since the last call, see `worker.py`; sets `ended` at its end."""
        ...

    @property
    def death(self) -> str:
        """How it ended, as a verb: `was killed`."""
        ...

    @property
    def lost(self) -> bool:
        """Whether its machine went with it: no fault of the input that it had."""
        ...

    def close(self) -> None:
        """End it at once; its input has no part then."""


class Crew(Protocol):
    """Starts workers, on this machine or on others.

    Attributes:
        size: workers that it can run at once.
    """

    @property
    def size(self) -> int: ...

    def start(self) -> Worker:
        """One more worker."""
        ...

    def news(self) -> list[Worker]:
        """Wait until workers have answers or have ended; these workers."""
        ...

    def remove(self, worker: Worker) -> None:
        """Forget a worker that has ended."""

    def close(self) -> None:
        """End what is left."""


class Pool:
    """Analyses jobs with several workers. Use it as a context manager: it leaves no process.

    Args:
        size: number of workers; None: as many as the crew can run.
    """

    def __init__(self, crew: Crew, size: int | None = None) -> None:
        self._crew = crew
        self._size = size or crew.size
        self._workers: list[Worker] = []
        self._failed_starts = 0

    def run(self, jobs: list[Job]) -> Iterator[Event]:
        """Events of all jobs, until each is done.

        Raises:
            UserError: the bundle or the model cannot be used.
            OutputError: the output cannot be written.
            RuntimeError: workers die before their first input, or no machine is left.
        """
        waiting = deque(jobs)
        left = len(jobs)
        for _ in range(min(self._size, len(jobs))):
            self._start()
        while left:
            for worker in self._crew.news():
                for answer in worker.answers():
                    if "fatal" in answer:
                        raise (UserError if answer["user"] else OutputError)(answer["fatal"])
                    job = worker.job
                    if "outcome" in answer:
                        assert job is not None
                        left -= 1
                        yield Event(job, outcome=Outcome(**answer["outcome"]))
                    elif "share" in answer:
                        assert job is not None
                        yield Event(job, answer["seconds"], answer["share"])
                        continue
                    worker.give(waiting.popleft() if waiting else None)
                if worker.ended:
                    job = self._remove(worker)
                    if job is not None and job.deaths < ATTEMPTS:
                        waiting.appendleft(job)
                    elif job is not None:
                        left -= 1
                        yield Event(job, death=worker.death)
                    if waiting:
                        self._resume(waiting)

    def _start(self) -> None:
        self._workers.append(self._crew.start())

    def _resume(self, waiting: deque[Job]) -> None:
        """Give the next input to a worker that has none; without one, start another.

        A worker without an input keeps its processor: a new one might wait for that for ever.
        """
        idle = [worker for worker in self._workers if worker.ready and worker.job is None]
        if idle:
            idle[0].give(waiting.popleft())
        else:
            self._start()

    def _remove(self, worker: Worker) -> Job | None:
        self._crew.remove(worker)
        self._workers.remove(worker)
        worker.close()
        if not worker.ready and not worker.lost:
            self._failed_starts += 1
            if self._failed_starts == ATTEMPTS:
                raise RuntimeError(f"a worker {worker.death} before its first input, twice")
        if worker.job is not None:
            worker.job.deaths += not worker.lost
        return worker.job

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._crew.close()


class Processes:
    """Workers as processes of this machine, one per processor."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._selector = selectors.DefaultSelector()

    @property
    def size(self) -> int:
        return len(os.sched_getaffinity(0))

    def start(self) -> Worker:
        process = _Process(self._setting)
        self._selector.register(process.stdout, selectors.EVENT_READ, process)
        return process

    def news(self) -> list[Worker]:
        return [key.data for key, _ in self._selector.select()]

    def remove(self, worker: Worker) -> None:
        assert isinstance(worker, _Process)
        self._selector.unregister(worker.stdout)

    def close(self) -> None:
        self._selector.close()


class _Process:
    """One process, and the input that it has."""

    lost = False

    def __init__(self, setting: Setting) -> None:
        path = os.pathsep.join(filter(None, [str(IMPORT_ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_BLAS_THREAD, "PYTHONPATH": path},
            process_group=0,
            bufsize=0,
        )
        assert self._process.stdout is not None
        self.stdout = self._process.stdout
        self.job: Job | None = None
        self.ready = False
        self.ended = False
        self._rest = b""
        self._send(dataclasses.asdict(setting))

    def give(self, job: Job | None) -> None:
        self.job = job
        if job is not None:
            self._send({"name": job.name, "known": job.known})

    def answers(self) -> list[dict[str, Any]]:
        chunk = os.read(self.stdout.fileno(), 1 << 16)
        self.ended = not chunk
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        found = [json.loads(line) for line in lines]
        self.ready = self.ready or any("ready" in answer for answer in found)
        return found

    @property
    def death(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"ended with exit code {code}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _send(self, values: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end is read from its answers
            self._process.stdin.write(json.dumps(values).encode() + b"\n")

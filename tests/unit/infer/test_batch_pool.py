"""The workers of a batch: what becomes of the input of one that dies."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from speech_emotion.infer.batch.pool import Job, Pool, Worker

READY: dict[str, Any] = {"ready": True}
DONE = {"outcome": {"part": "", "error": None, "seconds": 1.0}}
DIES, LOST = "dies", "lost"
Step = dict[str, Any] | str


class Scripted:
    """A worker that answers what a test says."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.ready = self.ended = self.lost = self.closed = False
        self.given: list[str] = []
        self.step: Step = READY

    death = "was killed"

    def give(self, job: Job | None) -> None:
        self.job = job
        if job is not None:
            self.given.append(job.name)

    def answers(self) -> list[dict[str, Any]]:
        if isinstance(self.step, str):
            self.ended, self.lost = True, self.step == LOST
            return []
        self.ready = True
        return [self.step]

    def close(self) -> None:
        self.closed = True


class Crew:
    """Workers that act in the order of a script: (number of the worker, what it does)."""

    size = 2

    def __init__(self, *script: tuple[int, Step]) -> None:
        self._script = deque(script)
        self.workers: list[Scripted] = []

    def start(self) -> Worker:
        self.workers.append(Scripted())
        return self.workers[-1]

    def news(self) -> list[Worker]:
        number, step = self._script.popleft()
        self.workers[number].step = step
        return [self.workers[number]]

    def remove(self, worker: Worker) -> None:
        pass

    def close(self) -> None:
        pass


def run(crew: Crew, names: str) -> list[tuple[str, str | None]]:
    """The inputs in the order of their ends, with the death that ended them."""
    with Pool(crew) as pool:
        events = list(pool.run([Job(k, name, []) for k, name in enumerate(names)]))
    assert all(worker.closed for worker in crew.workers)
    return [(event.job.name, event.death) for event in events]


def test_an_idle_worker_takes_the_input_of_one_that_dies() -> None:
    # A third one would wait for ever for the processor that the idle one keeps.
    crew = Crew((0, READY), (1, READY), (0, DONE), (1, DIES), (0, DONE))
    assert run(crew, "ab") == [("a", None), ("b", None)]
    assert [worker.given for worker in crew.workers] == [["a", "b"], ["b"]]


def test_an_input_that_two_workers_die_with_counts_as_the_cause() -> None:
    crew = Crew((0, READY), (1, READY), (0, DIES), (2, READY), (2, DIES), (1, DONE))
    assert run(crew, "ab") == [("a", "was killed"), ("b", None)]


def test_a_machine_that_is_lost_is_no_fault_of_its_input() -> None:
    losses: list[tuple[int, Step]] = []
    for k in range(5):
        losses += [(k, READY), (k, LOST)]
    assert run(Crew(*losses, (5, LOST), (6, READY), (6, DONE)), "a") == [("a", None)]


def test_workers_that_cannot_start_end_the_run() -> None:
    with pytest.raises(RuntimeError, match="was killed before its first input, twice"):
        run(Crew((0, DIES), (1, READY), (2, DIES)), "abc")

"""The trial of a new bundle: the first result decides, whatever dies in that moment."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK
from speech_emotion.supervision.restart_policy import ProcessState
from speech_emotion.supervision.swap_attempt import Phase, SwapAttempt
from tests.support.pipelines import BUNDLE
from tests.support.swaps import OTHER


class Dead:
    """A child that was killed."""

    def exit_code(self) -> int:
        return -9

    def last_line(self) -> None:
        return None

    def kill(self) -> None:
        """It is dead already."""


class Process:
    """A managed process with such a child."""

    name = "infer"

    def __init__(self) -> None:
        self.child: Dead | None = Dead()
        self.job = dataclasses.make_dataclass("Job", ["bundle"])(Path())
        self.lifecycle = SimpleNamespace(state=ProcessState.READY, start_again=lambda _: None)


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An attempt on trial whose infer process has just died, and the hub's counters."""
    monkeypatch.setattr(
        "speech_emotion.supervision.swap_attempt._job_with", lambda job, *_, **__: job
    )
    counters: Counter[str] = Counter()
    hub = SimpleNamespace(snapshot=lambda: SimpleNamespace(counters=counters, sources={}))
    used: list[str] = []
    attempt = SwapAttempt(
        [],
        load_bundle(BUNDLE),
        load_bundle(OTHER),
        hub,  # type: ignore[arg-type]
        lambda bundle: used.append(bundle.name),
        lambda _: None,
    )
    attempt.phase = Phase.TRIAL
    attempt._processes = [Process()]  # type: ignore[list-item]
    attempt._fresh = {"infer": Dead()}  # type: ignore[dict-item]
    return SimpleNamespace(attempt=attempt, counters=counters, used=used)


def test_a_bundle_that_has_given_a_result_stays(trial: Any) -> None:
    trial.counters["results_accepted"] = 1
    outcome = trial.attempt.turn(time.monotonic())
    assert outcome.code == EXIT_OK
    assert trial.used == []


def test_a_bundle_whose_process_dies_before_its_first_result_is_rolled_back(trial: Any) -> None:
    outcome = trial.attempt.turn(time.monotonic())
    assert outcome.code == EXIT_FAULT
    assert "rolled back" in outcome.text
    assert trial.used == ["small"]

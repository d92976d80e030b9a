"""The ledger: each verdict, and what a change of the bundle keeps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from speech_emotion.common.hub.ledger import Ledger, Verdict
from speech_emotion.common.wire import internal

OPEN = internal.Open("main", "run", "file:x", 16000, 16000, 8000)
FIRST = internal.Submit("main", "run", 0, None, [], False, [1.0], {"n": 1}, 0.0, "old@1")


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger("old@1")
    assert ledger.open(OPEN)
    return ledger


def test_a_stream_is_opened_once_per_run(ledger: Ledger) -> None:
    assert not ledger.open(OPEN)
    assert ledger.open(dataclasses.replace(OPEN, run="other"))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, Verdict.ACCEPTED),
        ({"stream": "other"}, Verdict.UNKNOWN),
        ({"run": "other"}, Verdict.UNKNOWN),
        ({"bundle": "new@2"}, Verdict.OTHER_BUNDLE),
        ({"forgets": 1}, Verdict.FORGOTTEN),
        ({"seq": 1}, Verdict.OUT_OF_ORDER),
        ({"seq": -1}, Verdict.DUPLICATE),
    ],
)
def test_only_the_next_result_of_the_run_and_bundle_is_accepted(
    ledger: Ledger, changes: dict[str, Any], verdict: Verdict
) -> None:
    assert ledger.submit(dataclasses.replace(FIRST, **changes)) is verdict


def test_a_stream_that_has_ended_accepts_nothing_more(ledger: Ledger) -> None:
    assert ledger.submit(dataclasses.replace(FIRST, ended=True)) is Verdict.ACCEPTED
    assert ledger.submit(FIRST) is Verdict.DUPLICATE
    assert ledger.streams["main"].accepted().ended


@pytest.mark.parametrize("keep", [True, False])
def test_another_bundle_keeps_the_decision_and_on_demand_the_gate(
    ledger: Ledger, keep: bool
) -> None:
    ledger.submit(FIRST)
    ledger.use("new@2", keep_gate=keep)
    resume = ledger.streams["main"].resume()
    assert resume.gate == ([1.0] if keep else [])
    assert (resume.bundle, resume.checkpoint_bundle) == ("new@2", "old@1")
    assert resume.decision == {"n": 1}
    assert ledger.submit(FIRST) is Verdict.OTHER_BUNDLE


def test_forgetting_removes_the_baseline_and_refuses_results_made_with_it() -> None:
    ledger = Ledger("old@1", baseline=True)
    for name in ("main", "hall", "over"):
        ledger.open(dataclasses.replace(OPEN, stream=name))
    made = dataclasses.replace(FIRST, decision={"n": 1, "baseline": {"seconds": 9.0}})
    ledger.submit(made)
    ledger.submit(dataclasses.replace(made, stream="over", ended=True))
    assert ledger.streams["main"].resume().baseline
    assert ledger.forget_baseline("hall") == {"hall": 0}
    assert ledger.forget_baseline(None) == {"main": 0, "hall": 0}
    resume = ledger.streams["main"].resume()
    assert resume.decision == {"n": 1, "baseline": None, "forgotten": True}
    assert [ledger.streams[name].forgets for name in ("main", "hall", "over")] == [1, 2, 0]
    assert ledger.submit(made) is Verdict.FORGOTTEN
    assert ledger.submit(dataclasses.replace(made, forgets=1)) is Verdict.ACCEPTED
    assert ledger.forget_baseline("nowhere") == {}

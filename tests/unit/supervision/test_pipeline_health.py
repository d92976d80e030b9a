"""`health` of the pipeline: a live stream without accepted results is degraded."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter

import pytest

from speech_emotion.common.hub.health import STALLED_S, pipeline_health
from speech_emotion.common.hub.observed import Snapshot
from speech_emotion.common.source_state import SourceState
from speech_emotion.common.wire import internal, public

SOURCE = internal.SourceStatus(
    stream="main",
    state=SourceState.LIVE.value,
    reason=None,
    state_s=60.0,
    device=None,
    position=0,
    level_db=-30.0,
    clipped=0.0,
    gaps=0,
    lost=0,
)


def health(accepted_s: float | None, source: internal.SourceStatus = SOURCE) -> public.Health:
    """`health` where the newest result was accepted so many seconds ago; None: none was."""
    accepted = {} if accepted_s is None else {"main": time.monotonic() - accepted_s}
    snapshot = Snapshot({}, {"main": source}, Counter(), {"main": "run"}, accepted, "bundle")
    return pipeline_health(snapshot, [])


@pytest.mark.parametrize("accepted_s", [None, STALLED_S + 1.0])
def test_a_live_stream_whose_results_stand_still_is_degraded(accepted_s: float | None) -> None:
    message = health(accepted_s)
    assert message.state == "degraded"
    (row,) = message.streams
    assert row.state == "live"
    assert "no result accepted" in (row.reason or "")


def test_a_stream_with_results_is_ok() -> None:
    message = health(STALLED_S - 1.0)
    assert message.state == "ok"
    assert message.streams[0].reason is None


def test_a_source_that_has_just_become_live_has_time_for_its_first_result() -> None:
    assert health(None, dataclasses.replace(SOURCE, state_s=STALLED_S - 1.0)).state == "ok"


def test_a_source_without_sound_gives_its_own_reason() -> None:
    lost = dataclasses.replace(SOURCE, state="lost", reason="unplugged")
    assert health(None, lost).streams[0].reason == "unplugged"
    assert health(None, dataclasses.replace(SOURCE, state="ended")).state == "ok"

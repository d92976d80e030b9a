"""The state that the page shows, without a server."""

from __future__ import annotations

import dataclasses
import json
import time

from speech_emotion.common.client.results import Event, Freshness, Status
from speech_emotion.common.wire import public
from speech_emotion.dashboard.live.live_state import RECENT_ROWS, STREAMS, UTTERANCES, LiveState
from tests.support.history import make_result, make_utterance
from tests.support.live_page import INFO, live
from tests.support.publisher import health, result


def test_greeting_has_all_but_the_past() -> None:
    live_state = LiveState({"history": True})
    assert json.loads(live_state.greeting())["latest"] == []
    for message in (INFO, live(4), live(5), make_utterance(5), health()):
        assert live_state.update(Event(message, False)) is not None
    live_state.update_statuses({"": Status(Freshness.DEGRADED, "why", 0.5)})
    hello = json.loads(live_state.greeting())
    assert hello["kind"] == "hello"
    assert hello["history"] is True
    assert hello["infos"] == [public.to_json_map(INFO)]
    assert [one["row"][0] for one in hello["latest"]] == [5]
    assert hello["latest"][0]["labels"] == ["angry", "sad"]
    assert hello["health"] == public.to_json_map(health())
    assert hello["statuses"] == [{"stream": "", "state": "degraded", "reason": "why", "age_s": 0.5}]
    recent = json.loads(live_state.recent("main"))
    assert [row[0] for row in recent["rows"]] == [4, 5]
    assert recent["labels"] == ["angry", "sad"]
    assert [one["emotion"] for one in recent["utterances"]] == ["sad"]
    assert json.loads(live_state.recent("hall")) == {"labels": [], "rows": [], "utterances": []}


def test_a_result_says_how_far_its_stream_is_adapted() -> None:
    for seconds in (None, 0.0, 12.34567):
        line = LiveState({}).update(Event(dataclasses.replace(live(1), baseline=seconds), False))
        assert line is not None
        assert json.loads(line)["baseline"] == (seconds and round(seconds, 4))


def test_replays_count_once_and_only_with_a_time() -> None:
    live_state = LiveState({})
    assert live_state.update(Event(result(3), True)) is None  # of unknown age
    assert live_state.update(Event(live(3), True)) is not None
    assert live_state.update(Event(live(3), True)) is None
    assert live_state.update(Event(live(4), False)) is not None
    assert live_state.update(Event(live(0, run="b"), False)) is not None  # another run
    assert live_state.update(Event(INFO, False)) is not None
    assert live_state.update(Event(INFO, True)) is None


def test_memory_is_bounded_for_any_input() -> None:
    live_state = LiveState({})
    for seq in range(RECENT_ROWS + 50):
        live_state.update(Event(live(seq), False))
        live_state.update(Event(make_utterance(seq), False))
    recent = json.loads(live_state.recent("main"))
    assert len(recent["rows"]) == RECENT_ROWS
    assert len(recent["utterances"]) == UTTERANCES
    for number in range(3 * STREAMS):
        name = f"s{number}"
        live_state.update(Event(live(0, stream=name), False))
        live_state.update(Event(dataclasses.replace(INFO, stream=name), False))
    hello = json.loads(live_state.greeting())
    assert len(hello["infos"]) == len(hello["latest"]) == STREAMS
    assert hello["latest"][-1]["stream"] == f"s{3 * STREAMS - 1}"


def test_old_windows_are_dropped_and_another_model_clears_the_rows() -> None:
    live_state = LiveState({})
    live_state.update(Event(dataclasses.replace(make_result(0), time=time.time() - 301.0), False))
    live_state.update(Event(live(1), False))
    assert [row[0] for row in json.loads(live_state.recent("main"))["rows"]] == [1]
    live_state.update(Event(live(2, smoothed={"calm": 0.5, "sad": 0.5}), False))
    recent = json.loads(live_state.recent("main"))
    assert (recent["labels"], [row[0] for row in recent["rows"]]) == (["calm", "sad"], [2])

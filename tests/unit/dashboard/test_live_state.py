"""The state that the page shows, without a server."""

from __future__ import annotations

import dataclasses
import json
import time

from speech_emotion.common.client.results import Event, Freshness, Status
from speech_emotion.common.wire import public
from speech_emotion.dashboard import messages
from speech_emotion.dashboard.history.reader import COLUMNS
from speech_emotion.dashboard.live.live_state import RECENT_ROWS, STREAMS, UTTERANCES, LiveState
from tests.support.history import make_result, make_utterance
from tests.support.live_page import INFO, live
from tests.support.publisher import health, result

SERVICE = messages.Service("1.0", "tcp://127.0.0.1:1", history=True, mute=False, recent_s=300.0)


def test_the_state_has_all_but_the_past() -> None:
    live_state = LiveState(SERVICE)
    assert live_state.state().streams == []
    for message in (INFO, live(4), live(5), make_utterance(5), health()):
        assert live_state.update(Event(message, False)) is not None
    live_state.update_statuses({"": Status(Freshness.DEGRADED, "why", 0.5)})
    state = json.loads(messages.to_json(live_state.state()))
    assert state["service"]["history"] is True
    (stream,) = state["streams"]
    assert stream["info"] == public.to_json_map(INFO)
    assert stream["latest"]["seq"] == 5
    assert stream["latest"]["smoothed"] == {"angry": 0.75, "sad": 0.25}
    assert state["health"] == public.to_json_map(health())
    assert state["statuses"] == [{"stream": "", "state": "degraded", "reason": "why", "age_s": 0.5}]
    recent = json.loads(live_state.recent("main"))
    assert [row[0] for row in recent["rows"]] == [4, 5]
    assert recent["labels"] == ["angry", "sad"]
    assert [one["emotion"] for one in recent["utterances"]] == ["sad"]
    nothing = {"columns": [*COLUMNS], "labels": [], "rows": [], "utterances": []}
    assert json.loads(live_state.recent("hall")) == nothing


def test_a_message_is_passed_on_as_it_was_sent() -> None:
    for message, replay in ((live(1), False), (make_utterance(5), True), (INFO, False)):
        change = LiveState(SERVICE).update(Event(message, replay))
        assert change is not None
        assert (change.kind, change.stream) == (message.topic, "main")
        sent = public.to_json_map(message) | ({"replay": True} if replay else {})
        assert json.loads(change.data) == sent


def test_replays_count_once_and_only_with_a_time() -> None:
    live_state = LiveState(SERVICE)
    assert live_state.update(Event(result(3), True)) is None  # of unknown age
    assert live_state.update(Event(live(3), True)) is not None
    assert live_state.update(Event(live(3), True)) is None
    assert live_state.update(Event(live(4), False)) is not None
    assert live_state.update(Event(live(0, run="b"), False)) is not None  # another run
    assert live_state.update(Event(INFO, False)) is not None
    assert live_state.update(Event(INFO, True)) is None


def test_memory_is_bounded_for_any_input() -> None:
    live_state = LiveState(SERVICE)
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
    streams = live_state.streams().streams
    assert len(streams) == STREAMS
    assert all(one.info and one.latest for one in streams)
    assert f"s{3 * STREAMS - 1}" in {one.name for one in streams}


def test_old_windows_are_dropped_and_another_model_clears_the_rows() -> None:
    live_state = LiveState(SERVICE)
    live_state.update(Event(dataclasses.replace(make_result(0), time=time.time() - 301.0), False))
    live_state.update(Event(live(1), False))
    assert [row[0] for row in json.loads(live_state.recent("main"))["rows"]] == [1]
    live_state.update(Event(live(2, smoothed={"calm": 0.5, "sad": 0.5}), False))
    recent = json.loads(live_state.recent("main"))
    assert (recent["labels"], [row[0] for row in recent["rows"]]) == (["calm", "sad"], [2])

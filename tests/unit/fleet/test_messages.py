"""Which messages of the hub become records, and each of them once."""

from __future__ import annotations

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.wire import public
from speech_emotion.fleet.messages import BOX, HEALTH_S, STATES, Intake, subject
from speech_emotion.fleet.store.numbers import Numbers
from tests.support.examples import examples
from tests.support.history import make_result, make_utterance
from tests.support.publisher import health, result

INFO = public.Info(
    *("main", "a", ["angry", "sad"], 16000, 8000, 16000, "none@00000000", "mic"),
)


def test_a_result_and_the_utterance_of_its_window_have_different_ids() -> None:
    intake = Intake({})
    (first,) = intake.feed(make_result(0), 0.0)
    (second,) = intake.feed(make_utterance(0), 0.0)
    assert (first.id, second.id) == ("main/a/0", "main/a/0/utterance")
    assert subject("home", "kitchen", first.stream, first.kind) == "sep.home.kitchen.main.result"
    assert json.loads(second.body) == public.to_json_map(make_utterance(0))


def test_what_comes_again_is_no_record_and_what_is_missing_is_counted() -> None:
    intake = Intake({})
    marks: dict[str, str] = {}
    for seq in (0, 1, 1, 0, 4):
        for record in intake.feed(make_result(seq), 0.0):
            assert record.mark is not None
            marks.update([record.mark])
    assert intake.lost == 2
    # The next process continues from what the outbox has kept.
    again = Intake(marks)
    assert again.feed(make_result(4), 0.0, replay=True) == []
    (record,) = again.feed(result(5, skipped=3), 0.0)
    assert record.mark == ("result/main/a", "8")
    assert again.lost == 0
    # A replay of an earlier run does not end the present one.
    again.feed(make_result(0, run="b"), 0.0)
    assert again.feed(make_result(3), 0.0, replay=True) == []
    assert len(again.feed(make_result(1, run="b"), 0.0)) == 1


def test_old_progress_is_forgotten() -> None:
    intake = Intake({})
    for number in range(STATES + 10):
        intake.feed(make_result(0, run=f"{number:x}"), 0.0)
    assert len(intake._states) == STATES


def test_events_are_changes() -> None:
    intake = Intake({})
    (run,) = intake.feed(INFO, 0.0)
    assert json.loads(run.body)["event"] == "run"
    assert intake.feed(INFO, 0.0, replay=True) == []
    live, lost = health(), health(source="lost")
    muted = dataclasses.replace(live, mute=public.Mute(["hand"], None, "by hand"))
    sent: list[tuple[str, str, object]] = []
    for number, message in enumerate((live, live, lost, muted, muted, live)):
        for record in intake.feed(message, float(number)):
            table = json.loads(record.body)
            if record.kind == "event":
                sent.append((record.stream, table["event"], table.get("state", table.get("muted"))))
    assert sent == [
        ("main", "source", "live"),
        ("main", "source", "lost"),
        ("main", "source", "live"),
        (BOX, "mute", True),
        (BOX, "mute", False),
    ]


def test_health_comes_when_it_changes_and_as_a_sign_of_life() -> None:
    intake = Intake({})
    kinds = [
        [record.kind for record in intake.feed(message, now, replay=replay)]
        for message, now, replay in (
            (health(), 0.0, True),
            (health(), 0.0, False),
            (health(), HEALTH_S - 0.1, False),
            (health(stage="failed"), HEALTH_S - 0.1, False),
            (health(stage="failed"), 2 * HEALTH_S, False),
        )
    ]
    assert [kind.count("health") for kind in kinds] == [0, 1, 0, 1, 1]


@examples(200)
@given(st.lists(st.integers(1, 30)))
def test_numbers_are_those_of_a_set(sequence: list[int]) -> None:
    numbers, known = Numbers(), set()
    for number in sequence:
        assert numbers.add("home.box", "outbox", number) == (number not in known)
        known.add(number)
    missing = max(known, default=0) - len(known)
    assert numbers.missing() == ({"home.box": missing} if missing else {})
    spans = Numbers(json.loads(json.dumps(numbers.to_json()))).to_json()
    for first, last in spans.get("home.box", {}).get("outbox", []):
        assert not {first - 1, last + 1} & known

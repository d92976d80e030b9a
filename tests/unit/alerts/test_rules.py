"""When a rule raises an alert: hysteresis, length, cool-down, quiet hours, restarts, gaps."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import zoneinfo
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.evaluation import Evaluation
from speech_emotion.alerts.rules import RuleState, judge
from speech_emotion.common.alert_rule import AlertRule
from speech_emotion.common.privacy.quiet_hours import QuietHours, parse_clock
from speech_emotion.common.wire import public
from tests.support.alert_messages import HOP_S, WINDOW_S, rule, utterance, window
from tests.support.history import T0

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NIGHT = (QuietHours(parse_clock("22:00"), parse_clock("07:00")),)
LEVELS = st.sampled_from([None, 0.0, 0.45, 0.55, 0.65, 0.9])
"""A gap, below `release`, between `release` and `threshold`, above `threshold`."""


def run(
    one: AlertRule,
    messages: Sequence[public.Result | public.Utterance],
    zone: datetime.tzinfo | None = datetime.UTC,
) -> tuple[list[Alert], int]:
    """The alerts of a stream, and the number of those that were suppressed."""
    evaluation = Evaluation([one], {}, zone)
    alerts = [alert for message in messages for alert in evaluation.feed(message, 0.0)]
    return alerts, evaluation.suppressed


def windows(values: Sequence[float | None], began: float = T0) -> list[public.Result]:
    return [window(seq, value, began=began) for seq, value in enumerate(values)]


def expected(one: AlertRule, values: Sequence[float | None]) -> set[int]:
    """Windows that must raise an alert, without cool-down and quiet hours, by trying all spans."""
    raising: set[int] = set()
    for last, value in enumerate(values):
        low = [n for n, v in enumerate(values[: last + 1]) if v is not None and v < one.release]
        episode = (low[-1] if low else -1) + 1
        if value is None or raising & set(range(episode, last)):
            continue
        for first in range(episode, last + 1):
            span = values[first : last + 1]
            opens = span[0] is not None and span[0] >= one.threshold
            long = HOP_S * (last - first) + WINDOW_S >= one.length_s
            if opens and long and all(v is not None and v >= one.release for v in span):
                raising.add(last)
    return raising


@given(values=st.lists(LEVELS, max_size=25), length=st.sampled_from([0.0, 1.5, 3.0]))
def test_an_episode_raises_one_alert_when_it_is_long_enough(
    values: list[float | None], length: float
) -> None:
    one = rule(length_s=length)
    alerts, suppressed = run(one, windows(values))
    assert {alert.seq for alert in alerts} == expected(one, values)
    assert suppressed == 0
    assert all(alert.seconds >= length for alert in alerts)


@given(
    values=st.lists(LEVELS, max_size=40),
    watch=st.sampled_from(["windows", "utterances"]),
    cool_down=st.sampled_from([0.0, 2.0, 5.0]),
    data=st.data(),
)
def test_restarts_neither_repeat_nor_lose_an_alert(
    values: list[float | None], watch: str, cool_down: float, data: st.DataObject
) -> None:
    """A killed process continues from its last commit, and gets older messages again."""
    one = rule(watch=watch, cool_down_s=cool_down, length_s=1.0)
    messages: list[public.Result | public.Utterance] = list(windows(values))
    if watch == "utterances":
        messages = [utterance(seq, value or 0.0) for seq, value in enumerate(values)]
    whole, _ = run(one, messages)
    evaluation, kept = Evaluation([one], {}, datetime.UTC), dict[tuple[str, str], RuleState]()
    raised: list[Alert] = []
    at = committed = 0
    while at < len(messages):
        alerts = evaluation.feed(messages[at], 0.0)
        at += 1
        raised += alerts
        if bool(alerts) or data.draw(st.booleans()):
            kept, committed = dict(evaluation.states), at  # alerts are committed with their states
        elif data.draw(st.booleans()):
            evaluation = Evaluation([one], kept, datetime.UTC)
            at = data.draw(st.integers(0, committed))
    assert raised == whole


@given(values=st.lists(LEVELS, max_size=60), cool_down=st.sampled_from([1.0, 4.0, 10.0]))
def test_alerts_are_at_least_the_cool_down_apart(
    values: list[float | None], cool_down: float
) -> None:
    alerts, suppressed = run(rule(cool_down_s=cool_down), windows(values))
    times = [alert.time for alert in alerts]
    assert all(later - earlier >= cool_down for earlier, later in itertools.pairwise(times))
    free, _ = run(rule(), windows(values))
    assert len(alerts) + suppressed <= len(free)
    assert not free or alerts[0] == free[0]  # the first one is never held back


@given(
    values=st.lists(LEVELS.filter(lambda value: value is not None), max_size=60),
    minute=st.integers(0, 1439),
)
def test_quiet_hours_are_silent(values: list[float | None], minute: int) -> None:
    began = T0 - T0 % 86400.0 + 60.0 * minute - 10.0
    quiet = (QuietHours(minute, (minute + 1) % 1440 or 1),)
    one = rule(quiet_hours=quiet)
    alerts, suppressed = run(one, windows(values, began))
    assert all((alert.time % 86400.0) // 60 != minute for alert in alerts)
    free, _ = run(rule(), windows(values, began))
    early = [alert for alert in free if alert.time < began + 10.0]
    assert alerts[: len(early)] == early
    assert len(alerts) + suppressed <= len(free)


@pytest.mark.parametrize("night", ["2026-07-01", "2026-03-28", "2026-10-24"])
def test_an_episode_that_outlasts_the_night_raises_its_alert_in_the_morning(night: str) -> None:
    """Also in the nights in which the clock is set forward or back."""
    evening = datetime.datetime.fromisoformat(f"{night} 21:59").replace(tzinfo=BERLIN)
    morning = (evening + datetime.timedelta(days=1)).replace(hour=7, minute=0)
    began = evening.timestamp() + 120.0
    one = rule(quiet_hours=NIGHT)
    seqs = range(0, 40000, 20)
    last = round((morning.timestamp() - began) / HOP_S) + 40
    state, raised = RuleState("a", 0), []
    for seq in [*seqs, *range(last - 60, last)]:
        message = window(seq, 0.8, began=began)
        state = dataclasses.replace(state, next=seq)  # none is missing
        verdict = judge(one, state, message, message.time or 0.0, BERLIN)
        state = verdict.state
        raised += [verdict.alert] if verdict.alert else []
    (alert,) = raised
    assert 0.0 <= alert.time - morning.timestamp() < HOP_S
    assert alert.seconds > 7.9 * 3600


def test_an_episode_that_ends_in_quiet_hours_is_counted_as_suppressed() -> None:
    began = datetime.datetime(2026, 7, 1, 23, tzinfo=BERLIN).timestamp()
    alerts, suppressed = run(
        rule(quiet_hours=NIGHT), windows([0.0, 0.8, 0.8, 0.0, 0.8, 0.0], began), BERLIN
    )
    assert (alerts, suppressed) == ([], 2)


def test_an_episode_that_outlasts_the_cool_down_raises_its_alert_then() -> None:
    values = [0.8, 0.0, *[0.8] * 20]
    alerts, suppressed = run(rule(cool_down_s=5.0), windows(values))
    assert [alert.time - T0 for alert in alerts] == [WINDOW_S, WINDOW_S + 5.0]
    assert suppressed == 0


@pytest.mark.parametrize("back", [3600.0, 86400.0])
def test_a_clock_that_is_set_back_does_not_prolong_the_cool_down(back: float) -> None:
    state = RuleState("a", 5, fired=T0)
    verdict = judge(rule(cool_down_s=60.0), state, window(5, 0.8), T0 - back)
    assert verdict.alert is not None


def test_a_new_run_starts_the_length_anew_and_keeps_the_cool_down() -> None:
    one = rule(length_s=2.0, cool_down_s=60.0)
    evaluation = Evaluation([one], {}, datetime.UTC)
    fired = [a for m in windows([0.8] * 5) for a in evaluation.feed(m, 0.0)]
    assert [alert.seq for alert in fired] == [2]
    again = [window(seq, 0.8, run="b", began=T0 + 10.0) for seq in range(5)]
    assert not [a for m in again for a in evaluation.feed(m, 0.0)]
    later = [window(seq, 0.8, run="c", began=T0 + 100.0) for seq in range(5)]
    (alert,) = [a for m in later for a in evaluation.feed(m, 0.0)]
    assert (alert.run, alert.seq) == ("c", 2)
    assert evaluation.suppressed == 1  # the episode of run b


def test_a_gap_interrupts_the_length_and_no_episode() -> None:
    one = rule(length_s=2.0)
    alerts, _ = run(one, windows([0.8, 0.8, None, 0.8, 0.8, 0.8, 0.8, None, 0.8, 0.8, 0.8, 0.8]))
    assert [alert.seq for alert in alerts] == [5]
    missing = [window(seq, 0.8) for seq in (0, 1, 4, 5, 6, 7)]  # 2 and 3 never arrived
    assert [alert.seq for alert in run(one, missing)[0]] == [6]


def test_only_a_window_with_the_label_begins_an_episode() -> None:
    """A label may have a high probability and another one may win."""
    other = dataclasses.replace(window(0, 0.7), emotion="sad")
    assert run(rule(), [other])[0] == []
    assert len(run(rule(), [other, window(1, 0.7), window(2, 0.7)])[0]) == 1


def test_a_level_counts_in_silence_as_well() -> None:
    loud = rule(label=None, dimension="level", threshold=-20.0, release=-23.0, length_s=1.5)
    quiet = dataclasses.replace(window(0, 0.0), state="silence", smoothed=None, emotion=None)
    sound = [
        dataclasses.replace(quiet, seq=seq, start=seq * 8000, end=seq * 8000 + 16000, rms_db=level)
        for seq, level in enumerate([-60.0, -19.0, -22.0, -24.0, -21.0, -10.0, -10.0])
    ]
    alerts, _ = run(loud, sound)
    assert [(alert.seq, alert.value) for alert in alerts] == [(2, -22.0), (6, -10.0)]
    assert alerts[0].text == "main has a level of -22 dBFS for 1.5 s."


def test_a_dimension_of_the_bundle_counts_while_there_is_speech() -> None:
    lively = rule(label=None, dimension="arousal", threshold=0.7, release=0.6, length_s=1.5)
    heard = [
        dataclasses.replace(window(seq, 0.1), dimensions=None if x is None else {"arousal": x})
        for seq, x in enumerate([0.8, None, 0.7, 0.65, 0.65, 0.9])
    ]
    alerts, _ = run(lively, heard)
    assert [(alert.seq, alert.value) for alert in alerts] == [(3, 0.65)]
    assert alerts[0].text == "main has an arousal of 0.65 for 1.5 s."


def test_utterances_need_label_confidence_and_length() -> None:
    one = rule(watch="utterances", length_s=1.5, cool_down_s=10.0)
    spoken = [
        utterance(0, 0.55),
        utterance(1, 0.1),
        utterance(2, 0.8, seconds=1.4),
        utterance(3, 0.8),
        utterance(4, 0.8),  # within the cool-down
        utterance(20, 0.8),
    ]
    alerts, suppressed = run(one, spoken)
    assert [alert.seq for alert in alerts] == [3, 20]
    assert suppressed == 1
    assert alerts[0].text == (
        "main sounds angry for 1.5 s (80% likely, by the model's own estimate)."
    )


def test_a_rule_of_one_stream_ignores_others_and_streams_do_not_mix() -> None:
    other = window(0, 0.8, stream="hall")
    assert run(rule(stream="kitchen"), [other, window(0, 0.8)])[0] == []
    alerts, _ = run(rule(cool_down_s=100.0), [other, window(0, 0.8)])
    assert [alert.stream for alert in alerts] == ["hall", "main"]
    assert len({alert.id for alert in alerts}) == 2


def test_without_a_time_the_arrival_counts() -> None:
    evaluation = Evaluation([rule()], {}, datetime.UTC)
    (alert,) = evaluation.feed(dataclasses.replace(window(0, 0.8), time=None), 1234.0)
    assert alert.time == 1234.0
    assert Alert.from_json(alert.to_json()) == alert


def test_windows_that_never_arrived_are_counted_over_a_restart() -> None:
    evaluation = Evaluation([rule()], {})
    for seq in (0, 1, 4):
        evaluation.feed(window(seq, 0.0), 0.0)
    assert evaluation.lost == 2
    restarted = Evaluation([rule(name="another")], evaluation.states)
    for seq in (3, 4, 7):
        restarted.feed(window(seq, 0.0), 0.0)
    assert restarted.lost == 2
    assert ("anger", "main") not in restarted.states


def test_each_change_of_a_state_is_taken_once() -> None:
    one = rule()
    evaluation = Evaluation([one], {}, datetime.UTC)
    for message in windows([0.9, 0.9]):
        evaluation.feed(message, 0.0)
    stream = window(0, 0.9).stream
    changes = evaluation.take_changes()
    assert changes == evaluation.states
    assert set(changes) == {("", stream), (one.name, stream)}
    assert evaluation.take_changes() == {}
    evaluation.feed(window(2, 0.9), 0.0)
    assert ("", stream) in evaluation.take_changes()

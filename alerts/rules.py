"""When a rule raises an alert: a pure function of its state and the next message of a stream.

Messages may come again after a restart, and some may be missing. `RuleState.next` says which were
judged already, so a message that comes twice changes nothing.
"""

from __future__ import annotations

import dataclasses
import datetime

from speech_emotion.alerts.alert import Alert, alert_id
from speech_emotion.common.alert_rule import LEVEL, AlertRule
from speech_emotion.common.privacy.quiet_hours import quiet_until
from speech_emotion.common.wire import public


@dataclasses.dataclass(frozen=True)
class RuleState:
    """State of one rule in one stream; an episode is the time from `threshold` to below `release`.

    Attributes:
        run: run of the stream.
        next: least `seq` that was not judged yet.
        since: first sample of the episode; None: there is none, or a gap interrupted it.
        raised: the episode has raised its alert.
        held: the episode is long enough, but cool-down or quiet hours hold its alert back.
        fired: unix time of the last alert in seconds; None: there was none.
    """

    run: str = ""
    next: int = 0
    since: int | None = None
    raised: bool = False
    held: bool = False
    fired: float | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a message has changed.

    Attributes:
        state: the state after it.
        alert: the alert that it raises.
        suppressed: an alert was due, and cool-down or quiet hours suppressed it for good.
    """

    state: RuleState
    alert: Alert | None = None
    suppressed: bool = False


def judge(
    rule: AlertRule,
    state: RuleState,
    message: public.Result | public.Utterance,
    now: float,
    zone: datetime.tzinfo | None = None,
) -> Verdict:
    """Judge the next message of a stream.

    Args:
        message: of the kind that the rule watches; others change nothing.
        now: unix time of the message in seconds.
        zone: time zone of the quiet hours; None: of this machine.
    """
    watched = public.Utterance if rule.watch == "utterances" else public.Result
    if not isinstance(message, watched) or rule.stream not in (None, message.stream):
        return Verdict(state)
    if message.run != state.run:  # the sample count has begun anew
        suppressed = state.held and not state.raised
        state = RuleState(message.run, message.seq, fired=state.fired)
        verdict = _judged(rule, state, message, now, zone)
        return dataclasses.replace(verdict, suppressed=verdict.suppressed or suppressed)
    if message.seq < state.next:
        return Verdict(state)
    return _judged(rule, state, message, now, zone)


def blocked(
    rule: AlertRule, state: RuleState, now: float, zone: datetime.tzinfo | None = None
) -> bool:
    """Whether cool-down or quiet hours hold an alert back.

    A clock that was set back by more than the cool-down does not prolong it.
    """
    cooling = state.fired is not None and abs(now - state.fired) < rule.cool_down_s
    return cooling or quiet_until(rule.quiet_hours, now, zone) is not None


def _judged(
    rule: AlertRule,
    state: RuleState,
    message: public.Result | public.Utterance,
    now: float,
    zone: datetime.tzinfo | None,
) -> Verdict:
    if isinstance(message, public.Utterance):
        return _utterance(rule, state, message, now, zone)
    return _window(rule, state, message, now, zone)


def _utterance(
    rule: AlertRule,
    state: RuleState,
    utterance: public.Utterance,
    now: float,
    zone: datetime.tzinfo | None,
) -> Verdict:
    state = dataclasses.replace(state, next=utterance.seq + 1)
    seconds = (utterance.end - utterance.start) / utterance.rate
    fits = utterance.emotion == rule.label and utterance.confidence >= rule.threshold
    if not fits or seconds < rule.length_s:
        return Verdict(state)
    if blocked(rule, state, now, zone):
        return Verdict(state, suppressed=True)
    state = dataclasses.replace(state, fired=now)
    return Verdict(state, _alert(rule, utterance, utterance.confidence, seconds, now))


def _window(
    rule: AlertRule,
    state: RuleState,
    result: public.Result,
    now: float,
    zone: datetime.tzinfo | None,
) -> Verdict:
    value, missing = _value(rule, result), result.seq > state.next
    state = dataclasses.replace(state, next=result.next_seq)
    if value is None or missing:
        # Nothing is known of a gap: the length is counted anew, and the episode may go on after it.
        state = dataclasses.replace(state, since=None)
    if value is None:
        return Verdict(state)
    if value < rule.release:
        suppressed = state.held and not state.raised
        ended = dataclasses.replace(state, since=None, raised=False, held=False)
        return Verdict(ended, suppressed=suppressed)
    begins = value >= rule.threshold and rule.label in (None, result.emotion)
    if state.since is None and (begins or state.held):
        state = dataclasses.replace(state, since=result.start)
    if state.since is None or state.raised:
        return Verdict(state)
    seconds = (result.end - state.since) / result.rate
    if seconds < rule.length_s and not state.held:
        return Verdict(state)
    if blocked(rule, state, now, zone):
        return Verdict(dataclasses.replace(state, held=True))
    state = dataclasses.replace(state, raised=True, held=False, fired=now)
    return Verdict(state, _alert(rule, result, value, seconds, now))


def _value(rule: AlertRule, result: public.Result) -> float | None:
    """The value that the rule watches; None where nothing is known of the window."""
    if result.state == "gap":
        return None
    if rule.label is None:
        if rule.dimension == LEVEL:
            return result.rms_db
        return (result.dimensions or {}).get(str(rule.dimension), 0.0)
    return (result.smoothed or {}).get(rule.label, 0.0)


def _alert(
    rule: AlertRule,
    message: public.Result | public.Utterance,
    value: float,
    seconds: float,
    now: float,
) -> Alert:
    return Alert(
        id=alert_id(rule.name, message.stream, message.run, message.seq),
        rule=rule.name,
        stream=message.stream,
        label=rule.label,
        dimension=rule.dimension,
        value=round(value, 4),
        threshold=rule.threshold,
        time=now,
        seconds=round(seconds, 3),
        run=message.run,
        seq=message.seq,
        bundle=message.bundle,
    )

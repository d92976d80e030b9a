"""All rules in all streams: which alerts a message raises, and what was counted. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.rules import RuleState, judge
from speech_emotion.common.alert_rule import AlertRule
from speech_emotion.common.wire import public

Key: TypeAlias = tuple[str, str]
"""Name of a rule and of a stream; the name "" is the progress of the stream itself."""


class Evaluation:
    """The states of all rules.

    Args:
        rules: the rules.
        states: of an earlier process; those of unknown rules are ignored.
        zone: time zone of the quiet hours; None: of this machine.

    Attributes:
        states: the states now.
        suppressed: alerts that cool-down or quiet hours suppressed.
        lost: windows that were published and did not arrive.
    """

    def __init__(
        self,
        rules: Sequence[AlertRule],
        states: Mapping[Key, RuleState],
        zone: datetime.tzinfo | None = None,
    ) -> None:
        names = {"", *(rule.name for rule in rules)}
        self.states = {key: state for key, state in states.items() if key[0] in names}
        self.suppressed = 0
        self.lost = 0
        self._changed: set[Key] = set()
        self._rules = rules
        self._zone = zone

    def feed(self, message: public.Result | public.Utterance, arrived: float) -> list[Alert]:
        """The alerts that a message raises.

        Args:
            message: the next one of its stream, or one that has come before.
            arrived: unix time in seconds, for a message that has no time itself.
        """
        now = message.time if message.time is not None else arrived
        if isinstance(message, public.Result):
            self._count_lost(message)
        alerts = []
        for rule in self._rules:
            key = rule.name, message.stream
            before = self.states.get(key, RuleState())
            verdict = judge(rule, before, message, now, self._zone)
            if verdict.state != before:
                self._set(key, verdict.state)
            self.suppressed += verdict.suppressed
            if verdict.alert is not None:
                alerts.append(verdict.alert)
        return alerts

    def take_changes(self) -> dict[Key, RuleState]:
        """The states that have changed since the last call."""
        changes = {key: self.states[key] for key in self._changed}
        self._changed.clear()
        return changes

    def _count_lost(self, result: public.Result) -> None:
        key = "", result.stream
        known = self.states.get(key)
        if known is not None and known.run == result.run:
            if result.seq < known.next:
                return
            self.lost += result.seq - known.next
        self._set(key, RuleState(result.run, result.next_seq))

    def _set(self, key: Key, state: RuleState) -> None:
        self.states[key] = state
        self._changed.add(key)

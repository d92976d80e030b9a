"""What is published to NATS: subjects, ids, bodies, and which messages of the hub become records.

Pure. docs/FLEET.md describes the records.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from speech_emotion import __version__
from speech_emotion.common.wire import public

STREAM = "SEP"
"""Name of the JetStream stream, on boxes and on the centre."""
ROOT = "sep"
BOX = "BOX"
"""Stands for the stream in subjects of the whole box; no stream can have this name."""
ROLLOUT = "ROLLOUT"
"""The same for reports of roll-outs: the newest message of the subject is the newest report."""
RESULT, UTTERANCE, EVENT, HEALTH = KINDS = ("result", "utterance", "event", "health")
NUMBER_HEADER = "Sep-Number"
"""`OUTBOX/NUMBER`: the messages of one outbox are numbered without a hole."""
DUPLICATE_S = 600.0
"""Time in which a server drops a message whose id it has; longer than the hub's 600 results, which
a restarted publisher gets again."""
HEALTH_S = 10.0
"""Interval of an unchanged `health`; a changed one is published at once."""
STATES = 5000
"""Progress rows that are kept; the oldest are forgotten."""


@dataclasses.dataclass(frozen=True)
class Record:
    """A message to publish.

    Attributes:
        stream: name of the stream, or `BOX`.
        kind: one of `KINDS`.
        body: JSON.
        id: `Nats-Msg-Id`; None: made from its number in the outbox.
        mark: key and value of the state that the outbox keeps with it.
    """

    stream: str
    kind: str
    body: bytes
    id: str | None = None
    mark: tuple[str, str] | None = None


def subject(site: str, box: str, stream: str, kind: str) -> str:
    """`sep.SITE.BOX.STREAM.KIND`."""
    return f"{ROOT}.{site}.{box}.{stream}.{kind}"


class Intake:
    """Turns messages of the hub into records, each of them once.

    Args:
        states: of an earlier process, from its outbox.

    Attributes:
        lost: windows that were published and did not arrive.
    """

    def __init__(self, states: Mapping[str, str]) -> None:
        self.lost = 0
        self._states = dict(states)
        self._shape: tuple[Any, ...] = ()
        self._health_due = 0.0

    def feed(self, message: public.Public, now: float, *, replay: bool = False) -> list[Record]:
        """The records of a message; none where it is known.

        Args:
            now: CLOCK_MONOTONIC in seconds.
            replay: it was published before this process subscribed.
        """
        match message:
            case public.Result():
                return self._result(message)
            case public.Utterance():
                return self._utterance(message)
            case public.Info():
                table = {"event": "run", **public.to_json_map(message)}
                return self._changed(message.stream, "run", json.dumps(table), table)
            case public.Health() if not replay:
                return self._health(message, now)
        return []

    def rollout(self, report: Mapping[str, Any], time: float) -> list[Record]:
        """The record of a report, where it differs from the newest one.

        Args:
            report: `fleet.rollout.orders.Report` as a table.
            time: unix time in seconds.
        """
        table = {"v": 1, "event": "rollout", "time": time, **report}
        return self._changed(ROLLOUT, "rollout", json.dumps(report), table)

    @property
    def has_rollout(self) -> bool:
        """Whether a report was published ever."""
        return f"{EVENT}/rollout/{ROLLOUT}" in self._states

    def _result(self, result: public.Result) -> list[Record]:
        key = f"{RESULT}/{result.stream}/{result.run}"
        known = int(self._states.get(key, 0))
        if result.seq < known:
            return []
        self.lost += result.seq - known
        mark = self._mark(key, str(result.next_seq))
        message_id = f"{result.stream}/{result.run}/{result.seq}"
        return [Record(result.stream, RESULT, _body(result), message_id, mark)]

    def _utterance(self, utterance: public.Utterance) -> list[Record]:
        key = f"{UTTERANCE}/{utterance.stream}/{utterance.run}"
        if utterance.seq < int(self._states.get(key, 0)):
            return []
        mark = self._mark(key, str(utterance.seq + 1))
        # A result has the same run and seq.
        message_id = f"{utterance.stream}/{utterance.run}/{utterance.seq}/{UTTERANCE}"
        return [Record(utterance.stream, UTTERANCE, _body(utterance), message_id, mark)]

    def _health(self, health: public.Health, now: float) -> list[Record]:
        records = []
        for row in health.streams:
            table = {
                "v": 1,
                "event": "source",
                "stream": row.name,
                "run": row.run,
                "time": health.time,
                "state": row.state,
                "reason": row.reason,
            }
            records += self._changed(row.name, "source", f"{row.run} {row.state}", table)
        mute = health.mute
        text = "" if mute is None else mute.text
        table = {
            "v": 1,
            "event": "mute",
            "time": health.time,
            "muted": mute is not None,
            "by": [] if mute is None else mute.by,
            "text": text,
        }
        records += self._changed(BOX, "mute", "" if mute is None else " ".join(mute.by), table)
        shape = (
            *(health.state, mute),
            *((s.name, s.state, s.restarts, s.reason) for s in health.stages),
            *((s.name, s.state, s.reason) for s in health.streams),
        )
        if shape != self._shape or now >= self._health_due:
            self._shape, self._health_due = shape, now + HEALTH_S
            table = {**public.to_json_map(health), "version": __version__}
            records.append(Record(BOX, HEALTH, _text(table)))
        return records

    def _changed(self, stream: str, event: str, value: str, table: dict[str, Any]) -> list[Record]:
        """An event, where its value differs from the newest one."""
        key = f"{EVENT}/{event}/{stream}"
        if self._states.get(key, "") == value:
            return []
        mark = self._mark(key, value)
        return [Record(stream, EVENT, json.dumps(table).encode(), mark=mark)]

    def _mark(self, key: str, value: str) -> tuple[str, str]:
        self._states.pop(key, None)  # the newest are last
        self._states[key] = value
        if len(self._states) > STATES:
            del self._states[next(iter(self._states))]
        return key, value


def _body(message: public.Public) -> bytes:
    return _text(public.to_json_map(message))


def _text(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table, ensure_ascii=False).encode()

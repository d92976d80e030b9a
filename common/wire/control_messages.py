"""Requests to the supervisor and to the alerts process, and their answers; see `internal`."""

from __future__ import annotations

import dataclasses

from speech_emotion.common.wire.codec import Message


@dataclasses.dataclass(frozen=True)
class Swap(Message):
    """`supervisor.py swap`, page or fleet → supervisor: continue with the bundle in this folder.

    Empty: with the one that a restart would use. `by`: who asks, for the audit log.
    """

    bundle: str
    by: str = ""


@dataclasses.dataclass(frozen=True)
class ForgetBaseline(Message):
    """`speech-emotion baseline forget` → supervisor: forget the baseline of a stream; None: all."""

    stream: str | None


@dataclasses.dataclass(frozen=True)
class Swapped(Message):
    """The answer to a request when it is done: an exit code and one line of text.

    `outcome` of a swap is one of `states.OUTCOMES`, `reason` why it is not `DONE`.
    """

    code: int
    text: str
    outcome: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class SetMute(Message):
    """`speech-emotion mute`, or the page → supervisor: mute or unmute by hand.

    Attributes:
        seconds: length of the mute; None: until it is unmuted.
        by: where the request came from, for the audit log.
    """

    muted: bool
    seconds: float | None
    by: str


@dataclasses.dataclass(frozen=True)
class MuteSet(Message):
    """The answer to `SetMute` when capture has obeyed: an exit code and one line of text."""

    code: int
    text: str


@dataclasses.dataclass(frozen=True)
class AskHealth(Message):
    """`speech-emotion health` → supervisor: the answer is the public message `Health`."""


@dataclasses.dataclass(frozen=True)
class LogIn(Message):
    """page → supervisor, for the audit log: a token or a key arrived from `address`.

    Attributes:
        key: name of the API key; empty: a key that is not known; None: a token.
        asked: what the key was used for.
    """

    accepted: bool
    address: str
    key: str | None = None
    asked: str | None = None


@dataclasses.dataclass(frozen=True)
class AskAlerts(Message):
    """page or command → alerts: rules and newest deliveries.

    Attributes:
        test: name of a rule of which a test is sent first; None: none is.
    """

    test: str | None = None


@dataclasses.dataclass(frozen=True)
class AlertRow(Message):
    """A rule that raises alerts.

    Attributes:
        name: its name.
        condition: when it raises an alert, in words.
        to: its addresses, without credentials.
        waiting: alerts that are not delivered yet.
        fired: unix time of the last alert in seconds; null: there was none.
        quiet_until: unix time of the end of the present quiet hours; null outside them.
    """

    name: str
    condition: str
    to: list[str]
    waiting: int
    fired: float | None
    quiet_until: float | None


@dataclasses.dataclass(frozen=True)
class DeliveryRow(Message):
    """An alert to one address.

    Attributes:
        id: of the alert.
        rule: name of its rule.
        to: the address, without credentials.
        time: unix time in seconds of what it reports.
        text: what it says.
        test: a person asked for it.
        state: `waiting`, `delivered` or `given up`.
        attempts: attempts that have ended.
        failure: why the last attempt failed; null where it did not.
    """

    id: str
    rule: str
    to: str
    time: float
    text: str
    test: bool
    state: str
    attempts: int
    failure: str | None


@dataclasses.dataclass(frozen=True)
class AlertsState(Message):
    """The rules of alerts, and what was sent.

    Attributes:
        rules: in the order of the configuration.
        deliveries: the newest 50, the newest first.
    """

    rules: list[AlertRow]
    deliveries: list[DeliveryRow]


@dataclasses.dataclass(frozen=True)
class ReviewAct(Message):
    """page → supervisor, for the audit log: what a person at `address` did in the review.

    Attributes:
        act: `keep asked`, `sound fetched`, `label taken`, `sound deleted`, `adaptation asked` or
            `rollback asked`.
        stream: of the utterance; None where the act is about no utterance.
        label: what the person says; None where the act is no label.
    """

    act: str
    address: str
    stream: str | None = None
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Reconfigure(Message):
    """page → supervisor: take the settings that the configuration has now, or only check them.

    Attributes:
        file: check this file in place of the configuration's; None: the configuration's own.
        take: whether to take them; else nothing changes.
        by: where the request came from, for the audit log.
    """

    file: str | None
    take: bool
    by: str


@dataclasses.dataclass(frozen=True)
class Reconfigured(Message):
    """The answer to `Reconfigure`: an exit code.

    Attributes:
        text: why the configuration is refused, in one line; empty where it is not.
        key: the key that is wrong; empty where it is none alone.
        waiting: keys that the configuration changes at the next start.
    """

    code: int
    text: str
    key: str
    waiting: list[str]

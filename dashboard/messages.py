"""What the HTTP interface sends beside the public messages. docs/API_HTTP.md is made from it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from speech_emotion.common.wire import public
from speech_emotion.common.wire.codec import Message
from speech_emotion.common.wire.control_messages import AlertRow as AlertRow
from speech_emotion.common.wire.control_messages import AlertsState as AlertsState
from speech_emotion.common.wire.control_messages import DeliveryRow as DeliveryRow
from speech_emotion.dashboard.review_messages import Done as Done
from speech_emotion.dashboard.review_messages import KeepableUtterance as KeepableUtterance
from speech_emotion.dashboard.review_messages import KeepRequest as KeepRequest
from speech_emotion.dashboard.review_messages import KeptUtterance as KeptUtterance
from speech_emotion.dashboard.review_messages import LabelGain as LabelGain
from speech_emotion.dashboard.review_messages import LabelRequest as LabelRequest
from speech_emotion.dashboard.review_messages import Review as Review
from speech_emotion.dashboard.review_messages import ReviewTask as ReviewTask
from speech_emotion.dashboard.settings_messages import SettingField as SettingField
from speech_emotion.dashboard.settings_messages import Settings as Settings
from speech_emotion.dashboard.settings_messages import SettingsAnswer as SettingsAnswer
from speech_emotion.dashboard.settings_messages import SettingsChange as SettingsChange
from speech_emotion.dashboard.settings_messages import SettingsUndo as SettingsUndo

LONGEST_MUTE_S = 366 * 86400
SECONDS = {
    "schema": {
        "anyOf": [{"type": "number", "minimum": 1, "maximum": LONGEST_MUTE_S}, {"type": "null"}]
    }
}
"""What the type alone does not say about a field, for the OpenAPI document."""


@dataclasses.dataclass(frozen=True)
class Status:
    """Whether the newest result of a stream is up to date.

    Attributes:
        stream: name of the stream; empty: the whole pipeline.
        state: `fresh`, `degraded`, `stale` or `gone`.
        reason: why it is not fresh; null if it is.
        age_s: age of the newest result in seconds, an upper bound; null without a result.
    """

    stream: str
    state: str
    reason: str | None
    age_s: float | None


@dataclasses.dataclass(frozen=True)
class Statuses:
    """Event `status`: the freshness of the pipeline and of each stream.

    Attributes:
        now: unix time of the server in seconds.
        statuses: the pipeline, then its streams.
    """

    now: float
    statuses: list[Status]


@dataclasses.dataclass(frozen=True)
class Stream:
    """One stream.

    Attributes:
        name: its name.
        info: its description; null before it arrives.
        latest: its newest result; null before the first.
        status: freshness of that result; null before the first check.
    """

    name: str
    info: public.Info | None
    latest: public.Result | None
    status: Status | None


@dataclasses.dataclass(frozen=True)
class Streams:
    """The streams of the pipeline.

    Attributes:
        now: unix time of the server in seconds.
        streams: ordered by name.
    """

    now: float
    streams: list[Stream]


@dataclasses.dataclass(frozen=True)
class HealthReport:
    """Health of the pipeline.

    Attributes:
        now: unix time of the server in seconds.
        state: `fresh`, `degraded`, `stale` or `gone`: the worst of all streams.
        reason: why it is not fresh; null if it is.
        age_s: age of the newest result in seconds; null without a result.
        health: the newest message `health`; null before the first.
    """

    now: float
    state: str
    reason: str | None
    age_s: float | None
    health: public.Health | None


@dataclasses.dataclass(frozen=True)
class Service:
    """What this server offers.

    Attributes:
        version: version of the program.
        results: endpoint of the pipeline's results.
        history: whether a history is written.
        mute: whether it can mute the pipeline.
        recent_s: seconds that `/recent` covers.
        review: `mode` of `/review`: whether sound is kept for people to judge.
        settings: whether it shows the settings of the pipeline.
    """

    version: str
    results: str
    history: bool
    mute: bool
    recent_s: float
    review: str = "off"
    settings: bool = False


@dataclasses.dataclass(frozen=True)
class State:
    """Event `state`, the first one of `/events`: the present.

    Attributes:
        now: unix time of the server in seconds.
        service: what this server offers.
        streams: ordered by name.
        health: the newest message `health`; null before the first.
        statuses: freshness of the pipeline, then of its streams.
    """

    now: float
    service: Service
    streams: list[Stream]
    health: public.Health | None
    statuses: list[Status]


@dataclasses.dataclass(frozen=True)
class Gap:
    """Event `gap`: events that this client did not get and that the server no longer has.

    Attributes:
        missed: number of these events, of all kinds and streams; null: not known.
        reason: why.
    """

    missed: int | None
    reason: str


@dataclasses.dataclass(frozen=True)
class SpokenSpan:
    """An utterance as the page lists it.

    Attributes:
        time: unix time of its end in seconds.
        seconds: its length.
        emotion, confidence, reason, probabilities: as in `Utterance`.
    """

    time: float
    seconds: float
    emotion: str
    confidence: float | None
    reason: str | None
    probabilities: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Recent:
    """The last minutes of a stream, from memory.

    Attributes:
        columns: names of the columns of `rows`.
        labels: labels in the order of the column `smoothed`.
        rows: one per window, oldest first.
        utterances: those that ended, oldest first.
    """

    columns: list[str]
    labels: list[str]
    rows: list[list[Any]]
    utterances: list[SpokenSpan]


@dataclasses.dataclass(frozen=True)
class UtteranceBin:
    """The utterances that ended in one step of a summary.

    Attributes:
        time: unix time of the end of the step in seconds.
        seconds: its length.
        emotion: the most frequent label.
        share: share of the utterances with it.
        count: number of utterances.
    """

    time: float
    seconds: float
    emotion: str
    share: float
    count: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A time span of the history for a chart: at most about 1,200 rows.

    Attributes:
        labels: labels in the order of the column `smoothed`.
        rows: one per window; where `step` is not 0, one per step, with mean level, most frequent
            emotion, and in `smoothed` the share of the speech that has each label; `seq` is null
            where a step is 10 s or longer. `dimensions` has the mean of each.
        step: length of a step in seconds; 0: each row is one window.
        utterances: the newest 500 that ended in the span, oldest first.
        utterance_count: number of all of them; where they are more than 10,000, those of whole
            steps.
        utterance_bins: utterances by step; null where each row is one window.
        bounds: unix times of the first and the last window in the history; null without any.
        columns: names of the columns of `rows`.
    """

    labels: list[str]
    rows: list[list[Any]]
    step: float
    utterances: list[SpokenSpan]
    utterance_count: int
    utterance_bins: list[UtteranceBin] | None
    bounds: tuple[float, float] | None
    columns: list[str]


@dataclasses.dataclass(frozen=True)
class ListedUtterance(SpokenSpan):
    """An utterance of the history.

    Attributes:
        time, seconds, emotion, confidence, reason, probabilities: as in `SpokenSpan`.
        stream: name of its stream.
    """

    stream: str


@dataclasses.dataclass(frozen=True)
class UtteranceList:
    """Utterances of the history, newest first.

    Attributes:
        rows: the utterances.
        next: give it as `before` to get older ones; null: these are the last.
    """

    rows: list[ListedUtterance]
    next: str | None


@dataclasses.dataclass(frozen=True)
class Shares:
    """How much speech there was, and with which labels.

    Attributes:
        step: length of a step in seconds; 0: one row of a stream, for the whole time.
        labels: labels in the order of the columns `shares` and `utterances`.
        columns: names of the columns of `rows`: stream; unix time of the beginning in seconds;
            number of windows; share of them with speech; share without sound; share of the
            speech with each label (the rest was `uncertain`); utterances with each label; all
            utterances.
        rows: one per stream and step with data, by stream and time.
        complete: whether the whole time is counted; a file of an earlier version is counted
            step by step after its first start.
    """

    step: int
    labels: list[str]
    columns: list[str]
    rows: list[list[Any]]
    complete: bool


@dataclasses.dataclass(frozen=True)
class HistoryPage:
    """Rows of the history, oldest first.

    Attributes:
        table: `result`, `utterance` or `health`.
        rows: their columns are those of the CSV file.
        next: give it as `after` to get the next page; null: this is the last one.
    """

    table: str
    rows: list[dict[str, Any]]
    next: str | None


@dataclasses.dataclass(frozen=True)
class MuteRequest:
    """Mute or unmute by hand.

    Attributes:
        muted: whether to mute.
        seconds: length of the mute, 1 to 31,622,400; null or absent: until it is unmuted.
    """

    muted: bool
    seconds: float | None = dataclasses.field(default=None, metadata=SECONDS)


@dataclasses.dataclass(frozen=True)
class MuteAnswer:
    """What became of it.

    Attributes:
        ok: whether the pipeline is as asked for.
        text: the same in words.
    """

    ok: bool
    text: str


@dataclasses.dataclass(frozen=True)
class AlertTest:
    """Send a test of a rule to its addresses.

    Attributes:
        rule: name of the rule.
    """

    rule: str


@dataclasses.dataclass(frozen=True)
class Error:
    """A request that was refused.

    Attributes:
        error: what is wrong, in one line.
    """

    error: str


def to_json(value: Any) -> str:
    """A message as JSON text; public messages in it are as the pipeline sends them."""
    return json.dumps(value, default=_plain, allow_nan=False)


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, Message):
        return public.to_json_map(value)
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}

"""What the HTTP interface sends and takes about the review."""

from __future__ import annotations

import dataclasses
from typing import Any

NAME = {"schema": {"type": "string", "minLength": 1, "maxLength": 100}}
"""What the type alone does not say about a field, for the OpenAPI document."""
MOST = 2**53 - 1
"""Largest number that every JSON reader keeps exactly."""
NUMBER = {"schema": {"type": "integer", "minimum": 0, "maximum": MOST}}
LABEL = {"schema": {"anyOf": [NAME["schema"], {"type": "null"}]}}


@dataclasses.dataclass(frozen=True)
class KeepableUtterance:
    """An utterance whose sound is still in memory only.

    Attributes:
        stream, run, seq, time, emotion, confidence, probabilities: as in `Utterance`.
        seconds: its length.
        left_s: seconds for which it can still be kept.
    """

    stream: str
    run: str
    seq: int
    time: float | None
    seconds: float
    emotion: str
    confidence: float
    probabilities: dict[str, float]
    left_s: float


@dataclasses.dataclass(frozen=True)
class KeptUtterance:
    """An utterance whose sound is kept until a person has judged it.

    Attributes:
        id: its number.
        stream, run, seq, time, emotion, confidence, probabilities, bundle: as in `Utterance`.
        seconds: length of its sound.
        asked: a person asked for it; else the queue chose it.
    """

    id: int
    stream: str
    run: str
    seq: int
    time: float | None
    seconds: float
    emotion: str
    confidence: float
    probabilities: dict[str, float]
    bundle: str
    asked: bool


@dataclasses.dataclass(frozen=True)
class LabelGain:
    """The bundle before and after an adaptation, on held-out labels.

    Attributes:
        loss_before, loss_after: cross-entropy in nats; smaller is better.
        loss_interval: 95 % interval of the gain, before less after.
        recall_before, recall_after: share of each emotion that is recognized, mean, 0 to 1.
        recall_interval: 95 % interval of the gain, after less before.
    """

    loss_before: float
    loss_after: float
    loss_interval: tuple[float, float]
    recall_before: float
    recall_after: float
    recall_interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ReviewTask:
    """An adaptation, or its rollback.

    Attributes:
        name: `adapt` or `roll back`.
        state: `running`, `done` or `failed`.
        text: what became of it, in one line.
        replaced: whether the bundle was replaced; null while it runs, or where it failed.
        labels: number of labels that were used.
        gain: against the bundle without labels; null where nothing was compared.
        gain_of_present: against the adapted bundle until then; null where there was none.
    """

    name: str
    state: str
    text: str
    replaced: bool | None = None
    labels: int = 0
    gain: LabelGain | None = None
    gain_of_present: LabelGain | None = None


@dataclasses.dataclass(frozen=True)
class Review:
    """The utterances that a person can judge, and the labels that were given.

    Attributes:
        mode: `off`; `on request`: sound is kept when a person asks for it; `queue`: the most
            uncertain utterances as well.
        queue: number of these.
        hours: age in hours at which sound is deleted.
        muted: while muted no sound is kept.
        keepable: utterances of the last seconds, the newest first.
        kept: those that wait for a person: asked for, then the most uncertain first.
        labels: label → number of utterances that people have given it.
        needed: labels that an adaptation needs.
        adapted: id of the adapted bundle; null without one.
        task: the adaptation or rollback that runs, or the last one since the server's start.
    """

    mode: str
    queue: int
    hours: float
    muted: bool
    keepable: list[KeepableUtterance]
    kept: list[KeptUtterance]
    labels: dict[str, int]
    needed: int
    adapted: str | None
    task: ReviewTask | None


@dataclasses.dataclass(frozen=True)
class KeepRequest:
    """Keep the sound of an utterance until a person has judged it.

    Attributes:
        stream, run, seq: of the utterance.
    """

    stream: str = dataclasses.field(metadata=NAME)
    run: str = dataclasses.field(metadata=NAME)
    seq: int = dataclasses.field(metadata=NUMBER)


@dataclasses.dataclass(frozen=True)
class LabelRequest:
    """Give a kept utterance its label; its sound is deleted then.

    Attributes:
        id: number of the utterance.
        label: what the person says, one of the labels of its bundle; null: none.
    """

    id: int = dataclasses.field(metadata=NUMBER)
    label: str | None = dataclasses.field(metadata=LABEL)


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of a request.

    Attributes:
        text: one line.
    """

    text: str


def keep_request(body: Any) -> KeepRequest | None:
    """The request in a JSON body; None if it is none."""
    if not isinstance(body, dict) or set(body) != {"stream", "run", "seq"}:
        return None
    if not (_is_name(body["stream"]) and _is_name(body["run"]) and _is_number(body["seq"])):
        return None
    return KeepRequest(body["stream"], body["run"], int(body["seq"]))


def label_request(body: Any) -> LabelRequest | None:
    """The request in a JSON body; None if it is none."""
    if not isinstance(body, dict) or set(body) != {"id", "label"}:
        return None
    if not (_is_number(body["id"]) and (body["label"] is None or _is_name(body["label"]))):
        return None
    return LabelRequest(int(body["id"]), body["label"])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 100


def _is_number(value: Any) -> bool:
    """Whether JSON Schema calls it an integer: 7.0 is one."""
    return type(value) in (int, float) and 0 <= value <= MOST and value == int(value)

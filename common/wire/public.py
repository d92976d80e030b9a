"""The public messages (docs/PROTOCOL.md): two frames, topic and msgpack map."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, TypeAlias

from speech_emotion.common.wire.codec import (
    VERSION,
    Message,
    ProtocolError,
    _build,
    _pack,
    _plain,
    _unpack,
)


@dataclasses.dataclass(frozen=True)
class Result(Message):
    """One window of one stream, silent ones included. Topic `result/<stream>`."""

    stream: str
    run: str
    seq: int
    start: int
    end: int
    rate: int
    time: float | None
    state: str
    emotion: str | None
    confidence: float | None
    probabilities: dict[str, float] | None
    smoothed: dict[str, float] | None
    reason: str | None
    rms_db: float
    lost: int
    skipped: int
    timing_ms: dict[str, float] | None
    bundle: str

    topic: ClassVar[str] = "result"

    @property
    def next_seq(self) -> int:
        """The `seq` that follows; a long gap covers `skipped` windows in one message."""
        return self.seq + max(1, self.skipped)


@dataclasses.dataclass(frozen=True)
class Utterance(Message):
    """One run of speech, told when it has ended. Topic `utterance/<stream>`."""

    stream: str
    run: str
    seq: int
    start: int
    end: int
    rate: int
    time: float | None
    emotion: str
    confidence: float
    probabilities: dict[str, float]
    reason: str | None
    windows: int
    bundle: str

    topic: ClassVar[str] = "utterance"


@dataclasses.dataclass(frozen=True)
class Info(Message):
    """What a stream is, told at its start and on every change. Topic `info/<stream>`.

    `gate` and `gate_db` came later than the rest; a publisher from before gives neither.
    """

    stream: str
    run: str
    labels: list[str]
    window: int
    hop: int
    rate: int
    bundle: str
    source: str
    gate: str | None = None
    gate_db: float | None = None

    topic: ClassVar[str] = "info"


@dataclasses.dataclass(frozen=True)
class StageHealth(Message):
    """One stage's row in `health`."""

    name: str
    pid: int
    state: str
    restarts: int
    heartbeat_age_s: float | None
    rate_hz: float
    lag_ms: float | None
    drops: int
    cpu_percent: float
    rss_mb: float
    reason: str | None


@dataclasses.dataclass(frozen=True)
class StreamHealth(Message):
    """One stream's row in `health`."""

    name: str
    run: str
    state: str
    reason: str | None
    state_s: float
    device: str | None
    position: int
    level_db: float | None
    clipped: float
    gaps: int
    lost: int


@dataclasses.dataclass(frozen=True)
class Health(Message):
    """State of the whole pipeline, once a second and on every change. Topic `health`."""

    time: float
    state: str
    stages: list[StageHealth]
    streams: list[StreamHealth]
    counters: dict[str, int]

    topic: ClassVar[str] = "health"


Public: TypeAlias = Result | Utterance | Info | Health


PUBLIC: dict[str, type[Message]] = {m.topic: m for m in (Result, Utterance, Info, Health)}
"""The public messages by the first part of their topic."""


def encode_public(message: Public, *, replay: bool = False) -> tuple[bytes, bytes]:
    """Topic and payload of a public message.

    Args:
        replay: add `replay: true`, as a new subscriber gets the last message of a topic.
    """
    stream = "" if isinstance(message, Health) else f"/{message.stream}"
    mark = {"replay": True} if replay else {}
    return f"{message.topic}{stream}".encode(), _pack({"v": VERSION, **_plain(message), **mark})


def decode_public(topic: bytes, payload: bytes) -> tuple[Message, bool]:
    """A public message and whether it is a replay.

    Raises:
        ProtocolError: unknown topic, a higher protocol version, or no message at all.
    """
    kind = topic[:256].decode("utf-8", "replace").partition("/")[0]
    cls = PUBLIC.get(kind)
    if cls is None:
        raise ProtocolError(f"unknown topic {kind[:40]!r}")
    table = _unpack(payload)
    version = table.get("v")
    if type(version) is not int or version < 1:
        raise ProtocolError(f"message without a protocol version on {kind}")
    if version > VERSION:
        raise ProtocolError(
            f"protocol version {version} is newer than {VERSION}, the one known here: "
            "update this client"
        )
    return _build(cls, table), table.get("replay") is True


def to_json_map(message: Message) -> dict[str, Any]:
    """A message as the plain map that travels, `v` first for public ones."""
    version = {"v": VERSION} if type(message) in PUBLIC.values() else {}
    return {**version, **_plain(message)}

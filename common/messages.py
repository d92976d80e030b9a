"""Every message on every socket: one dataclass each, one encode, one decode.

The public ones (`Result`, `Utterance`, `Info`, `Health`) travel as `[topic, map]` on the
results endpoint and are documented in docs/PROTOCOL.md. The internal ones travel between
stages and hub as one frame, a CRC-32 and a map whose key `t` names the class. Decoders take
any bytes: what is not exactly a message raises `ProtocolError`, and every size is bounded.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar, Union, get_args, get_origin

import msgpack

VERSION = 1
"""Wire protocol version; a higher one is refused."""

MAX_FRAME = 4 << 20
"""Longest frame in bytes that a decoder looks at, and the limit set on every socket."""
CRC_BYTES = 4
"""A damaged message must not pass for another one: a flipped bit of a position is a position."""
MAX_ITEMS = 4096
MAX_TEXT = 4096
MAX_INT = 2**53
"""Largest magnitude of an integer: JSON's readers hold it exactly, and sums do not overflow."""

M = TypeVar("M", bound="Message")
Check = Callable[[Any], Any]


class ProtocolError(ValueError):
    """Bytes that are no message of this protocol version."""


@dataclasses.dataclass(frozen=True)
class Message:
    """Base of all messages; subclasses are dataclasses of plain, checked types."""


# --- public -----------------------------------------------------------------------------


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


# --- between stages ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tick(Message):
    """capture → features: samples up to `position` are in `ring`; the newest supersedes all.

    `gaps` are the spans of missing samples that the ring still holds as zeros. `anchor_*`
    ties sample `anchor_index` to CLOCK_MONOTONIC and, for live sources, to unix time.
    """

    stream: str
    run: str
    ring: str
    generation: int
    position: int
    ended: bool
    anchor_index: int
    anchor_monotonic: float
    anchor_unix: float | None
    gaps: list[list[int]]


@dataclasses.dataclass(frozen=True)
class Want(Message):
    """infer → features: everything below window `next` is accepted; send up to `limit`.

    Self-contained and repeated, so that either side may restart: a new `session` makes
    features begin at `next` with the voice gate as `gate` says. `bundle` is the one whose
    normalization the windows must have; features of another does not answer.
    """

    stream: str
    run: str
    session: str
    next: int
    limit: int
    gate: list[float]
    bundle: str = ""


@dataclasses.dataclass(frozen=True)
class Sent(Message):
    """features → infer, the answer to every `Want`: all windows below `next` were sent."""

    stream: str
    session: str
    next: int


@dataclasses.dataclass(frozen=True)
class Window(Message):
    """features → infer: window `seq`, analysed. `kind` is speech, silence, gap or end.

    `features` holds float32, little-endian, C order, normalized, shape
    (spec.n_frames, spec.dims); only speech has them. `gate` is the gate after this window.
    An `end` window has no sound: it says that the stream has no window `seq`.
    """

    stream: str
    run: str
    session: str
    seq: int
    start: int
    end: int
    kind: str
    rms_db: float
    clipped: float
    lost: int
    skipped: int
    captured: float
    time: float | None
    features_ms: float
    gate: list[float]
    features: bytes | None
    bundle: str = ""

    @property
    def next_seq(self) -> int:
        return self.seq + max(1, self.skipped)


@dataclasses.dataclass(frozen=True)
class Submit(Message):
    """infer → hub: the messages of window `seq` and the checkpoint behind it, made with `bundle`.

    `result` is absent and `ended` true for the end of a stream. `captured` is the monotonic
    time of the window's last sample; the hub completes `timing_ms` with it.
    """

    stream: str
    run: str
    seq: int
    result: Result | None
    utterances: list[Utterance]
    ended: bool
    gate: list[float]
    decision: dict[str, Any]
    captured: float
    bundle: str = ""

    @property
    def messages(self) -> list[Result | Utterance]:
        """What subscribers get of it, in this order."""
        return [*([self.result] if self.result else []), *self.utterances]


@dataclasses.dataclass(frozen=True)
class Accepted(Message):
    """hub → infer and capture: windows below `next` are accepted; `ended`: so is the end."""

    stream: str
    run: str
    next: int
    ended: bool


@dataclasses.dataclass(frozen=True)
class Resume(Message):
    """hub → infer: where a stream stands and the checkpoint to go on from.

    `bundle` is the one to go on with, `made_by` the one behind the checkpoint (empty at the start
    of a stream). Where they differ, smoothing starts anew and the utterance ends.
    """

    stream: str
    run: str
    next: int
    ended: bool
    gate: list[float]
    decision: dict[str, Any]
    bundle: str = ""
    made_by: str = ""


@dataclasses.dataclass(frozen=True)
class Hello(Message):
    """infer → hub: tell me where `stream` stands; empty: every stream, and each new one."""

    stage: str
    stream: str


@dataclasses.dataclass(frozen=True)
class Open(Message):
    """capture → hub: this stream exists; repeated until `Accepted` answers."""

    stream: str
    run: str
    source: str
    rate: int
    window: int
    hop: int


@dataclasses.dataclass(frozen=True)
class SourceStatus(Message):
    """What capture knows of one stream."""

    stream: str
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
class Heartbeat(Message):
    """stage → hub, twice a second from the stage's main loop: alive, and how."""

    stage: str
    pid: int
    state: str
    count: int
    rate_hz: float
    lag_ms: float | None
    drops: int
    cpu_percent: float
    rss_mb: float
    streams: list[SourceStatus]
    counters: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Swap(Message):
    """`supervisor.py swap` → supervisor: go on with the bundle in this folder."""

    bundle: str


@dataclasses.dataclass(frozen=True)
class Swapped(Message):
    """The answer when all is over: an exit code and a line for people."""

    code: int
    text: str


PUBLIC: dict[str, type[Message]] = {m.topic: m for m in (Result, Utterance, Info, Health)}
"""The public messages by the first part of their topic."""

INTERNAL: dict[str, type[Message]] = {
    m.__name__: m
    for m in (
        *(Tick, Want, Sent, Window, Submit, Accepted),
        *(Resume, Hello, Open, Heartbeat, Swap, Swapped),
    )
}


# --- encode and decode ------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """One internal message as one frame."""
    return framed(_pack({"t": type(message).__name__, **_plain(message)}))


def framed(body: bytes) -> bytes:
    """A packed map behind its CRC-32."""
    return zlib.crc32(body).to_bytes(CRC_BYTES, "little") + body


def decode(frame: bytes) -> Message:
    """The internal message in `frame`.

    Raises:
        ProtocolError: the bytes are no internal message of this version.
    """
    if len(frame) > MAX_FRAME:
        raise ProtocolError(f"frame of {len(frame)} bytes; the limit is {MAX_FRAME}")
    body = memoryview(frame)[CRC_BYTES:]
    if zlib.crc32(body) != int.from_bytes(frame[:CRC_BYTES], "little"):
        raise ProtocolError("its checksum differs")
    table = _unpack(body)
    cls = INTERNAL.get(table.get("t", "")) if isinstance(table.get("t"), str) else None
    if cls is None:
        raise ProtocolError(f"unknown message type {str(table.get('t'))[:40]!r}")
    return _build(cls, table)


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


def _plain(message: Message) -> dict[str, Any]:
    # dataclasses.asdict copies deeply, which costs more than everything else here together.
    plain: dict[str, Any] = {}
    for name in _checks(type(message)):
        value = getattr(message, name)
        if isinstance(value, Message):
            value = _plain(value)
        elif type(value) is list and value and isinstance(value[0], Message):
            value = [_plain(item) for item in value]
        plain[name] = value
    return plain


def _pack(table: Mapping[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(table, use_bin_type=True)
    return packed


def _unpack(frame: bytes | memoryview) -> dict[str, Any]:
    if len(frame) > MAX_FRAME:
        raise ProtocolError(f"frame of {len(frame)} bytes; the limit is {MAX_FRAME}")
    try:
        table = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_TEXT,
            max_bin_len=MAX_FRAME,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not msgpack within bounds ({type(error).__name__})") from None
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise ProtocolError("not a map with text keys")
    return table


def _build(cls: type[M], table: Mapping[str, Any]) -> M:
    values = {}
    for name, check in _checks(cls).items():
        if name not in table:
            if hasattr(cls, name):  # a default: the key is newer than its message
                continue
            raise ProtocolError(f"{cls.__name__} without {name}")
        try:
            values[name] = check(table[name])
        except ProtocolError as error:
            raise ProtocolError(f"{cls.__name__}.{name}: {error}") from None
    return cls(**values)


_CHECKS: dict[type[Message], dict[str, Check]] = {}


def _checks(cls: type[Message]) -> dict[str, Check]:
    if cls not in _CHECKS:
        hints = typing.get_type_hints(cls)
        _CHECKS[cls] = {f.name: _check_for(hints[f.name]) for f in dataclasses.fields(cls)}
    return _CHECKS[cls]


def _check_for(hint: Any) -> Check:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (_check_for(arg) for arg in get_args(hint) if arg is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is list:
        item = _check_for(get_args(hint)[0])
        return lambda value: [item(x) for x in _typed(value, list)]
    if origin is dict:
        if get_args(hint)[1] is Any:
            return lambda value: _typed(value, dict)
        item = _check_for(get_args(hint)[1])
        return lambda value: {_typed(k, str): item(x) for k, x in _typed(value, dict).items()}
    if isinstance(hint, type) and issubclass(hint, Message):
        return lambda value: _build(hint, _typed(value, dict))
    if hint is float:
        return _finite
    if hint is int:
        return _whole
    return lambda value: _typed(value, hint)


def _typed(value: Any, expected: type) -> Any:
    if type(value) is not expected:
        raise ProtocolError(f"{type(value).__name__} where {expected.__name__} belongs")
    return value


def _whole(value: Any) -> int:
    number: int = _typed(value, int)
    if abs(number) > MAX_INT:
        raise ProtocolError("an integer beyond 2**53")
    return number


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ProtocolError("not a finite number")
    return float(value)

"""The messages between stages, hub and supervisor: one frame, a CRC-32 and a msgpack map.

The key `t` of the map names the class.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

from speech_emotion.common.wire.codec import (
    CRC_BYTES,
    MAX_FRAME,
    Message,
    ProtocolError,
    _build,
    _pack,
    _plain,
    _unpack,
    framed,
)
from speech_emotion.common.wire.control_messages import (
    AlertsState,
    AskAlerts,
    AskHealth,
    ForgetBaseline,
    LogIn,
    MuteSet,
    Reconfigure,
    Reconfigured,
    ReviewAct,
    SetMute,
    Swap,
    Swapped,
)
from speech_emotion.common.wire.public import Health, Result, Utterance


@dataclasses.dataclass(frozen=True)
class Tick(Message):
    """capture → features: samples up to `position` are in `ring`. The newest tick replaces others.

    Attributes:
        ring: name of the shared-memory segment.
        position: samples since the run began.
        ended: no sample follows `position`.
        anchor_index: a sample index, captured at `anchor_monotonic` (CLOCK_MONOTONIC, seconds)
            and, for live sources, at `anchor_unix` (unix time, seconds).
        gaps: `[start, end)` sample spans that are missing; the ring holds zeros there.
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
class Credit(Message):
    """infer → features: windows below `next` are accepted; send windows below `limit`.

    It is complete and repeated, so that either side may restart: with a new `session`, features
    begins at window `next` with the voice gate in state `gate`. `bundle` is the bundle whose
    normalization the windows must have; features with another bundle does not answer.
    """

    stream: str
    run: str
    session: str
    next: int
    limit: int
    gate: list[float]
    bundle: str = ""


@dataclasses.dataclass(frozen=True)
class SentUpTo(Message):
    """features → infer, the answer to each `Credit`: all windows below `next` were sent."""

    stream: str
    session: str
    next: int


@dataclasses.dataclass(frozen=True)
class Window(Message):
    """features → infer: window `seq`. `kind` is speech, silence, gap or end.

    Attributes:
        features: normalized features as float32, little-endian, C order, shape
            (spec.n_frames, spec.dims); None where `kind` is not speech.
        track: prosody frames of the window as bytes, `common.prosody.FRAME`; None where it is no
            speech, or they are not measured.
        gate: state of the voice gate after this window.
        start, end: sample span `[start, end)`. An `end` window has no samples: the stream ended
            before window `seq`.
        rms_db: level in dBFS.
        captured: when the last sample was captured (CLOCK_MONOTONIC, seconds).
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
    track: bytes | None = None

    @property
    def next_seq(self) -> int:
        """The `seq` of the window that follows."""
        return self.seq + max(1, self.skipped)


@dataclasses.dataclass(frozen=True)
class Submit(Message):
    """infer → hub: the messages of window `seq`, made with `bundle`, and the checkpoint after it.

    At the end of a stream `result` is None and `ended` true. `captured` is when the window's last
    sample was captured (CLOCK_MONOTONIC, seconds); the hub completes `timing_ms` with it.
    `forgets` is the one of the `Resume` that the result continues from.
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
    forgets: int = 0

    @property
    def messages(self) -> list[Result | Utterance]:
        """The messages to publish, in this order."""
        return [*([self.result] if self.result else []), *self.utterances]


@dataclasses.dataclass(frozen=True)
class Accepted(Message):
    """hub → infer and capture: windows below `next` are accepted; `ended`: the end is, too."""

    stream: str
    run: str
    next: int
    ended: bool


@dataclasses.dataclass(frozen=True)
class AcceptedTogether(Message):
    """hub → infer: acceptances of several streams."""

    streams: list[Accepted]


@dataclasses.dataclass(frozen=True)
class Recorded(Message):
    """record → hub → capture: samples below `position` are recorded; None: do not wait for it.

    Repeated. A source at full speed stays at most half a ring ahead of it.
    """

    stream: str
    run: str
    position: int | None


@dataclasses.dataclass(frozen=True)
class Resume(Message):
    """hub → infer: the next window of a stream, and the checkpoint to continue from.

    `bundle` is the bundle to continue with, `checkpoint_bundle` the one that made the checkpoint
    (empty at the start of a stream). Where they differ, smoothing restarts and the utterance ends.
    `baseline`: the stream has a baseline, where the bundle can. `forgets` counts how often it was
    forgotten; the hub refuses results that continue from an older count.
    """

    stream: str
    run: str
    next: int
    ended: bool
    gate: list[float]
    decision: dict[str, Any]
    bundle: str = ""
    checkpoint_bundle: str = ""
    baseline: bool = False
    forgets: int = 0


@dataclasses.dataclass(frozen=True)
class Hello(Message):
    """infer → hub: send `Resume` for `stream`; empty: for every stream, also for each new one."""

    stage: str
    stream: str


@dataclasses.dataclass(frozen=True)
class Open(Message):
    """capture → hub: a stream exists; repeated until `Accepted` answers. Lengths in samples.

    `next` is the window to continue with where a hub that has ended accepted those before it.
    `waits`: the source is read only so far ahead of what is accepted; the hub sends `Accepted` for
    every result. Else it answers each `Open`, and sends the end.
    """

    stream: str
    run: str
    source: str
    rate: int
    window: int
    hop: int
    next: int = 0
    waits: bool = True


@dataclasses.dataclass(frozen=True)
class SourceStatus(Message):
    """State of one source, from capture; fields as in `StreamHealth`."""

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
    quality: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Heartbeat(Message):
    """stage → hub, twice a second from the stage's main loop; fields as in `StageHealth`."""

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


INTERNAL: dict[str, type[Message]] = {
    m.__name__: m
    for m in (
        *(Tick, Credit, SentUpTo, Window, Submit, Accepted, AcceptedTogether, Recorded),
        *(Resume, Hello, Open, Heartbeat, Swap, ForgetBaseline, Swapped),
        *(SetMute, MuteSet, LogIn, AskAlerts, AlertsState, ReviewAct, AskHealth, Health),
        *(Reconfigure, Reconfigured),
    )
}


def encode(message: Message) -> bytes:
    """One internal message as one frame."""
    return framed(_pack({"t": type(message).__name__, **_plain(message)}))


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

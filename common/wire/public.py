"""The public messages (docs/PROTOCOL.md): two frames, topic and msgpack map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

from speech_emotion.common.errors import printable
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
    """One window of one stream, also a silent one. Topic `result/<stream>`.

    Attributes:
        stream: name of the stream.
        run: id of the run; new whenever the sample count starts again at 0.
        seq: number of the window in its run.
        start, end: sample span `[start, end)` since the run began.
        rate: samples per second.
        time: unix time of `end` in seconds; None where sound is read faster than real time.
        state: `speech`, `silence` or `gap` (too many samples are missing).
        emotion: smoothed label, or `uncertain`; None outside speech.
        confidence: smoothed, calibrated probability (0 to 1) of `emotion`, or of the label that
            would have been given if that is `uncertain`. Not always the highest one.
        probabilities, smoothed: label → probability, of this window and after smoothing.
        reason: why `uncertain`.
        rms_db: level in dBFS.
        lost: missing samples inside the span.
        skipped: windows that one `gap` message stands for; else 0.
        timing_ms: milliseconds per step, and `total` since capture; None offline.
        bundle: id of the model bundle.
        baseline: seconds of past speech that the stream is compared with; 0 before any, None
            where the stream has no baseline.
        baseline_forgotten: `speech-emotion baseline forget` took effect before this window.
        dimensions: dimension, e.g. `arousal`, → value, 0 to 1, of this window alone; None, and not
            in the message, where the sound is no speech to judge and where the bundle has none.
    """

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
    baseline: float | None = None
    baseline_forgotten: bool = False
    dimensions: dict[str, float] | None = None

    topic: ClassVar[str] = "result"
    absent: ClassVar[frozenset[str]] = frozenset({"dimensions"})

    @property
    def next_seq(self) -> int:
        """The `seq` of the next message; one gap message stands for `skipped` windows."""
        return self.seq + max(1, self.skipped)


@dataclasses.dataclass(frozen=True)
class Prosody(Message):
    """How an utterance was spoken, from its first sounding 10 ms to its last.

    Attributes:
        f0_hz: median of the fundamental frequency, in Hz; None where nothing is voiced.
        f0_low_hz, f0_high_hz: 5th and 95th percentile of it.
        voiced: share, 0 to 1, of the time with sound in which the voice is periodic.
        level_db: RMS level of the time with sound, in dBFS.
        syllables_s: peaks of loudness with voice per second without pauses: speaking rate.
        pauses: silences of 0.25 s and more in it.
        pause_s: seconds of them.
    """

    f0_hz: float | None
    f0_low_hz: float | None
    f0_high_hz: float | None
    voiced: float
    level_db: float
    syllables_s: float
    pauses: int
    pause_s: float


@dataclasses.dataclass(frozen=True)
class Utterance(Message):
    """One stretch of speech, sent when it has ended. Topic `utterance/<stream>`.

    Attributes:
        seq: number of its last window with speech.
        start, end: sample span `[start, end)` from its first to its last window with speech.
        emotion: label of the whole utterance, or `uncertain`.
        confidence: calibrated probability (0 to 1) of that label, as in `Result`.
        probabilities: label → probability over the utterance.
        reason: why `uncertain`.
        windows: number of windows with speech.
        prosody: how it was spoken; None where it was not measured, or nothing sounds.
        dimensions: dimension → mean over its windows; None, and not in the message, where it is
            `not_speech` and where the bundle has none.

    The others are those of `Result`.
    """

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
    prosody: Prosody | None = None
    dimensions: dict[str, float] | None = None

    topic: ClassVar[str] = "utterance"
    absent: ClassVar[frozenset[str]] = frozenset({"dimensions"})


@dataclasses.dataclass(frozen=True)
class Info(Message):
    """Description of a stream, sent at its start and on each change. Topic `info/<stream>`.

    Attributes:
        labels: the values of `emotion`, beside `uncertain`.
        window, hop: samples in a window, and from one window to the next.
        rate: samples per second.
        source: the source as configured.
        gate: voice gate, `fixed` or `adaptive`; None from publishers older than these keys.
        gate_db: `fixed`: threshold in dBFS; `adaptive`: margin in dB above the noise level.
        min_confidence: below it `emotion` is `uncertain`; None from older publishers.
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
    min_confidence: float | None = None

    topic: ClassVar[str] = "info"


@dataclasses.dataclass(frozen=True)
class StageHealth(Message):
    """One process of the pipeline in `health`.

    Attributes:
        pid: process id; 0 where no process runs on this machine.
        restarts: starts after the first.
        heartbeat_age_s: seconds since the last heartbeat; None before the first.
        rate_hz: windows per second.
        lag_ms: milliseconds from the capture of the newest window's end to the stage's result.
        drops: windows skipped because the ring no longer held them.
        cpu_percent: of one core.
        rss_mb: resident memory in MiB.
        reason: why it last died.
    """

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
    """One stream in `health`.

    Attributes:
        state: state of the source, `live` when it delivers sound.
        reason: what is wrong, in words.
        state_s: seconds since the state began.
        device: name of the device, where the source is one.
        position: samples captured since the run began.
        level_db: present level in dBFS.
        clipped: share of the samples of about the last second at full scale, 0 to 1.
        gaps: gaps in the sound that the ring holds.
        lost: samples missing since the run began.
        quality: figures of the sound; empty before 3 s of it. `snr_db`: distance between its loud
            and its quiet parts in the last 30 s; `bandwidth_hz`: highest frequency; `dc`: mean as
            a share of full scale; `dropouts_per_min`: gaps and holes in the last minute.
            `drift_ppm`: how much faster the clock of a live source runs than this machine's, over
            the last `drift_s` seconds, 60 to 600.
    """

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
    quality: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Mute(Message):
    """Why no sound is taken.

    Attributes:
        by: causes: `hand`, `quiet_hours`, `switch`, `light`.
        until: unix time in seconds of its end; None where that is not known.
        text: both in words.
    """

    by: list[str]
    until: float | None
    text: str


@dataclasses.dataclass(frozen=True)
class Health(Message):
    """State of the whole pipeline, once a second and on each change. Topic `health`.

    Attributes:
        time: unix time in seconds.
        state: `ok`, `starting` or `degraded`.
        counters: faults that were corrected, by name; a missing name counts 0.
        mute: why no sound is taken; None where sound is taken.
    """

    time: float
    state: str
    stages: list[StageHealth]
    streams: list[StreamHealth]
    counters: dict[str, int]
    mute: Mute | None = None

    topic: ClassVar[str] = "health"


Public: TypeAlias = Result | Utterance | Info | Health


PUBLIC: dict[str, type[Message]] = {m.topic: m for m in (Result, Utterance, Info, Health)}
"""The public messages by the first part of their topic."""
DEPTH = 4
"""Levels of the deepest public message."""


def encode_public(message: Public, *, replay: bool = False) -> tuple[bytes, bytes]:
    """Topic and payload of a public message.

    Args:
        replay: add `replay: true`, for the last message of a topic sent to a new subscriber.
    """
    stream = "" if isinstance(message, Health) else f"/{message.stream}"
    mark = {"replay": True} if replay else {}
    return f"{message.topic}{stream}".encode(), _pack({"v": VERSION, **_plain(message), **mark})


def decode_public(topic: bytes, payload: bytes) -> tuple[Message, bool]:
    """A public message, and whether it is a replay. Control characters in texts are escaped.

    Raises:
        ProtocolError: the topic is unknown, the protocol version higher, or it is no message.
    """
    kind = topic[:256].decode("utf-8", "replace").partition("/")[0]
    cls = PUBLIC.get(kind)
    if cls is None:
        raise ProtocolError(f"unknown topic {kind[:40]!r}")
    table = _printable(_unpack(payload))
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
    """A message as the map that is sent; a public one begins with `v`."""
    version = {"v": VERSION} if type(message) in PUBLIC.values() else {}
    return {**version, **_plain(message)}


def from_json_map(kind: str, table: Mapping[str, Any]) -> Message:
    """A public message from the map of `to_json_map`.

    Args:
        kind: first part of its topic.

    Raises:
        KeyError: there is no such topic.
        ProtocolError: the map is no message of that kind.
    """
    return _build(PUBLIC[kind], table)


def _printable(value: Any, levels: int = DEPTH) -> Any:
    """A value whose texts are printable: a label must not move the cursor of a terminal."""
    if isinstance(value, str):
        return printable(value)
    if levels and isinstance(value, dict):
        return {printable(str(key)): _printable(item, levels - 1) for key, item in value.items()}
    if levels and isinstance(value, list):
        return [_printable(item, levels - 1) for item in value]
    return value

"""Jobs: what the supervisor tells each stage process to do. One frozen dataclass per stage.

The supervisor writes a job as one JSON line to the standard input of the process.
"""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from speech_emotion.common.alert_rule import AlertRule
from speech_emotion.common.config_source import ConfigSource
from speech_emotion.common.nats_server import NatsServer, RolloutOptions
from speech_emotion.common.security.curve import CurveClientKeys, CurveServerKeys

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What every stage needs.

    Attributes:
        stage: name of the process in `health`, such as `features` or `features/1`.
        hub: endpoint of the results hub.
        supervisor_pid: process id of the supervisor; the process ends with it.
        nice: nice value; below 0 it applies only where the system permits it.
    """

    stage: str
    hub: str
    supervisor_pid: int
    nice: int = 0


@dataclasses.dataclass(frozen=True)
class StreamJob:
    """One stream of a capture process.

    Attributes:
        name: name of the stream.
        source: the source as configured.
        ring: name of the ring's segment.
        channel: the channel to use, or several to mix; None: the mean of all channels.
        mix: what to do while the channels of a live source cancel each other: `mean`, `flip`,
            `best`.
        features: endpoint of the stream's features process; empty: the one of `CaptureJob`.
        spooled: descriptor of a file with the content of a pipe that `source` names.
    """

    name: str
    source: str
    ring: str
    channel: int | tuple[int, ...] | None = None
    features: str = ""
    spooled: int | None = None
    mix: str = "mean"


@dataclasses.dataclass(frozen=True)
class ListenOptions:
    """How devices may send sound to `listen:ws://` sources.

    Attributes:
        token: secret that they must send; None: none, on loopback only.
        certificate, private_key: PEM files for TLS.
    """

    token: str | None = dataclasses.field(default=None, repr=False)
    certificate: Path | None = None
    private_key: Path | None = None


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """How sources are opened.

    Attributes:
        realtime: whether files are read in real time; else as fast as results are accepted.
        block_frames: frames per block; None: `block_ms`, and for files 20 ms in real time,
            500 ms at full speed.
        block_ms: length of a block of a device in milliseconds.
        latency: latency of a device in seconds, or PortAudio's `low` and `high`.
        wait_for_device: whether capture waits for a device that is absent at the start.
        record: sound file that receives the sound of a device.
        seconds: length of a recording of a device; None: until it is stopped.
        recorded: whether a recorder runs; at full speed the sources wait for it.
        stdin: file descriptor that `stdin:…` reads from.
        stdin_format: descriptor of a file that keeps the format found in the header of `stdin`
            for the processes after this one; None: there are none.
        alone: whether capture runs without a hub that accepts results.
        listen: how devices may connect.
        close_muted: whether a device is closed while capture is muted.
    """

    realtime: bool = True
    block_frames: int | None = None
    block_ms: float = 20.0
    latency: float | str = "high"
    wait_for_device: bool = False
    record: str | None = None
    seconds: float | None = None
    recorded: bool = False
    stdin: int = 0
    stdin_format: int | None = None
    alone: bool = False
    listen: ListenOptions = ListenOptions()
    close_muted: bool = True

    def device_block(self, rate: int) -> int:
        """Frames per block of a device or a pipe of `rate` Hz."""
        return self.block_frames or max(1, round(self.block_ms / 1000.0 * rate))


@dataclasses.dataclass(frozen=True)
class MuteOptions:
    """Where capture reads whether it is muted.

    Attributes:
        register: file of the supervisor's `MuteRegister`.
        switch: file of a physical switch.
        switch_muted: content of `switch` that mutes.
    """

    register: Path
    switch: Path | None = None
    switch_muted: str = "1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptureJob(Job):
    """Capture: sources into rings.

    Attributes:
        features: endpoint of the features process of the first stream.
        streams: the streams of this process: files, or the streams of one device.
        rate: sample rate of the rings in Hz.
        window, hop: grid of the windows in samples.
        options: how the sources are opened.
        mute: where it reads whether it is muted; None: it never is.
    """

    features: str
    streams: tuple[StreamJob, ...]
    rate: int
    window: int
    hop: int
    options: SourceOptions
    mute: MuteOptions | None = None


@dataclasses.dataclass(frozen=True)
class RemoteFeatures:
    """Endpoint of a features process for an infer host on another machine.

    Attributes:
        endpoint: TCP endpoint to bind.
        keys: keys of this machine and of the infer hosts that may connect.
    """

    endpoint: str
    keys: CurveServerKeys


@dataclasses.dataclass(frozen=True)
class BundleFolder:
    """A bundle on disk.

    Attributes:
        path: folder to read.
        display_path: folder that messages name; `path` may be a copy of it.
    """

    path: Path
    display_path: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundleJob(Job):
    """A job of a stage that works with a bundle.

    Attributes:
        bundle: the bundle to use.
        standby: name under which the process reports that it is ready, and waits until the
            supervisor releases it; None: it starts at once.
    """

    bundle: BundleFolder
    standby: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeaturesJob(BundleJob):
    """Features: windows of the rings to feature matrices.

    Attributes:
        bind: endpoint to bind for capture and infer.
        remote: endpoint for an infer host; None: infer runs on this machine.
        prosody: measure the prosody of utterances.
    """

    bind: str
    remote: RemoteFeatures | None = None
    prosody: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferJob(BundleJob):
    """Infer: feature matrices to results.

    Attributes:
        features: stream → endpoint of its features process.
        runtime: `auto`, `litert`, `tflite` or `onnx`.
        known: earlier bundles, for utterances that began under them.
        sensitivity: operating point, see `Bundle.at`.
    """

    features: dict[str, str]
    runtime: str
    known: tuple[BundleFolder, ...] = ()
    sensitivity: str = "medium"


@dataclasses.dataclass(frozen=True)
class RecordedStream:
    """One stream of the recorder: its name and the name of its ring's segment."""

    name: str
    ring: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordJob(Job):
    """Record: sound and messages of every stream to a folder.

    Attributes:
        folder: parent of the streams' folders.
        results: endpoint to subscribe to.
    """

    folder: Path
    results: str
    streams: tuple[RecordedStream, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReviewJob(Job):
    """Review: the sound of few utterances to a file, until a person has judged them.

    Attributes:
        results: endpoint to subscribe to.
        file: SQLite file.
        queue: number of the most uncertain utterances that are kept without being asked for.
        hours: age in hours from which sound is deleted.
        max_mb: most sound in MB that is kept at once.
        mute: while muted nothing is kept; None: the pipeline cannot be muted.
    """

    results: str
    file: Path
    queue: int
    hours: float
    max_mb: float
    streams: tuple[RecordedStream, ...]
    mute: MuteOptions | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryOptions:
    """What the history writer does, supervised or started by hand.

    Attributes:
        results: endpoint to subscribe to.
        file: SQLite file.
        days: age in days from which entries are removed.
        client_keys: keys for an encrypted endpoint.
    """

    results: str
    file: Path
    days: float
    client_keys: CurveClientKeys | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryJob(Job):
    """History: what the pipeline publishes to a SQLite file."""

    options: HistoryOptions


@dataclasses.dataclass(frozen=True)
class ReviewOptions:
    """The review that a page shows.

    Attributes:
        file: SQLite file of the stage `review`.
        labels: file that receives labels.
        bundle: folder of the bundle that is adapted.
        adapted: folder for the adapted one.
        queue, hours: as in `ReviewJob`.
        memory_s: seconds of sound that a ring holds.
    """

    file: Path
    labels: Path
    bundle: Path
    adapted: Path
    queue: int
    hours: float
    memory_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What the live page serves, supervised or started by hand.

    Attributes:
        results: endpoint to subscribe to.
        listen: HOST:PORT of the page.
        token: secret that a browser needs; None: none, on loopback only.
        history: SQLite file to read; None: the page has no history.
        bundle: folder of the bundle whose model card is shown.
        base_url: address of the page behind a reverse proxy.
        trusted_hosts: further host names of requests that are answered.
        client_keys: keys for an encrypted endpoint.
        control: control socket of the supervisor, for the mute button; None: the page has none.
        api_keys: file of the keys of programs; None: there are none.
        certificate, private_key: PEM files for TLS; None: plain HTTP.
        review: None: no review is configured.
        settings: the configuration of the pipeline, which the page can change; None: of none.
    """

    results: str
    listen: str
    token: str | None = dataclasses.field(default=None, repr=False)
    history: Path | None = None
    bundle: Path | None = None
    base_url: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    client_keys: CurveClientKeys | None = None
    control: Path | None = None
    api_keys: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    review: ReviewOptions | None = None
    settings: ConfigSource | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DashboardJob(Job):
    """Dashboard: the live page."""

    options: PageOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlertsJob(Job):
    """Alerts: judge the rules and deliver the alerts.

    Attributes:
        results: endpoint to subscribe to.
        bind: endpoint that answers `AskAlerts`.
        rules: the rules; they hold passwords.
        file: SQLite file of the outbox.
        time_zone: zone of the quiet hours; None: of the machine.
        give_up_s: age in seconds at which an alert is given up.
    """

    results: str
    bind: str
    rules: tuple[AlertRule, ...] = dataclasses.field(repr=False)
    file: Path
    time_zone: str | None = None
    give_up_s: float = 86400.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetJob(Job):
    """Fleet: publish what the hub publishes to a server of NATS.

    Attributes:
        results: endpoint to subscribe to.
        server: the server.
        site, box: parts of the subjects.
        outbox: SQLite file of what is not delivered yet.
        outbox_bytes: size from which the oldest messages are dropped.
        stream_bytes: size of the stream on a server of this box; None: the stream exists.
        stream_s: age in seconds at which that stream drops messages.
        rollout: None: the box takes no bundle from the centre.
    """

    results: str
    server: NatsServer
    site: str
    box: str
    outbox: Path
    outbox_bytes: int
    stream_bytes: int | None = None
    stream_s: float = 0.0
    rollout: RolloutOptions | None = None


def encode(job: Job) -> bytes:
    """A job as one line of JSON."""
    return json.dumps(dataclasses.asdict(job), default=str).encode() + b"\n"


def decode(kind: type[T], line: bytes) -> T:
    """The job of a class that `encode` wrote.

    Raises:
        ValueError, TypeError: the line is no job of this class.
    """
    job: T = _value(kind, json.loads(line))
    return job


def _value(hint: Any, value: Any) -> Any:
    """A value of JSON as a value of the annotated type."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{key: _value(hints.get(key), item) for key, item in dict(value).items()})
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [one for one in arguments if one is not type(None)]
        if isinstance(value, list):
            inner = [one for one in inner if get_origin(one) is tuple]
        return value if value is None or len(inner) > 1 else _value(inner[0], value)
    if origin is tuple:
        return tuple(_value(arguments[0], item) for item in value)
    if origin is dict:
        return {key: _value(arguments[1], item) for key, item in value.items()}
    return Path(value) if hint is Path else value

"""The process table: which processes a configuration needs, and the job of each."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.config.model import Config, StreamConfig
from speech_emotion.common.config_source import ConfigSource
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.state_folder import state_file
from speech_emotion.common.nats_server import NatsServer, RolloutOptions
from speech_emotion.common.security.api_keys import default_key_file
from speech_emotion.common.source_address import is_live
from speech_emotion.common.stage.control import ALERTS, CONTROL
from speech_emotion.common.stage.jobs import (
    AlertsJob,
    BundleFolder,
    CaptureJob,
    DashboardJob,
    FeaturesJob,
    FleetJob,
    HistoryJob,
    HistoryOptions,
    InferJob,
    Job,
    ListenOptions,
    MuteOptions,
    PageOptions,
    RecordedStream,
    RecordJob,
    RemoteFeatures,
    ReviewJob,
    ReviewOptions,
    SourceOptions,
    StreamJob,
)
from speech_emotion.common.stage.main import check_profile
from speech_emotion.supervision.bundle_choice import own_bundle
from speech_emotion.supervision.restart_policy import BACKOFF, RestartPolicy

FILES = ("file", "replay")
"""Kinds of sources that end by themselves."""
STAGES = ("capture", "features", "infer")
"""The stages of the pipeline, in the order of the sound."""
MIB = 1 << 20
CAPTURE_BACKOFF = dataclasses.replace(BACKOFF, limit_s=1.5)
"""A source that returns is live again within 5 s."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the jobs are made from.

    Attributes:
        bundle: the bundle in use.
        rings: stream → name of its ring's segment.
        hub: internal endpoint of the hub.
        folder: runtime folder of the sockets.
        stdin: file descriptor of the user's standard input.
        stdin_format: descriptor of a file in which capture keeps the format of that input.
        mute_register: file of the `MuteRegister`.
        spooled: source → descriptor of a file with the content of the pipe that it names.
        source: where the configuration comes from.
    """

    config: Config
    bundle: Bundle
    rings: Mapping[str, str]
    hub: str
    folder: Path
    stdin: int = 0
    stdin_format: int | None = None
    mute_register: Path | None = None
    spooled: Mapping[str, int] = dataclasses.field(default_factory=dict)
    source: ConfigSource = dataclasses.field(default_factory=ConfigSource)

    def common(self, process: str, nice: int) -> dict[str, Any]:
        """The fields that every job has."""
        return {"stage": process, "hub": self.hub, "supervisor_pid": os.getpid(), "nice": nice}

    @functools.cached_property
    def own_bundle(self) -> Path:
        """The folder of the bundle before any adaptation to its users."""
        return own_bundle(self.config)

    @property
    def features(self) -> dict[str, str]:
        """Stream → endpoint of its features process."""
        return {
            stream: f"ipc://{self.folder}/{process.replace('/', '.')}"
            for process, streams in workers(
                "features", self.config.workers.features, self.rings
            ).items()
            for stream in streams
        }


@dataclasses.dataclass(frozen=True)
class ProcessKind:
    """A row of the table.

    Attributes:
        name: name in `health`; `features/1` is the second process of the kind `features`.
        module: module that runs as the process.
        jobs: process name → job; empty where the configuration needs no such process.
        nice: nice value; below 0 it applies only where the system permits it.
        uses_bundle: whether a bundle swap replaces the process.
        before_capture: whether capture waits for it, so that it misses nothing.
        ends: whether exit code 0 means that its work is done.
        vital: whether the pipeline needs it.
        capture: whether it is a capture process.
        renewed: whether it is restarted when its job changes while the pipeline runs.
    """

    name: str
    module: str
    jobs: Callable[[Plan, int], dict[str, Job]]
    _: dataclasses.KW_ONLY
    nice: int = 0
    uses_bundle: bool = False
    before_capture: bool = False
    ends: bool = False
    vital: bool = True
    capture: bool = False
    renewed: bool = False

    def policy(self, config: Config) -> RestartPolicy:
        """How its processes are restarted."""
        # Only files end. With them, a process that ends quickly again and again is given up;
        # a live pipeline tries for ever.
        only_files = all(stream.source.startswith(FILES) for stream in config.stream)
        return RestartPolicy(
            quick_limit=10 if only_files else None,
            ends=self.ends,
            vital=self.vital,
            backoff=CAPTURE_BACKOFF if self.capture else BACKOFF,
        )


def features_jobs(plan: Plan, nice: int) -> dict[str, Job]:
    """One job for every worker."""
    host = plan.config.infer_host.wanted
    return {
        process: FeaturesJob(
            **plan.common(process, nice),
            bundle=bundle_folder(plan.bundle),
            bind=plan.features[streams[0]],
            remote=RemoteFeatures(host.features, host.lock) if host else None,
            prosody=plan.config.prosody,
        )
        for process, streams in workers(
            "features", plan.config.workers.features, plan.rings
        ).items()
    }


def infer_jobs(plan: Plan, nice: int) -> dict[str, Job]:
    """One job for every worker; none where infer runs on another machine."""
    if plan.config.infer_host.wanted:
        return {}
    return {
        process: InferJob(
            **plan.common(process, nice),
            bundle=bundle_folder(plan.bundle),
            features={stream: plan.features[stream] for stream in streams},
            runtime=plan.config.runtime,
            sensitivity=plan.config.sensitivity,
        )
        for process, streams in workers("infer", plan.config.workers.infer, plan.rings).items()
    }


def record_jobs(plan: Plan, nice: int) -> dict[str, Job]:
    """One job where a recording is configured."""
    if plan.config.record is None:
        return {}
    job = RecordJob(
        **plan.common("record", nice),
        folder=plan.config.record,
        results=plan.config.results,
        streams=tuple(RecordedStream(name, ring) for name, ring in plan.rings.items()),
    )
    return {"record": job}


def history_jobs(plan: Plan, nice: int) -> dict[str, Job]:
    """One job where a history file is configured."""
    history = plan.config.history
    if history.file is None:
        return {}
    options = HistoryOptions(results=plan.config.results, file=history.file, days=history.days)
    return {"history": HistoryJob(**plan.common("history", nice), options=options)}


def review_jobs(plan: Plan, nice: int) -> dict[str, Job]:
    """One job where a review is configured."""
    review = plan.config.review
    if review.file is None:
        return {}
    job = ReviewJob(
        **plan.common("review", nice),
        results=plan.config.results,
        file=review.file,
        queue=review.queue,
        hours=review.hours,
        max_mb=review.max_mb,
        streams=tuple(RecordedStream(name, ring) for name, ring in plan.rings.items()),
        mute=mute_options(plan),
    )
    return {"review": job}


def review_options(plan: Plan) -> ReviewOptions | None:
    """The review that the page shows."""
    review = plan.config.review
    if review.file is None:
        return None
    return ReviewOptions(
        file=review.file,
        labels=review.labels_file(review.file),
        bundle=plan.own_bundle,
        adapted=review.adapted_folder(review.file),
        queue=review.queue,
        hours=review.hours,
        memory_s=plan.config.ring.seconds,
    )


def dashboard_jobs(plan: Plan, nice: int) -> dict[str, Job]:
    """One job where the live page is configured."""
    page = plan.config.dashboard
    if page.listen is None:
        return {}
    options = PageOptions(
        results=plan.config.results,
        listen=page.listen,
        token=page.token,
        history=plan.config.history.file,
        bundle=plan.own_bundle,
        base_url=page.base_url,
        trusted_hosts=page.trusted_hosts,
        control=plan.folder / CONTROL,
        api_keys=page.api_keys or default_key_file(),
        certificate=page.certificate,
        private_key=page.private_key,
        review=review_options(plan),
        settings=plan.source,
    )
    return {"dashboard": DashboardJob(**plan.common("dashboard", nice), options=options)}


def alerts_jobs(plan: Plan, nice: int) -> dict[str, Job]:
    """One job where there are rules."""
    config = plan.config
    if not config.alerts:
        return {}
    job = AlertsJob(
        **plan.common("alerts", nice),
        results=config.results,
        bind=f"ipc://{plan.folder}/{ALERTS}",
        rules=tuple(row.rule for row in config.alerts),
        file=config.outbox.file or state_file("alerts.sqlite", "outbox.file"),
        time_zone=config.mute.time_zone,
        give_up_s=config.outbox.give_up_h * 3600.0,
    )
    return {"alerts": job}


def fleet_jobs(plan: Plan, nice: int) -> dict[str, Job]:
    """One job where a server of NATS is configured."""
    nats = plan.config.nats
    if nats.url is None:
        return {}
    job = FleetJob(
        **plan.common("fleet", nice),
        results=plan.config.results,
        server=NatsServer(
            *(nats.url, nats.seed, nats.credentials, nats.ca, nats.certificate, nats.private_key)
        ),
        site=nats.site,
        box=nats.box,
        outbox=nats.outbox_file,
        outbox_bytes=round(nats.outbox_mb * MIB),
        stream_bytes=None if nats.stream_mb is None else nats.stream_mb * MIB,
        stream_s=nats.stream_days * 86400.0,
        rollout=rollout_options(plan),
    )
    return {"fleet": job}


def rollout_options(plan: Plan) -> RolloutOptions | None:
    """How the box takes bundles from the centre."""
    nats = plan.config.nats
    if nats.rollout is None:
        return None
    return RolloutOptions(
        key=nats.rollout,
        folder=nats.bundles_folder,
        control=plan.folder / CONTROL,
        configured=plan.config.bundle.absolute(),
    )


def capture_jobs(plan: Plan, nice: int) -> dict[str, Job]:
    """One job for all files, and one for every device."""
    config, spec = plan.config, plan.bundle.spec
    options = SourceOptions(
        realtime=config.speed == "realtime",
        recorded=config.record is not None,
        stdin=plan.stdin,
        stdin_format=plan.stdin_format,
        listen=ListenOptions(**config.listen.model_dump()),
        close_muted=config.mute.close_device,
        **config.capture.model_dump(),
    )
    return {
        process: CaptureJob(
            **plan.common(process, nice),
            features=plan.features[streams[0].name],
            streams=tuple(
                StreamJob(
                    name=stream.name,
                    source=stream.source,
                    ring=plan.rings[stream.name],
                    channel=stream.channel,
                    mix=stream.mix or ("flip" if is_live(stream.source) else "mean"),
                    features=plan.features[stream.name],
                    spooled=plan.spooled.get(stream.source),
                )
                for stream in streams
            ),
            rate=spec.sample_rate,
            window=spec.window,
            hop=spec.hop,
            options=options,
            mute=mute_options(plan),
        )
        for process, streams in captures(config).items()
    }


def mute_options(plan: Plan) -> MuteOptions | None:
    """Where capture reads whether it is muted."""
    if plan.mute_register is None:
        return None
    mute = plan.config.mute
    return MuteOptions(plan.mute_register, mute.switch, mute.switch_muted)


PROCESS_TABLE = (
    ProcessKind("features", "features", features_jobs, uses_bundle=True),
    ProcessKind("infer", "infer", infer_jobs, uses_bundle=True),
    ProcessKind(
        "record",
        "capture.recording.recorder",
        record_jobs,
        nice=5,
        before_capture=True,
        vital=False,
    ),
    ProcessKind(
        "history",
        "dashboard.history_writer",
        history_jobs,
        nice=5,
        before_capture=True,
        vital=False,
        renewed=True,
    ),
    ProcessKind(
        *("alerts", "alerts", alerts_jobs), nice=5, before_capture=True, vital=False, renewed=True
    ),
    ProcessKind("fleet", "fleet", fleet_jobs, nice=5, before_capture=True, vital=False),
    ProcessKind(
        *("review", "dashboard.review.service", review_jobs), nice=5, vital=False, renewed=True
    ),
    ProcessKind("dashboard", "dashboard", dashboard_jobs, nice=5, vital=False, renewed=True),
    ProcessKind("capture", "capture", capture_jobs, nice=-10, capture=True, ends=True),
)
"""Every process that the supervisor can start, in the order of the first start. Capture has the
highest priority: sound that it does not read in time is lost."""


@dataclasses.dataclass(frozen=True)
class PlannedProcess:
    """A process that the configuration needs."""

    name: str
    kind: ProcessKind
    job: Job
    policy: RestartPolicy


def planned_processes(plan: Plan) -> list[PlannedProcess]:
    """Every process that the configuration needs, in the order of the table."""
    return [
        PlannedProcess(name, kind, job, kind.policy(plan.config))
        for kind in PROCESS_TABLE
        for name, job in kind.jobs(plan, kind.nice).items()
    ]


def workers(stage: str, count: int, streams: Mapping[str, str]) -> dict[str, list[str]]:
    """Worker → its streams. Streams are assigned to the workers in turn, and stay there."""
    names = list(streams)
    count = min(count, len(names))
    if count == 1:
        return {stage: names}
    return {f"{stage}/{slot}": names[slot::count] for slot in range(count)}


def captures(config: Config) -> dict[str, list[StreamConfig]]:
    """Capture process → its streams: one for all files, one for every device, source or port."""
    groups: dict[str, list[StreamConfig]] = {}
    for stream in config.stream:
        group = stream.source
        if group.startswith(FILES):
            group = "file"
        elif group.startswith(("listen:ws:", "listen:wss:")):
            group = group.rpartition("/")[0]  # the port, which all its devices share
        groups.setdefault(group, []).append(stream)
    if len(groups) == 1:
        return {"capture": next(iter(groups.values()))}
    return {f"capture/{streams[0].name}": streams for streams in groups.values()}


def bundle_folder(bundle: Bundle) -> BundleFolder:
    """A bundle as jobs name it."""
    return BundleFolder(bundle.path, bundle.display())


def profiles_of(pairs: list[str]) -> dict[str, str]:
    """Pairs STAGE=OUT as a table.

    Raises:
        UserError: a stage is unknown, or a file cannot be written.
    """
    table = {}
    for pair in pairs:
        stage, _, out = pair.partition("=")
        if stage not in STAGES or not out:
            raise UserError(f"--profile {pair!r} must be STAGE=OUT; stages: {', '.join(STAGES)}")
        check_profile(Path(out))
        table[stage] = out
    return table

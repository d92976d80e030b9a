"""The process table: which processes a configuration asks for, and with what job.

A table, and no more: `supervisor.py` starts what is in it and keeps it alive.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.config.model import Config, StreamConfig
from speech_emotion.supervision.child import Child
from speech_emotion.supervision.restart_policy import ProcessLifecycle, ProcessState, RestartPolicy

FILES = ("file", "replay")
"""Kinds of sources that come to an end by themselves."""
MODULES = {"record": "capture.recording.recorder", "history": "dashboard.history_writer"}
"""Modules of the stages that are not called like theirs."""
START_BEFORE_CAPTURE = ("record", "history")
"""They must be there before the first sound, to keep everything."""
STAGES = ("capture", "features", "infer")
NICE = {"capture": -10, "record": 5, "history": 5, "dashboard": 5}
"""Nice values, where the system lets us: sound that is not fetched in time is lost."""


@dataclasses.dataclass
class ManagedProcess:
    """A row of the process table: what runs, with what job, and how it is."""

    name: str
    module: str
    arguments: list[str]
    job: dict[str, Any]
    supervision: ProcessLifecycle
    inherit: tuple[int, ...] = ()
    child: Child | None = None
    told: str | None = None
    repeats: int = 0


def status_line(stages: list[ManagedProcess]) -> str:
    """How the pipeline is, in a line: all is well, or the first stage that is not."""
    for stage in stages:
        supervision = stage.supervision
        if supervision.state not in (ProcessState.READY, ProcessState.DONE):
            return (
                f"{stage.name} {supervision.state.value}: {supervision.reason or 'not yet ready'}"
            )
    return f"all {len(stages)} stages ready"


def process_table(
    config: Config, bundle: Bundle, rings: dict[str, str], *, hub: str, folder: str
) -> list[ManagedProcess]:
    """The process table."""
    now = time.monotonic()
    common = {"supervisor_pid": os.getpid(), "hub": hub}
    features = workers("features", config.workers.features, rings)
    infers = workers("infer", config.workers.infer, rings)
    endpoints = {
        stream: f"ipc://{folder}/{name.replace('/', '.')}"
        for name, streams in features.items()
        for stream in streams
    }
    path = str(bundle.path)
    # Only files come to an end; then nobody waits for a stage that dies again and again.
    only_files = all(stream.source.startswith(FILES) for stream in config.stream)
    policy = RestartPolicy(quick_limit=10 if only_files else None, ends=False)
    host = config.infer_host.wanted
    remote = {"endpoint": host.features, **host.lock.job()} if host else None
    rows: list[tuple[str, dict[str, Any], RestartPolicy, tuple[int, ...]]] = [
        (name, {"bundle": path, "bind": endpoints[streams[0]], "remote": remote}, policy, ())
        for name, streams in features.items()
    ]
    for name, streams in ({} if host else infers).items():
        theirs = {stream: endpoints[stream] for stream in streams}
        job = {"bundle": path, "known": [], "runtime": config.runtime, "features": theirs}
        rows.append((name, job, policy, ()))
    if config.record is not None:
        tape = {
            "folder": str(config.record),
            "results": config.results,
            "streams": [{"name": name, "ring": ring} for name, ring in rings.items()],
        }
        rows.append(("record", tape, policy, ()))
    for name, job in _extras(config).items():
        rows.append((name, job, dataclasses.replace(policy, vital=False), ()))
    patient = dataclasses.replace(policy, delay_limit=1.5, ends=True)
    for name, sources in _captures(config).items():
        # A child's own standard input carries its job.
        pipe = (os.dup(0),) if sources[0].source.startswith("stdin:") else ()
        job = _capture_job(config, bundle, rings, endpoints, sources, pipe)
        rows.append((name, job, patient, pipe))
    return [
        ManagedProcess(
            name=name,
            module=MODULES.get(name, name.partition("/")[0]),
            arguments=[],
            job={
                **common,
                **job,
                "stage": name,
                "standby": None,
                "nice": NICE.get(name.partition("/")[0], 0),
            },
            supervision=ProcessLifecycle(policy, now),
            inherit=inherit,
        )
        for name, job, policy, inherit in rows
    ]


def workers(stage: str, count: int, rings: dict[str, str]) -> dict[str, list[str]]:
    """The workers of a stage by name, and the streams of each: by turns, for good."""
    streams = list(rings)
    count = min(count, len(streams))
    if count == 1:
        return {stage: streams}
    return {f"{stage}/{slot}": streams[slot::count] for slot in range(count)}


def _extras(config: Config) -> dict[str, dict[str, Any]]:
    """What looks at the pipeline and is none of it: history and page, where they are wanted."""
    jobs: dict[str, dict[str, Any]] = {}
    file = config.history.file and str(config.history.file)
    if file is not None:
        jobs["history"] = {"results": config.results, "file": file, "days": config.history.days}
    if config.dashboard.listen is not None:
        jobs["dashboard"] = {
            "results": config.results,
            "history": file,
            "bundle": str(config.bundle),
            **config.dashboard.model_dump(),
        }
    return jobs


def _captures(config: Config) -> dict[str, list[StreamConfig]]:
    """Capture processes by name: one for all files, one for each device."""
    groups: dict[str, list[StreamConfig]] = {}
    for stream in config.stream:
        kind = stream.source.partition(":")[0]
        groups.setdefault("file" if kind in FILES else stream.source, []).append(stream)
    if len(groups) == 1:
        return {"capture": next(iter(groups.values()))}
    return {f"capture/{streams[0].name}": streams for streams in groups.values()}


def _capture_job(
    config: Config,
    bundle: Bundle,
    rings: dict[str, str],
    features: dict[str, str],
    streams: list[StreamConfig],
    pipe: tuple[int, ...],
) -> dict[str, Any]:
    return {
        "features": features[streams[0].name],
        "streams": [
            {
                "name": stream.name,
                "source": stream.source,
                "ring": rings[stream.name],
                "channel": stream.channel,
                "features": features[stream.name],
            }
            for stream in streams
        ],
        "rate": bundle.spec.sample_rate,
        "window": bundle.spec.window,
        "hop": bundle.spec.hop,
        "opening": {
            "realtime": config.speed == "realtime",
            "stdin": pipe[0] if pipe else 0,
            **config.capture.model_dump(),
        },
    }

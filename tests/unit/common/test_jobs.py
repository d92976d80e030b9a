"""Jobs: what the supervisor writes is what the stage reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speech_emotion.common.alert_rule import AlertRule
from speech_emotion.common.config_source import ConfigSource
from speech_emotion.common.nats_server import NatsServer
from speech_emotion.common.privacy.quiet_hours import QuietHours
from speech_emotion.common.security.curve import CurveClientKeys, CurveServerKeys
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
    PageOptions,
    RecordedStream,
    RecordJob,
    RemoteFeatures,
    SourceOptions,
    StreamJob,
    decode,
    encode,
)

FOLDER = BundleFolder(Path("/run/copy"), Path("models/default"))
COMMON = {"stage": "x/1", "hub": "ipc:///h", "supervisor_pid": 7}
JOBS: list[Job] = [
    CaptureJob(
        **COMMON,  # type: ignore[arg-type]
        nice=-10,
        features="ipc:///f",
        streams=(
            StreamJob("main", "file:a b\udcff.wav", "ring", 2, "ipc:///g"),
            StreamJob("array", "mic", "ring", (1, 3), mix="best"),
        ),
        rate=16000,
        window=16000,
        hop=8000,
        options=SourceOptions(latency=0.25, block_frames=160, stdin=5),
    ),
    FeaturesJob(
        **COMMON,  # type: ignore[arg-type]
        bundle=FOLDER,
        bind="ipc:///f",
        remote=RemoteFeatures("tcp://*:1", CurveServerKeys(Path("box"), Path("allowed"))),
        standby="features+next",
    ),
    FeaturesJob(**COMMON, bundle=FOLDER, bind="ipc:///f"),  # type: ignore[arg-type]
    InferJob(
        **COMMON,  # type: ignore[arg-type]
        bundle=FOLDER,
        known=(FOLDER, FOLDER),
        features={"main": "ipc:///f"},
        runtime="auto",
    ),
    RecordJob(
        **COMMON,  # type: ignore[arg-type]
        folder=Path("tape"),
        results="ipc:///r",
        streams=(RecordedStream("main", "ring"),),
    ),
    HistoryJob(
        **COMMON,  # type: ignore[arg-type]
        options=HistoryOptions(results="ipc:///r", file=Path("h.sqlite"), days=14.0),
    ),
    AlertsJob(
        **COMMON,  # type: ignore[arg-type]
        results="ipc:///r",
        bind="ipc:///a",
        rules=(
            AlertRule(
                name="loud",
                to=("https://box:pa55-pa55@example.org/hook", "command:lamp red"),
                threshold=-20.0,
                release=-23.0,
                dimension="level",
                quiet_hours=(QuietHours(0, 60, (0, 6)),),
            ),
        ),
        file=Path("alerts.sqlite"),
    ),
    FleetJob(
        **COMMON,  # type: ignore[arg-type]
        results="ipc:///r",
        server=NatsServer("tls://centre:4222", Path("box.nk"), ca=Path("ca.pem")),
        site="home",
        box="kitchen",
        outbox=Path("fleet.sqlite"),
        outbox_bytes=1 << 20,
    ),
    DashboardJob(
        **COMMON,  # type: ignore[arg-type]
        options=PageOptions(
            results="tcp://box:5555",
            listen="127.0.0.1:0",
            token="pa55-pa55-pa55",
            client_keys=CurveClientKeys(Path("own"), Path("server")),
            settings=ConfigSource(
                Path("box.toml"), {"stream": [{"source": "mic"}], "speed": "max"}
            ),
        ),
    ),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_a_job_arrives_as_it_was_sent(job: Job) -> None:
    line = encode(job)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(type(job), line) == job


def test_a_job_of_another_stage_is_refused() -> None:
    with pytest.raises(TypeError):
        decode(FeaturesJob, encode(JOBS[4]))


@pytest.mark.parametrize("line", [b"", b"[]\n", b"5\n", b"not json\n"])
def test_what_is_no_job_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(CaptureJob, line)


def test_a_token_is_not_shown_in_a_log() -> None:
    assert "pa55" not in repr(JOBS)
    assert json.loads(encode(JOBS[-1]))["options"]["token"] == "pa55-pa55-pa55"

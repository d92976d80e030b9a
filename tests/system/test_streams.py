"""Many streams, several workers: each stream equals its single run, and all are served."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion import supervisor
from speech_emotion.common.config.model import MAX_STREAMS
from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.supervision import process_table as processes
from tests.support.pipelines import PATIENCE_S, Running, check_beginning, offline

Supervise = Callable[..., Running]
Clip = Callable[..., Path]

WORKERS = {"SEP_WORKERS__FEATURES": "2", "SEP_WORKERS__INFER": "3"}


@pytest.mark.costly_cases
@pytest.mark.parametrize("workers", [{}, WORKERS], ids=["one worker", "two and three"])
def test_every_stream_equals_its_own_single_run(
    supervise: Supervise, clip: Clip, workers: dict[str, str]
) -> None:
    path = clip(8.0)
    running = supervise(f"--source=file:{path}", "--streams=7", "--speed=max", env=workers)
    code, stderr, received = running.ended()
    assert code == 0, stderr
    expected = offline(path)
    for n in range(1, 8):
        name = "main" if n == 1 else f"main-{n}"
        assert received.stream(name) == [{**row, "stream": name} for row in expected]
    stages = {row.name for row in received.fresh(public.Health)[-1].stages}
    if workers:
        assert stages >= {"features/0", "features/1", "infer/0", "infer/1", "infer/2"}
    else:
        assert stages == {"capture", "features", "infer"}


@pytest.mark.costly_cases
@pytest.mark.parametrize("stage", ["features", "infer"])
def test_a_killed_worker_loses_nothing_and_disturbs_no_other_worker(
    supervise: Supervise, clip: Clip, stage: str
) -> None:
    path = clip(8.0, repeat=20)
    names = ("main", "main-2", "main-3", "main-4")
    running = supervise(f"--source=file:{path}", "--streams=4", env=WORKERS)
    running.subscriber.wait_for(lambda r: all(r.fresh(public.Result, name) for name in names))
    rows = {row.name: row.pid for row in received_health(running).stages}
    os.kill(rows[f"{stage}/1"], signal.SIGKILL)
    running.subscriber.wait_for(
        lambda r: any(
            (row.name, row.restarts, row.state) == (f"{stage}/1", 1, "ready")
            for health in r.fresh(public.Health)
            for row in health.stages
        )
    )
    counts = {name: len(running.received.fresh(public.Result, name)) for name in names}
    running.subscriber.wait_for(
        lambda r: all(len(r.fresh(public.Result, name)) >= counts[name] + 4 for name in names)
    )
    running.process.terminate()
    code, stderr, received = running.ended()
    assert code == 0, stderr
    expected = offline(path)
    for name in names:
        check_beginning(received.stream(name), [{**row, "stream": name} for row in expected])
    restarts = {row.name: row.restarts for row in received.fresh(public.Health)[-1].stages}
    assert restarts[f"{stage}/1"] == 1
    assert sum(restarts.values()) == 1


def received_health(running: Running) -> public.Health:
    running.subscriber.wait_for(
        lambda received: any(h.state == "ok" for h in received.fresh(public.Health))
    )
    health: public.Health = running.received.fresh(public.Health)[-1]
    return health


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096, reason="needs 4,096 descriptors"
)
def test_as_many_streams_as_are_allowed_run_to_their_end(supervise: Supervise, clip: Clip) -> None:
    """Their capture has more than 1,024 descriptors, which select(2) cannot wait for."""
    flags = (f"--source=file:{clip(1.6)}", f"--streams={MAX_STREAMS}", "--speed=max")
    running = supervise(*flags, env={**WORKERS, "SEP_RING__SECONDS": "4"})
    for _ in range(4):  # they take several times as long on a busy machine
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.communicate(timeout=PATIENCE_S)
            break
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert len({result.stream for result in received.fresh(public.Result)}) == MAX_STREAMS
    assert all(stage.restarts == 0 for stage in received.fresh(public.Health)[-1].stages)


def test_live_streams_spread_their_windows_over_the_hop(supervise: Supervise, clip: Clip) -> None:
    running = supervise(f"--source=file:{clip(6.0)}", "--streams=20")
    code, stderr, received = running.ended()
    assert code == 0, stderr
    results = received.fresh(public.Result)
    by_stream: dict[str, list[public.Result]] = {}
    for result in results:
        by_stream.setdefault(result.stream, []).append(result)
    assert len(by_stream) == 20
    assert {len(rows) for rows in by_stream.values()} == {11}
    first = sorted(rows[0].time or 0.0 for rows in by_stream.values())
    assert first[-1] - first[0] >= 0.4  # a hop, minus the share of the last stream
    last = received.fresh(public.Health)[-1]
    assert "samples_overrun" not in last.counters


@pytest.mark.parametrize(
    ("count", "streams", "expected"),
    [
        (1, 3, {"features": ["s0", "s1", "s2"]}),
        (2, 3, {"features/0": ["s0", "s2"], "features/1": ["s1"]}),
        (4, 2, {"features/0": ["s0"], "features/1": ["s1"]}),
    ],
)
def test_streams_are_distributed_round_robin(
    count: int, streams: int, expected: dict[str, list[str]]
) -> None:
    rings = {f"s{k}": f"ring{k}" for k in range(streams)}
    assert processes.workers("features", count, rings) == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--streams=3"], ["--streams", "--source"]),
        (["--streams=3", "--source=mic"], ["--streams", "file:PATH"]),
        (["--streams=3", "--source=file:a", "--source=file:b"], ["--streams", "one"]),
        (["--streams=0", "--source=file:a"], ["--streams 0", f"1 to {MAX_STREAMS}"]),
        ([f"--streams={MAX_STREAMS + 1}", "--source=file:a"], [f"1 to {MAX_STREAMS}"]),
    ],
)
def test_a_wrong_number_of_streams_is_one_line(flags: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        supervisor.configure(supervisor.parser().parse_args(flags))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)

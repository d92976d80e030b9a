"""The whole pipeline: live equals offline, each result exactly once, no leftovers."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import soxr

from speech_emotion.common.wire import public
from speech_emotion.supervision.console import view as terminal
from tests.support.pipelines import (
    PATIENCE_S,
    Running,
    check_beginning,
    offline,
    runs,
    wait_until,
)

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


@pytest.mark.costly_cases
@pytest.mark.parametrize("block", [7, 160, 320, 1600])
def test_full_speed_equals_offline(supervise: Supervise, clip: Clip, block: int) -> None:
    path = clip(20.0)
    running = supervise(
        f"--source=file:{path}", "--speed=max", env={"SEP_CAPTURE__BLOCK_FRAMES": str(block)}
    )
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert received.stream() == offline(path)


@pytest.mark.costly_cases
@pytest.mark.parametrize("block", [7, 320])
def test_real_time_equals_offline(supervise: Supervise, clip: Clip, block: int) -> None:
    path = clip(6.3)
    running = supervise(f"--source=file:{path}", env={"SEP_CAPTURE__BLOCK_FRAMES": str(block)})
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert received.stream() == offline(path)
    assert all(result.time is not None for result in received.fresh(public.Result))


@pytest.mark.costly_cases
@pytest.mark.parametrize("block", [160, 1600])
def test_resampled_stereo_equals_offline(
    supervise: Supervise, clip: Clip, tmp_path: Path, block: int
) -> None:
    samples, rate = soundfile.read(clip(9.0), dtype="float32")
    high = soxr.resample(samples, rate, 44100)
    path = tmp_path / "stereo.flac"
    soundfile.write(path, np.stack([high, 0.5 * high[::-1]], axis=1), 44100)
    running = supervise(
        f"--source=file:{path}", "--speed=max", env={"SEP_CAPTURE__BLOCK_FRAMES": str(block)}
    )
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert received.stream() == offline(path)


def test_a_source_shorter_than_a_window_is_one_window(supervise: Supervise, clip: Clip) -> None:
    path = clip(0.7, start=2.8)
    code, stderr, received = supervise(f"--source=file:{path}", "--speed=max").ended()
    assert code == 0, stderr
    assert received.stream() == offline(path)
    (result,) = received.fresh(public.Result)
    assert (result.seq, result.start) == (0, 0)


def test_three_files_each_equal_their_own_single_run(supervise: Supervise, clip: Clip) -> None:
    paths = [clip(9.0, start=start, name=f"clip{start}") for start in (2.0, 10.0, 21.0)]
    running = supervise(*(f"--source=file:{path}" for path in paths), "--speed=max")
    code, stderr, received = running.ended()
    assert code == 0, stderr
    for name, path in zip(("main", "main-2", "main-3"), paths, strict=True):
        assert received.stream(name) == [{**row, "stream": name} for row in offline(path)]


@pytest.mark.costly_cases
@pytest.mark.parametrize("stage", ["features", "infer", "capture"])
@pytest.mark.parametrize("speed", ["realtime", "max"])
def test_exactly_once_with_a_stage_killed(
    supervise: Supervise, clip: Clip, stage: str, speed: str
) -> None:
    # At full speed the file is long enough for every kill to hit a busy stage.
    path = clip(10.0) if speed == "realtime" else clip(50.0, repeat=20)
    kills = 3
    running = supervise(f"--source=file:{path}", f"--speed={speed}")
    chance = random.Random(f"{stage} {speed}")
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    killed: set[int] = set()
    while len(killed) < kills and running.process.poll() is None:
        victim = running.stages().get(stage)
        if victim is None or victim.pid in killed:
            time.sleep(0.01)
            continue
        time.sleep(chance.uniform(0.0, 1.2 if speed == "realtime" else 0.3))
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            break
        killed.add(victim.pid)
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert killed
    assert received.stream() == offline(path)
    (row,) = [row for row in received.fresh(public.Health)[-1].stages if row.name == stage]
    assert row.restarts >= len(killed) - 1  # the last kill may hit a stage that is ending


@pytest.mark.costly_cases
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_ordered_stop_delivers_complete_windows(
    supervise: Supervise, clip: Clip, signum: signal.Signals
) -> None:
    path = clip(50.0)
    running = supervise(f"--source=file:{path}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    running.process.send_signal(signum)
    code, stderr, received = running.ended()
    assert code == 0, stderr
    results = received.fresh(public.Result)
    assert [result.seq for result in results] == list(range(len(results)))
    position = received.fresh(public.Health)[-1].streams[0].position
    assert results[-1].end <= position < results[-1].end + 8000  # one hop


def test_stages_end_with_a_killed_supervisor_and_the_next_cleans_up(
    supervise: Supervise, clip: Clip
) -> None:
    path = clip(50.0)
    running = supervise(f"--source=file:{path}")
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    stages = list(running.stages().values())
    assert len(stages) == 3
    segments = {path.name for path in Path("/dev/shm").glob(f"sep.{running.process.pid}.*")}
    assert segments
    running.process.kill()
    running.process.communicate()
    wait_until(lambda: not any(runs(stage) for stage in stages), "the stages to end")
    code, stderr, _ = supervise(f"--source=file:{clip(3.0, name='next')}", "--speed=max").ended()
    assert code == 0, stderr
    assert not segments & {path.name for path in Path("/dev/shm").iterdir()}


def test_health_and_info_list_stages_and_bundle(supervise: Supervise, clip: Clip) -> None:
    running = supervise(f"--source=file:{clip(5.0)}")
    code, stderr, received = running.ended()
    assert code == 0, stderr
    (info,) = received.fresh(public.Info)
    assert info.stream == "main"
    assert info.source.startswith("file:")
    assert info.bundle.startswith("small@")
    steady = [health for health in received.fresh(public.Health) if health.state == "ok"]
    assert steady
    assert {stage.name for stage in steady[-1].stages} == {"capture", "features", "infer"}
    assert all(stage.rss_mb > 0 for stage in steady[-1].stages)


def test_a_late_subscriber_gets_the_last_values_as_replays(
    supervise: Supervise, clip: Clip
) -> None:
    from tests.support.pipelines import Subscriber

    running = supervise(f"--source=file:{clip(50.0)}")
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    late = Subscriber(running.endpoint)
    late.wait_for(
        lambda received: (
            {type(message) for message, replay, _ in received.messages if replay}
            >= {public.Result, public.Info, public.Health}
        )
    )
    late.finish()
    running.process.send_signal(signal.SIGTERM)
    assert running.ended()[0] == 0


@pytest.mark.costly_cases
@pytest.mark.parametrize("stage", ["features", "infer"])
def test_a_stage_that_another_program_stopped_is_restarted(
    supervise: Supervise, clip: Clip, stage: str
) -> None:
    path = clip(50.0)
    running = supervise(f"--source=file:{path}")
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    running.stages()[stage].terminate()
    running.subscriber.wait_for(
        lambda received: any(
            row.restarts and row.state == "ready"
            for row in received.fresh(public.Health)[-1].stages
            if row.name == stage
        )
    )
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    check_beginning(received.stream(), offline(path))


def test_a_full_stderr_blocks_nothing(supervise: Supervise, clip: Clip) -> None:
    path = clip(50.0, repeat=12)
    running = supervise(f"--source=file:{path}", "--speed=max", pipesize=4096)
    assert running.process.stderr is not None
    assert running.process.wait(PATIENCE_S) == 0
    received = running.subscriber.finish(ended=True)
    assert received.stream() == offline(path)
    assert (
        len(running.process.stderr.read()) > 3900
    )  # the pipe was full, except for a part of a line


def test_lines_dropped_at_a_stopped_terminal_are_counted() -> None:
    held = threading.Event()
    try:
        with terminal.BackgroundView(Held(held)) as view:
            for _ in range(terminal.HELD_CALLS + 51):
                view.write("a line")
            assert 50 <= view.dropped <= 51  # the view may hold the first one
    finally:
        held.set()


class Held(terminal.PlainView):
    """A terminal after Ctrl-S."""

    def __init__(self, held: threading.Event) -> None:
        super().__init__()
        self._held = held

    def write(self, line: str) -> None:  # noqa: ARG002
        self._held.wait()


def test_a_closed_terminal_stops_nothing() -> None:
    class Closed(terminal.PlainView):
        def write(self, line: str) -> None:
            raise BrokenPipeError(line)

    with terminal.BackgroundView(Closed()) as view:
        for _ in range(3):
            view.write("a line")
        wait_until(lambda: view.dropped == 2, "the rest to be dropped")

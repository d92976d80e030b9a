"""What other programs remove or stop while the pipeline runs; a supervisor that itself was away."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from speech_emotion.common.errors import EXIT_FAULT, UserError
from speech_emotion.common.linux.runtime_dir import reclaim_runtime_dirs
from speech_emotion.common.ring.segment import reclaim_segments
from speech_emotion.common.stage.control import ANSWER_S
from speech_emotion.common.wire import public
from speech_emotion.supervision.control_socket import running
from tests.support.pipelines import PATIENCE_S, ROOT, Running, wait_until
from tests.support.swaps import OTHER, ask_swap

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def folder_of(pipeline: Running) -> Path:
    return running()[pipeline.process.pid].parent


def remove_ring(pipeline: Running) -> None:
    (ring,) = Path("/dev/shm").glob(f"sep.{folder_of(pipeline).name}.*")
    ring.unlink()


def remove_folder(pipeline: Running) -> None:
    shutil.rmtree(folder_of(pipeline), ignore_errors=True)  # the supervisor may notice midway


def remove_hub(pipeline: Running) -> None:
    (folder_of(pipeline) / "hub").unlink()


def remove_features(pipeline: Running) -> None:
    (folder_of(pipeline) / "features").unlink()


def remove_bundle(pipeline: Running) -> None:
    (folder_of(pipeline) / "bundle" / "model.tflite").unlink()


def remove_results(pipeline: Running) -> None:
    Path(pipeline.endpoint.removeprefix("ipc://")).unlink()


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    "remove",
    [remove_ring, remove_folder, remove_hub, remove_features, remove_bundle, remove_results],
    ids=lambda function: function.__name__.removeprefix("remove_"),
)
def test_what_another_program_removes_ends_the_pipeline_restartably(
    supervise: Supervise, clip: Clip, remove: Callable[[Running], None]
) -> None:
    pipeline = supervise(f"--source=file:{clip(50.0)}")
    pipeline.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    remove(pipeline)
    code, stderr, _ = pipeline.ended()
    assert code == EXIT_FAULT, stderr
    assert "was removed by another program" in stderr
    assert "Traceback" not in stderr


def test_a_stage_that_finds_its_bundle_removed_is_no_mistake_of_the_user(
    supervise: Supervise, clip: Clip
) -> None:
    pipeline = supervise(f"--source=file:{clip(50.0)}")
    pipeline.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    pipeline.process.send_signal(signal.SIGSTOP)
    shutil.rmtree(folder_of(pipeline) / "bundle")
    pipeline.stages()["infer"].kill()
    pipeline.process.send_signal(signal.SIGCONT)
    code, stderr, _ = pipeline.ended()
    assert code == EXIT_FAULT, stderr


def test_a_supervisor_that_was_stopped_kills_no_stage(supervise: Supervise, clip: Clip) -> None:
    pipeline = supervise(f"--source=file:{clip(50.0)}")
    pipeline.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    stages = {name: process.pid for name, process in pipeline.stages().items()}
    supervisor = psutil.Process(pipeline.process.pid)
    for _ in range(2):
        supervisor.suspend()
        time.sleep(4.0)
        supervisor.resume()
        resumed = time.time()
        pipeline.subscriber.wait_for(
            lambda received, resumed=resumed: any(  # type: ignore[misc]
                health.time > resumed + 1.0 for health in received.fresh(public.Health)
            )
        )
    assert {name: process.pid for name, process in pipeline.stages().items()} == stages
    pipeline.process.terminate()
    code, stderr, received = pipeline.ended()
    assert code == 0, stderr
    assert "did not run for" in stderr
    assert all(not stage.restarts for stage in received.fresh(public.Health)[-1].stages)


def test_the_swap_client_learns_at_once_that_its_supervisor_has_died(
    supervise: Supervise, clip: Clip
) -> None:
    pipeline = supervise(f"--source=file:{clip(50.0)}")
    pipeline.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    pipeline.process.send_signal(signal.SIGSTOP)  # so that it cannot answer
    control = running()[pipeline.process.pid]
    outcome: list[str] = []

    def client() -> None:
        with pytest.raises(UserError) as error:
            ask_swap(control, OTHER)
        outcome.append(str(error.value))

    thread = threading.Thread(target=client)
    thread.start()
    time.sleep(0.5)
    pipeline.process.kill()
    pipeline.process.wait()
    assert ANSWER_S > PATIENCE_S
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert "the pipeline has ended" in outcome[0]

    def reclaimed() -> bool:  # here, or by another test's pipeline at its start
        reclaim_segments()
        return not list(Path("/dev/shm").glob(f"sep.{pipeline.process.pid}.*"))

    wait_until(reclaimed, "the ring to be removed")
    reclaim_runtime_dirs()


def test_a_supervisor_without_descriptors_lives(supervise: Supervise, clip: Clip) -> None:
    pipeline = supervise(f"--source=file:{clip(50.0, repeat=10)}")
    pipeline.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    pid = pipeline.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65536)
    # Room for a connection or two, which libzmq must be able to accept, but not for the three
    # pipes of a child process: one free number, and those that infer gives back.
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    _, second, *_ = (number for number in range(max(used) + 3) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (second, hard))
    pipeline.stages()["infer"].kill()
    wait_until(
        lambda: any(
            "cannot be started" in (stage.reason or "")
            for health in pipeline.received.fresh(public.Health)[-1:]
            for stage in health.stages
        ),
        "the failed start",
    )
    # Without any free descriptor libzmq itself aborts where an ipc connection arrives; the bound
    # on connections of the hub keeps some free.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    since = time.time()
    pipeline.subscriber.wait_for(
        lambda received: any(
            health.time > since and health.state == "ok" for health in received.fresh(public.Health)
        )
    )
    pipeline.process.terminate()
    code, stderr, _ = pipeline.ended()
    assert code == 0, stderr
    assert "Traceback" not in stderr


@pytest.mark.costly_cases
@pytest.mark.parametrize("gap", [0.0, 0.0002, 0.002])
def test_a_double_stop_ends_in_order(supervise: Supervise, clip: Clip, gap: float) -> None:
    pipeline = supervise(f"--source=file:{clip(50.0)}")
    pipeline.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    pipeline.process.terminate()
    time.sleep(gap)
    pipeline.process.terminate()
    code, stderr, received = pipeline.ended()
    assert code == 0, stderr
    results = received.fresh(public.Result)
    assert [result.seq for result in results] == list(range(len(results)))


def test_rings_are_added_up_before_the_first_is_created() -> None:
    space = os.statvfs("/dev/shm")
    if not space.f_blocks:
        pytest.skip("shared memory without a limit")
    ring = 3600 * 16000 * 4
    streams = space.f_bavail * space.f_frsize // ring + 1
    if streams > 256:
        pytest.skip("shared memory is too large to be filled")
    done = subprocess.run(
        [
            sys.executable,
            "supervisor.py",
            "--source=file:examples/demo.flac",
            f"--streams={streams}",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
        env={**os.environ, "SEP_RING__SECONDS": "3600"},
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"streams: {streams}" in line
    assert "ring.seconds" in line
    assert os.statvfs("/dev/shm").f_bavail >= space.f_bavail - ring // space.f_frsize

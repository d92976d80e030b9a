"""A hang is judged by the time that the process could run, not by the clock alone."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from speech_emotion.common.linux import descriptors, run_delay
from speech_emotion.common.linux.descriptors import raise_descriptor_limit
from speech_emotion.common.linux.run_delay import RunDelay
from speech_emotion.common.stage.jobs import Job
from speech_emotion.supervision import managed_process
from speech_emotion.supervision.managed_process import ManagedProcess
from speech_emotion.supervision.process_table import PlannedProcess, ProcessKind
from speech_emotion.supervision.restart_policy import (
    Action,
    ProcessLifecycle,
    ProcessState,
    RestartPolicy,
)
from tests.support.pipelines import wait_until

POLICY = RestartPolicy()


def ready(at: float = 1.0) -> ProcessLifecycle:
    stage = ProcessLifecycle(POLICY, 0.0)
    stage.started(0.0)
    stage.beat(at, ready=True)
    return stage


def test_time_without_a_processor_is_no_silence() -> None:
    assert ready().act(6.0, starved_s=4.0) is None
    assert ready().act(6.0, starved_s=2.0) is Action.KILL
    starting = ProcessLifecycle(POLICY, 0.0)
    starting.started(0.0)
    assert starting.act(60.0, starved_s=40.0) is None
    assert starting.act(60.0, starved_s=20.0) is Action.KILL


def test_patience_has_an_end() -> None:
    limit = POLICY.beat_within * POLICY.patience
    assert ready(0.0).act(limit - 0.1, starved_s=1000.0) is None
    assert ready(0.0).act(limit + 0.1, starved_s=1000.0) is Action.KILL


def test_a_supervisor_that_did_not_run_extends_the_deadlines() -> None:
    stage = ready(1.0)
    stage.postpone(4.0)
    assert stage.act(6.0) is None
    stage.beat(1.0, ready=True)  # an old heartbeat does not shorten them
    assert stage.act(7.4) is None
    assert stage.act(7.6) is Action.KILL


def test_a_failed_start_waits_and_is_repeated() -> None:
    stage = ProcessLifecycle(POLICY, 0.0, random_factor=lambda: 1.0)
    stage.not_started(0.0, "cannot be started (Too many open files)")
    assert stage.state is ProcessState.WAITING
    assert stage.reason == "cannot be started (Too many open files)"
    stage.not_started(0.0, "again")
    assert stage.act(0.4) is None
    assert stage.act(0.5) is Action.START


SPIN = "import threading\nwhile True: pass"
needs_schedstat = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="needs /proc/PID/schedstat"
)


@needs_schedstat
def test_a_busy_machine_is_seen_in_the_scheduling_delay() -> None:
    """Several processes on one processor: each waits most of the time."""
    processor = min(os.sched_getaffinity(0))
    spinners = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(6)]
    try:
        for one in spinners:
            os.sched_setaffinity(one.pid, {processor})
        wait_until(lambda: psutil.Process(spinners[0].pid).cpu_times().user > 0.1, "the start")
        began = time.monotonic()
        delay = RunDelay(spinners[0].pid, began)
        wait_until(lambda: delay.seconds(time.monotonic()) > 1.0, "a delay of 1 s")
        delayed = delay.seconds(time.monotonic())
        assert delayed <= time.monotonic() - began + 0.2
        spinners[1].send_signal(signal.SIGSTOP)
        wait_until(
            lambda: psutil.Process(spinners[1].pid).status() == psutil.STATUS_STOPPED, "the stop"
        )
        stopped = RunDelay(spinners[1].pid, time.monotonic())
        time.sleep(0.5)
        assert stopped.seconds(time.monotonic()) < 0.1  # a stopped process does not wait
    finally:
        for one in spinners:
            one.kill()
            one.wait()


def test_a_thread_that_waits_all_the_time_is_seen_before_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel counts a wait only when it ends."""
    looks: list[dict[str, Any]] = [
        {"1": run_delay._Thread(5, 100, True)},
        {"1": run_delay._Thread(5, 100, True)},
        {"1": run_delay._Thread(5, 100, True)},
        {"1": run_delay._Thread(6, 100 + 3 * 10**9, False)},
    ]
    monkeypatch.setattr(run_delay, "_threads", lambda _: looks.pop(0))
    delay = RunDelay(1, 0.0)
    assert delay.seconds(1.0) == 1.0
    assert delay.seconds(3.0) == 3.0
    assert delay.seconds(4.0) == 3.0


def test_a_process_that_is_gone_has_no_delay() -> None:
    assert RunDelay(2**22 + 1, 0.0).seconds(9.0) == 0.0


@pytest.fixture
def process() -> ManagedProcess:
    """A process of the table whose job is of no matter."""
    kind = ProcessKind("infer", "infer", lambda _, __: {})
    job = Job(stage="infer", hub="ipc:///h", supervisor_pid=1)
    planned = PlannedProcess("infer", kind, job, POLICY)
    return ManagedProcess(planned, 0.0, write=lambda _: None, wake=lambda: None)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("no thread")])
def test_a_system_without_descriptors_delays_the_start(
    process: ManagedProcess, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(managed_process, "Child", fail)
    process.turn(0.0, None, may_start=True)
    assert process.child is None
    assert process.lifecycle.state is ProcessState.WAITING
    assert "cannot be started" in (process.lifecycle.reason or "")


def test_the_descriptor_limit_is_raised_as_far_as_permitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = {resource.RLIMIT_NOFILE: (1024, 4096)}
    change: Callable[[int, tuple[int, int]], None] = limits.__setitem__
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", change)
    raise_descriptor_limit()
    assert limits[resource.RLIMIT_NOFILE] == (4096, 4096)
    limits[resource.RLIMIT_NOFILE] = (1024, resource.RLIM_INFINITY)
    raise_descriptor_limit()
    assert limits[resource.RLIMIT_NOFILE] == (descriptors.WANTED, resource.RLIM_INFINITY)
    limits[resource.RLIMIT_NOFILE] = (10**6, 10**6)
    raise_descriptor_limit()
    assert limits[resource.RLIMIT_NOFILE] == (10**6, 10**6)

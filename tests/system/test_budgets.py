"""Every process has a row in the table of budgets, and stays within it.

CPU and start time are measured where nothing else runs, by `make bench`; here, beside other
tests, only what load does not change: memory, and that each does its work once and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.config.load import load_config
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.wire import public
from speech_emotion.supervision.budgets import BUDGETS, budget_of
from speech_emotion.supervision.process_table import PROCESS_TABLE, Plan, planned_processes
from tests.support.pipelines import Running, wait_until

SECONDS = 10.0


def test_every_stage_that_the_supervisor_can_start_has_a_row() -> None:
    assert {*(kind.name for kind in PROCESS_TABLE), "supervisor"} == set(BUDGETS)


def test_every_row_of_the_process_table_has_a_budget(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    flags = {
        "record": tmp_path / "tape",
        "history": {"file": tmp_path / "history.sqlite"},
        "alerts": [{"name": "loud", "dimension": "level", "threshold": -20, "to": "command:true"}],
        "dashboard": {"listen": "127.0.0.1:0"},
        "nats": {"url": "nats://127.0.0.1:4222"},
        "review": {"file": tmp_path / "review.sqlite"},
        "workers": {"features": 2, "infer": 3},
        "stream": [{"name": name, "source": f"file:{name}.wav"} for name in names],
    }
    rings = {name: f"ring-{name}" for name in names}
    bundle = load_bundle(DEFAULT_BUNDLE)
    planned = planned_processes(
        Plan(load_config(None, flags), bundle, rings, "ipc:///h", Path("/f"))
    )
    # features, infer; record, history, alerts, fleet, review, dashboard, capture
    assert len(planned) == 2 + 3 + 7
    for process in planned:
        assert budget_of(process.name)


def test_a_process_without_a_row_is_found() -> None:
    with pytest.raises(KeyError):
        budget_of("dance/1")


def test_running_processes_stay_within_memory_and_rate(
    supervise: Callable[..., Running], clip: Callable[..., Path], tmp_path: Path
) -> None:
    running = supervise(
        *(
            f"--source=file:{clip(50.0, repeat=3)}",
            "--record",
            str(tmp_path / "tape"),
            "--speed=realtime",
        ),
        f"--bundle={DEFAULT_BUNDLE}",
    )
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    began = running.received.fresh(public.Health)[-1]
    # The mean nears the rate of the work, whatever a busy machine has delayed for some seconds.
    wait_until(lambda: not beyond_rates(running, began.time), "the rates of the table")
    healths = [h for h in running.received.fresh(public.Health) if h.time >= began.time]
    processes = {"supervisor": psutil.Process(running.process.pid)}
    for row in healths[-1].stages:
        processes[row.name] = psutil.Process(row.pid)
    known = {process.pid for process in processes.values()}
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert {child.pid for child in children} <= known, "a process that health does not name"
    for name, process in processes.items():
        megabytes = process.memory_full_info().pss / 2**20
        assert megabytes <= budget_of(name).pss_mb, (name, megabytes)
    running.process.terminate()
    assert running.ended()[0] == 0


def beyond_rates(running: Running, began: float) -> dict[str, float]:
    """Process → its mean rate, where that is not in its budget; the supervisor
    before `SECONDS` are over."""
    healths = [h for h in running.received.fresh(public.Health) if h.time >= began]
    elapsed = healths[-1].time - healths[0].time
    if elapsed < SECONDS:
        return {"supervisor": 0.0}
    means: dict[str, float] = {"supervisor": (len(healths) - 1) / elapsed}
    # A process's first beats count from its start, when there was nothing to do yet.
    settled = [h for h in healths if h.time >= began + 1.5]
    for name in ("capture", "features", "infer", "record"):
        rates = [row.rate_hz for h in settled for row in h.stages if row.name == name]
        means[name] = sum(rates) / len(rates)

    def within(name: str) -> bool:
        low, high = budget_of(name).rate_hz
        return low <= means[name] <= high

    return {name: mean for name, mean in means.items() if not within(name)}

"""Five minutes of a live microphone beside programs that want both cores."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from common import messages as m
from tests.conftest import Running
from tests.pulse import VirtualMicrophone, installed

SECONDS = 300.0


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.skipif(not installed(), reason="needs PulseAudio: deploy/setup.sh dev installs it")
def test_a_loaded_machine_loses_no_sample(supervise: Callable[..., Running]) -> None:
    with VirtualMicrophone() as mic:
        running = supervise("--source=mic", env=mic.env)
        running.subscriber.wait_for(lambda received: bool(received.fresh(m.Result)))
        load = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"])
            for _ in range(psutil.cpu_count() or 2)
        ]
        try:
            time.sleep(SECONDS)
        finally:
            for one in load:
                one.kill()
                one.wait()
        running.process.terminate()
        code, stderr, received = running.ended()
    assert code == 0, stderr
    last = received.fresh(m.Health)[-1]
    (stream,) = last.streams
    lost = {name: n for name, n in last.counters.items() if n and name != "results_accepted"}
    print(stderr)
    print(f"{stream.position} samples, {stream.gaps} gaps, {stream.lost} lost, counters {lost}")
    assert (stream.gaps, stream.lost) == (0, 0)
    assert not lost
    assert all(stage.restarts == 0 for stage in last.stages)
    results = received.fresh(m.Result)
    assert [result.seq for result in results] == list(range(len(results)))
    assert all(result.lost == 0 for result in results)
    assert stream.position >= SECONDS * results[0].rate

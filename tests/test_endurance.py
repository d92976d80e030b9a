"""Five minutes of a live microphone beside programs that want both cores."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from common import messages as m
from tests.conftest import Running
from tests.pulse import VirtualMicrophone, installed

SECONDS = 300.0


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.skipif(not installed(), reason="needs PulseAudio: deploy/setup.sh dev installs it")
def test_a_loaded_machine_loses_no_sample(
    supervise: Callable[..., Running], tmp_path: Path
) -> None:
    # Digital silence for a minute would make capture open the device anew.
    noise = np.random.default_rng(0).normal(0.0, 0.01, int((SECONDS + 60) * 16000))
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    with VirtualMicrophone() as mic:
        mic.play(tmp_path / "noise.wav")
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

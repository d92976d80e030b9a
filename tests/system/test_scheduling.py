"""Short slices are asked for by every process of the pipeline."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from speech_emotion.common.linux.scheduling import SLICE_NS, slice_ns
from speech_emotion.common.wire import public
from tests.support.pipelines import ROOT, Running

EEVDF = (6, 12)
release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
pytestmark = pytest.mark.skipif(
    release < EEVDF or slice_ns(os.getpid()) is None, reason="this kernel knows no custom slices"
)


def test_a_process_that_asks_has_them_and_hands_them_on_with_its_nice_value() -> None:
    program = (
        "import os, subprocess, sys\n"
        "from speech_emotion.common.linux.scheduling import request_short_time_slices\n"
        "os.nice(3)\n"
        "assert request_short_time_slices()\n"
        "code = 'import os; from speech_emotion.common.linux.scheduling import slice_ns; '\n"
        "code += 'print(slice_ns(0), os.nice(0))'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    nice = min(19, os.nice(0) + 3)
    assert done.stdout.split() == [str(SLICE_NS), str(nice)]


def test_every_process_of_a_pipeline_has_them(
    supervise: Callable[..., Running], clip: Callable[..., Path]
) -> None:
    running = supervise(f"--source=file:{clip(50.0)}")
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    main = psutil.Process(running.process.pid)
    slices = {process.pid: slice_ns(process.pid) for process in [main, *main.children()]}
    assert len(slices) == 4
    assert set(slices.values()) == {SLICE_NS}
    threads = Path(f"/proc/{main.pid}/task").iterdir()
    assert {slice_ns(int(thread.name)) for thread in threads} == {SLICE_NS}
    running.process.terminate()
    assert running.ended()[0] == 0


def test_a_stage_started_by_hand_asks_as_well(clip: Callable[..., Path]) -> None:
    code = (
        "import runpy, sys, os\n"
        "from speech_emotion.common.linux.scheduling import slice_ns\n"
        f"sys.argv = ['features', {str(clip(2.0))!r}]\n"
        "try:\n"
        "    runpy.run_module('features', run_name='__main__')\n"
        "except SystemExit:\n"
        "    print(slice_ns(0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == str(SLICE_NS)

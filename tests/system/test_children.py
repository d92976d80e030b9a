"""A program that is killed leaves no process that it has started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from tests.support.pipelines import ROOT, leftovers, nothing_left_but, runs, wait_until

ADAPT = """
import asyncio
from pathlib import Path
from speech_emotion.common.stage.jobs import ReviewOptions
from speech_emotion.dashboard.review.adapting import Adapting
async def adapt():
    adapting = Adapting(ReviewOptions.__new__(ReviewOptions), None)
    await adapting._train([])
asyncio.run(adapt())
"""
TRY = """
import sys
from speech_emotion.commands.trial import run_trial
from speech_emotion.common.config.load import load_config
run_trial(load_config(None, {"stream": [{"name": "main", "source": f"file:{sys.argv[1]}"}]}))
"""


def command_of(process: psutil.Process) -> str:
    """Its command line; empty where it has ended, as the helpers of an import soon have."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.parametrize(
    ("program", "child"), [(ADAPT, "sleep"), (TRY, "sep infer")], ids=["adapt", "trial"]
)
def test_no_child_outlives_a_killed_program(program: str, child: str, tmp_path: Path) -> None:
    nice = tmp_path / "nice"  # in the place of the training that it would begin
    nice.write_text("#!/bin/sh\nexec sleep 600\n")
    nice.chmod(0o755)
    before = leftovers()
    sound = tmp_path / "long.wav"
    soundfile.write(sound, np.zeros(600 * 16000, np.int16), 16000)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(sound)],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    children: list[psutil.Process] = []

    def begun() -> bool:
        assert process.poll() is None
        children[:] = psutil.Process(process.pid).children(recursive=True)
        return any(child in command_of(one) for one in children)

    wait_until(begun, "its processes")
    process.kill()
    process.wait()
    wait_until(lambda: not any(runs(one) for one in children), "their end")
    nothing_left_but(before)

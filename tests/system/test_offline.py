"""Library, command and live pipeline on one file; memory of the command on long files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speech_emotion import Pipeline
from tests.support.pipelines import BUNDLE, PATIENCE_S, ROOT, Running, comparable, offline

CLASSIC = ROOT / "models" / "classic"
Supervise = Callable[..., Running]
Demo = tuple[NDArray[np.float32], int]


@pytest.mark.costly_cases
@pytest.mark.parametrize(("rate", "bundle"), [(16000, CLASSIC), (44100, BUNDLE)])
def test_library_command_and_live_pipeline_are_equal(
    supervise: Supervise, tmp_path: Path, demo: Demo, rate: int, bundle: Path
) -> None:
    samples = np.stack([demo[0], np.roll(demo[0], 50) * np.float32(0.3)], axis=1)
    path = tmp_path / "stereo.flac"
    soundfile.write(path, samples, rate)
    running = supervise("--source", f"file:{path}", "--speed", "max", "--bundle", str(bundle))
    code, stderr, received = running.ended()
    assert code == 0, stderr
    live = received.stream()
    assert {row["kind"] for row in live} == {"result", "utterance"}
    assert [comparable(message) for message in Pipeline(bundle)(path)] == live
    assert offline(path, bundle) == live


def peak_mb(path: Path) -> float:
    """Largest resident memory of `infer FILE` in MiB."""
    code = (
        "import runpy, sys\n"
        "from tests.support.memory import peak_mib\n"
        f"sys.argv = ['infer', {str(path)!r}, '--bundle', {str(BUNDLE)!r}, '--json']\n"
        "try: runpy.run_module('infer', run_name='__main__', alter_sys=True)\n"
        "finally: print(peak_mib(), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
        check=True,
    )
    return float(done.stderr.split()[-1])


def test_the_length_of_a_file_needs_no_memory(tmp_path: Path) -> None:
    """Six minutes more of 192 kHz in float32 would be 264 MB."""
    rate = 192_000
    paths = tmp_path / "one.flac", tmp_path / "seven.flac"
    for path, minutes in zip(paths, (1, 7), strict=True):
        with soundfile.SoundFile(path, "w", rate, 1) as file:
            for _ in range(minutes * 60):
                file.write(np.zeros(rate, np.int16))
    short, long = (peak_mb(path) for path in paths)
    assert long - short < 20
    assert long < 300

"""The example subscribers with a real pipeline; errors of the user in all examples."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion.common.wire import public
from tests.support.pipelines import PATIENCE_S, ROOT, Running, line_of

EXAMPLES = ROOT / "examples"
Supervise = Callable[..., Running]
Clip = Callable[..., Path]
Start = Callable[[Running], subprocess.Popen[str]]


@pytest.fixture
def python_subscriber() -> Start:
    def start(running: Running) -> subprocess.Popen[str]:
        program = [sys.executable, str(EXAMPLES / "subscribe.py"), running.endpoint]
        return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def node_subscriber(tmp_path: Path) -> Start:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = shutil.copytree(
        EXAMPLES / "node", tmp_path / "node", ignore=shutil.ignore_patterns("node_modules")
    )
    installed = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True
    )
    if installed.returncode != 0:
        pytest.skip(f"npm ci failed: {installed.stderr.strip().splitlines()[-1]}")

    def start(running: Running) -> subprocess.Popen[str]:
        program = ["node", "subscribe.mjs", running.endpoint]
        return subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=folder)

    return start


@pytest.fixture(params=["python", pytest.param("node", marks=pytest.mark.slow)])
def subscriber(request: pytest.FixtureRequest) -> Start:
    start: Start = request.getfixturevalue(f"{request.param}_subscriber")
    return start


def test_an_example_prints_every_result_of_its_stream(
    supervise: Supervise, clip: Clip, subscriber: Start
) -> None:
    # The subscription `main` is a prefix of `main-2`, which must not be printed.
    clips = (clip(9.0, repeat=20, name=name) for name in ("one", "other"))
    running = supervise(*(f"--source=file:{path}" for path in clips))
    example = subscriber(running)
    try:
        lines = [line_of(example) for _ in range(5)]
        code, stderr, received = running.stopped()
        assert code == 0, stderr
        results = received.fresh(public.Result, "main")
        while lines[-1].split()[0] != str(results[-1].seq):
            lines.append(line_of(example))
    finally:
        example.kill()
        rest, _ = example.communicate()
    assert rest == ""
    known = {result.seq: result for result in results}
    rows = [line.split() for line in lines]
    seqs = [int(row[0]) for row in rows]
    # If it subscribed late, its first result is a replay.
    assert sorted(set(seqs)) == list(range(seqs[0], results[-1].seq + 1))
    assert len(seqs) <= len(set(seqs)) + 1
    for number, state, emotion, confidence in rows:
        result = known[int(number)]
        assert state == result.state
        if result.emotion is None:
            assert (emotion, confidence) in (("None", "None"), ("null", "null"))
        else:
            assert (emotion, float(confidence)) == (result.emotion, result.confidence)


def test_the_python_example_is_short() -> None:
    assert len((EXAMPLES / "subscribe.py").read_text().splitlines()) < 30


PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))
WITHOUT_PACKAGES = {"follow_http.py"}
"""Programs that need the standard library only."""
HEAVY = {
    "pytorch_model.py": "torch",
    "pipecat_perception.py": "pipecat",  # tests/system/test_voice_agents.py
    "livekit_perception.py": "livekit",
    "ros2_node.py": "rclpy",
}
"""Programs with packages that the tests' environment does not have."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_of_each_example(name: str) -> None:
    if name in HEAVY:
        pytest.importorskip(HEAVY[name])
    done = run_example(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize("flags", [[], ["--help"]], ids=str)
@pytest.mark.parametrize("name", [n for n in PROGRAMS if n not in WITHOUT_PACKAGES])
def test_a_missing_package_is_one_line(name: str, flags: list[str]) -> None:
    done = run_example(name, *flags, options=("-I", "-S"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.search("is missing; (.* )?pip install", line)


def run_example(
    name: str, *flags: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, str(EXAMPLES / name), *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_node_example_pins_what_it_needs_and_names_no_host() -> None:
    package = json.loads((EXAMPLES / "node" / "package.json").read_text())
    lock = json.loads((EXAMPLES / "node" / "package-lock.json").read_text())
    for name, version in package["dependencies"].items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    assert "resolved" not in (EXAMPLES / "node" / "package-lock.json").read_text()

"""The examples for voice agents with the real packages, in an environment of their own."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.history import make_utterance
from tests.support.pipelines import ROOT
from tests.support.publisher import Publisher, health

PYTHON = ROOT / ".venv-agents" / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="needs pipecat-ai and livekit-agents: deploy/setup.sh agents"
    ),
]


def program(name: str) -> Path:
    return ROOT / "examples" / name


@pytest.mark.parametrize("name", ["pipecat_perception.py", "livekit_perception.py"])
def test_an_utterance_becomes_a_line_of_context(
    publisher: tuple[Publisher, str], name: str, tmp_path: Path
) -> None:
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [PYTHON, program(name), "--endpoint", publisher[1]],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process,
    ):
        try:
            publisher[0].wait_for()
            publisher[0].send(health())
            publisher[0].send(dataclasses.replace(make_utterance(1), emotion="uncertain"))
            for seq, emotion in ((2, "sad"), (3, "angry")):
                publisher[0].send(dataclasses.replace(make_utterance(seq), emotion=emotion))
            assert process.stdout is not None
            # Lines keep their order: one for the uncertain utterance would have come first.
            spoken = (line for line in process.stdout if "The voice" in line)
            assert [next(spoken).split(". ")[0] for _ in range(2)] == [
                "system: The voice in the last utterance (1.5 s) sounded sad, 75% sure",
                "system: The voice in the last utterance (1.5 s) sounded angry, 75% sure",
            ], (tmp_path / "log").read_text()
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["pipecat_perception.py", "livekit_perception.py"])
def test_help(name: str) -> None:
    done = subprocess.run(
        [PYTHON, program(name), "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")

"""`speech-emotion health`: its exit code follows a real pipeline."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pipelines import PATIENCE_S, Running, command

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def test_the_exit_code_follows_the_pipeline(supervise: Supervise, clip: Clip) -> None:
    running = supervise(f"--source=file:{clip(50.0)}")
    pid = ("--pid", running.process.pid)
    well = command("health", "--wait", PATIENCE_S / 2, *pid)
    assert (well.returncode, well.stdout) == (0, "ok\n"), well.stderr
    running.process.send_signal(signal.SIGSTOP)
    silent = command("health", *pid)
    running.process.send_signal(signal.SIGCONT)
    assert silent.returncode == 1
    assert "no answer within 2 s" in silent.stdout
    running.process.terminate()
    assert running.ended()[0] == 0
    gone = command("health", *pid)
    assert (gone.returncode, gone.stdout) == (1, "no pipeline of this user is running\n")


def test_what_is_wrong_is_named(supervise: Supervise) -> None:
    absent = {"SEP_CAPTURE__WAIT_FOR_DEVICE": "true"}
    running = supervise("--source=mic:no such microphone", env=absent)
    done = command("health", "--wait", "3", "--pid", running.process.pid)
    assert done.returncode == 1
    assert "stream main" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    running.process.terminate()
    assert running.ended()[0] == 0


@pytest.mark.parametrize("words", [("--wait", "long"), ("--pid", "x"), ("now",)])
def test_a_mistake_is_one_line(words: tuple[str, ...]) -> None:
    done = command("health", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr

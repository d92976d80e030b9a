"""`speech-emotion health`: its exit code follows a real pipeline."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion.common.wire import public
from tests.support.pipelines import PATIENCE_S, Running, command, wait_until

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def test_the_exit_code_follows_the_pipeline(supervise: Supervise, clip: Clip) -> None:
    running = supervise(f"--source=file:{clip(50.0)}")
    pid = ("--pid", running.process.pid)
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
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
    looks = []

    def named() -> bool:  # not yet while the pipeline starts
        looks.append(command("health", "--wait", "0.5", "--pid", running.process.pid))
        return "stream main" in looks[-1].stdout

    wait_until(named, "the stream to be named")
    assert {done.returncode for done in looks} == {1}
    assert len(looks[-1].stdout.splitlines()) == 1
    running.process.terminate()
    assert running.ended()[0] == 0


@pytest.mark.parametrize("words", [("--wait", "long"), ("--pid", "x"), ("now",)])
def test_a_mistake_is_one_line(words: tuple[str, ...]) -> None:
    done = command("health", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr

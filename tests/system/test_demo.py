"""`speech-emotion demo`: ends by itself without a terminal, finds free ports, checks flags."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion.commands.demo import PAGE_PORT, RESULTS_PORT
from speech_emotion.common.errors import EXIT_USER
from tests.support.pipelines import PATIENCE_S, ROOT, command


def test_a_demo_whose_ports_are_in_use_finds_others_and_ends_with_what_comes_next() -> None:
    with contextlib.ExitStack() as stack:
        for port in (PAGE_PORT, RESULTS_PORT):
            taken = stack.enter_context(socket.socket())
            # Also while an earlier connection of the port is in TIME_WAIT; the demo binds it then.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # in use already: as good
                taken.bind(("127.0.0.1", port))
                taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "speech_emotion", "demo", "--speed", "max"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "CI": "1"},
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, done.stderr
    first, second = done.stderr.splitlines()[:2]
    assert first.startswith("The live page: http://127.0.0.1:")
    assert not first.endswith(f":{PAGE_PORT}")
    assert second.startswith(f"Port {RESULTS_PORT} is in use; results: tcp://127.0.0.1:")
    assert "speech-emotion run --dashboard" in done.stderr


RACE = """
import contextlib, pathlib, socket, sys
from speech_emotion.commands import demo

free_port, taken = demo.free_port, []


def raced(preferred):
    port = free_port(preferred)
    while preferred == int(sys.argv[1]) and not taken:
        port = free_port(preferred)
        with contextlib.suppress(OSError):
            taken.append(socket.create_server(("127.0.0.1", port)))
    return port


demo.free_port, demo.DEMO_CLIP = raced, pathlib.Path(sys.argv[2])
sys.exit(demo.main(["--speed", "max"]))
"""


@pytest.mark.parametrize("preferred", [PAGE_PORT, RESULTS_PORT])
def test_a_port_that_is_taken_after_its_choice_is_replaced(
    preferred: int, clip: Callable[..., Path]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(preferred), str(clip(3.0))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CI": "1"},
        timeout=2 * PATIENCE_S,  # it starts the pipeline twice
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    pages = [line for line in done.stderr.splitlines() if line.startswith("The live page: ")]
    assert len(pages) >= 2  # more where another program takes a port as well
    refused = "page address 127.0.0.1:" if preferred == PAGE_PORT else "results endpoint tcp://"
    assert re.search(f"^supervisor: {refused}.* is already in use", done.stderr, re.MULTILINE)
    assert "speech-emotion run --dashboard" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonsense"], "speech-emotion run: unrecognized arguments: --nonsense; see --help"),
        (["--streams", "999"], "supervisor: --streams 999 must be 1 to "),
        (["--dashboard", "here"], "supervisor: dashboard.listen: listen 'here' must be HOST:PORT"),
    ],
    ids=str,
)
def test_a_mistake_in_a_flag_is_the_only_line(words: list[str], said: str) -> None:
    done = command("demo", *words)
    (line,) = done.stderr.splitlines()
    assert line.startswith(said)
    assert (done.returncode, done.stdout) == (EXIT_USER, "")

"""`python -m common.watch`: the essentials on a terminal of any size, in a real tmux, too."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from speech_emotion.commands.watch import Screen
from speech_emotion.common.client import results as client
from speech_emotion.common.client.results import Results
from speech_emotion.common.wire import public
from tests.support.history import make_result, make_utterance
from tests.support.live_page import live, sending
from tests.support.pages import stamped
from tests.support.pipelines import PATIENCE_S, ROOT, Running, wait_until
from tests.support.publisher import Publisher, health

Supervise = Callable[..., Running]
Clip = Callable[..., Path]
COMMAND = [sys.executable, "-m", "speech_emotion", "watch"]


def lines(screen: Screen, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(screen, height=height)
    found = console.export_text().splitlines()
    console.file.close()
    return found


def shows(screen: Screen, words: str) -> bool:
    return words in "\n".join(lines(screen, 120, 10))


def take_until(screen: Screen, ready: Callable[[], bool]) -> None:
    def turn() -> bool:
        screen.take(0.05)
        return ready()

    wait_until(turn, "the messages")


@contextlib.contextmanager
def lasting(
    publisher: tuple[Publisher, str], stale_after: float = 3600.0
) -> Iterator[tuple[Results, Screen]]:
    """A screen on which nothing is old before its time, and a publisher may pause for long."""
    with (
        pytest.MonkeyPatch.context() as patch,
        Results(publisher[1], stale_after=stale_after) as results,
    ):
        patch.setattr(client, "GONE_AFTER_S", 3600.0)
        publisher[0].wait_for(results)
        yield results, Screen(results)


def test_many_streams_fit_any_terminal(publisher: tuple[Publisher, str]) -> None:
    names = [f"room-{n:02}" for n in range(40)]
    states = ["silent_input" if name == "room-33" else "live" for name in names]
    rows = [
        health(name, source=state).streams[0] for name, state in zip(names, states, strict=True)
    ]
    with lasting(publisher) as (results, screen):
        for name in names:
            publisher[0].send(dataclasses.replace(make_result(1, stream=name)))
        publisher[0].send(make_utterance(1))
        publisher[0].send(dataclasses.replace(health(), streams=rows))
        take_until(screen, lambda: results.health is not None)
        for width, height in ((120, 50), (80, 24), (40, 8), (20, 4)):
            shown = lines(screen, width, height)
            assert len(shown) <= height
            assert all(len(line) <= width for line in shown)
        whole = "\n".join(lines(screen, 120, 50))
        assert all(name in whole for name in names)
        assert "angry" in whole
        assert "75%" in whole
        assert "✓ infer" in whole
        assert "main: sad 75%" in whole
        some = lines(screen, 120, 12)
        assert "room-33" in some[1]  # what is in trouble comes first
        assert "silent input" in some[1]
        assert any("more" in line for line in some)


def test_at_80_columns_the_bar_is_the_probability_and_no_stage_is_cut(
    publisher: tuple[Publisher, str],
) -> None:
    stages = [
        public.StageHealth(name, 1, "ready", 0, 0.1, 2.0, 9.0, 0, 1.0, 50.0, None)
        for name in ("features", "infer", "record", "history", "dashboard", "capture/kitchen")
    ]
    with lasting(publisher) as (_, screen):
        publisher[0].send(live(0))
        publisher[0].send(stamped(dataclasses.replace(health(), stages=stages)))
        take_until(screen, lambda: "75%" in "\n".join(lines(screen, 80, 24)))
        take_until(screen, lambda: "kitchen" in "\n".join(lines(screen, 80, 24)))
        shown = lines(screen, 80, 24)
        (row,) = [line for line in shown if "75%" in line]
        bar = row.partition("75%")[2].partition("-20 dB")[0]
        assert bar.count("━") + bar.count("╸") >= 10
        assert "━" not in row.partition("-20 dB")[2]  # the level has no bar here
        text = " ".join(shown)
        assert all(f"✓ {stage.name} 1 %" in text for stage in stages)
        assert len(lines(screen, 80, 5)) <= 5


def test_a_line_says_how_far_a_stream_is_adapted(publisher: tuple[Publisher, str]) -> None:
    texts = {
        None: "",
        0.0: "Not adapted yet",
        12.4: "Adapted to this room: 12 s of speech",
        250.0: "Adapted to this room: 4 min of speech",
    }
    with lasting(publisher) as (_, screen):
        for seq, (seconds, words) in enumerate(texts.items()):
            # Its level tells when the result has come.
            publisher[0].send(
                dataclasses.replace(make_result(seq), baseline=seconds, rms_db=-30.0 - seq)
            )
            publisher[0].send(health())
            take_until(screen, functools.partial(shows, screen, f"{-30 - seq} dB"))
            shown = "\n".join(lines(screen, 120, 10))
            assert words in shown
            assert ("dapted" in shown) == bool(words)


def test_what_is_old_is_not_shown_as_new(publisher: tuple[Publisher, str]) -> None:
    with lasting(publisher, stale_after=0.3) as (results, screen):
        publisher[0].send(make_result(1))
        publisher[0].send(health(stage="restarting"))
        take_until(screen, lambda: results.health is not None)
        assert "✕ infer restarting" in "\n".join(lines(screen, 100, 10))
        take_until(screen, lambda: "angry" not in "\n".join(lines(screen, 100, 10)))
        assert "stale" in lines(screen, 100, 10)[0]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_in_tmux(supervise: Supervise, clip: Clip, tmp_path: Path) -> None:
    paths = [clip(50.0, repeat=3, name=name) for name in ("a", "b")]
    running = supervise(*(f"--source=file:{path}" for path in paths))
    # Of a test runner's environment only what a shell has: its COLUMNS are not the pane's.
    kept = {name: os.environ[name] for name in ("PATH", "XDG_RUNTIME_DIR") if name in os.environ}
    environment = {**kept, "HOME": str(tmp_path), "TMUX_TMPDIR": str(tmp_path), "LC_ALL": "C.UTF-8"}

    def tmux(*words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", "watch", *words], env=environment, capture_output=True, text=True
        )
        return done.stdout

    watch = shlex.join([*COMMAND, "--endpoint", running.endpoint])
    tmux(
        "new-session",
        "-d",
        "-x",
        "100",
        "-y",
        "12",
        f"cd {shlex.quote(str(ROOT))} && {watch}; sleep 30",
    )
    try:
        wait_until(lambda: "main-2" in tmux("capture-pane", "-p"), "both streams")
        first = tmux("capture-pane", "-p")
        wait_until(lambda: tmux("capture-pane", "-p") != first, "something to move")
        tmux("resize-window", "-x", "60", "-y", "5")

        def small() -> bool:
            shown = tmux("capture-pane", "-p").rstrip().splitlines()
            return len(shown) <= 5 and any("✓ infer" in line for line in shown)

        wait_until(small, "the smaller screen")
        tmux("send-keys", "C-c")
        wait_until(lambda: "infer" not in tmux("capture-pane", "-p"), "the screen to be given back")
        assert "Traceback" not in tmux("capture-pane", "-p")
    finally:
        with contextlib.suppress(OSError):
            tmux("kill-server")
    running.process.terminate()
    assert running.ended()[0] == 0


def test_once_prints_and_ends(publisher: tuple[Publisher, str]) -> None:
    seqs = itertools.count()

    def send() -> None:
        publisher[0].send(health())
        publisher[0].send(make_result(next(seqs)))

    def printed() -> bool:  # it looks for a short time, in which a busy machine may send nothing
        done = subprocess.run(
            [*COMMAND, "--once", "--endpoint", publisher[1]],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "120"},
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0
        return "main" in done.stdout and "infer" in done.stdout

    with sending(send):
        wait_until(printed, "the stream and the stage")


@pytest.mark.parametrize(
    ("flags", "words"), [([], "needs a terminal"), (["--once", "--endpoint", "x"], "'x'")]
)
def test_a_mistake_is_one_line(flags: list[str], words: str) -> None:
    done = subprocess.run(
        [*COMMAND, *flags], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line

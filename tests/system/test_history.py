"""The history writer as a process: crashes, restarts, errors of the user."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.dashboard.history_writer import COMMIT_S
from tests.support.history import make_result
from tests.support.pipelines import PATIENCE_S, ROOT, Running, fresh_endpoint, wait_until
from tests.support.publisher import Publisher

Supervise = Callable[..., Running]


Clip = Callable[..., Path]


def kept_in(path: Path) -> list[int]:
    """The windows in a history file, none before it is one."""
    with contextlib.suppress(UserError), HistoryReader(path) as reader:
        rows = reader.windows("main", 0.0, time.time() + 10.0, 9999)["rows"]
        return [row[0] for row in rows]
    return []


def test_a_crash_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    """It commits while it runs, every half second."""
    assert COMMIT_S <= 0.5
    path = tmp_path / "history.sqlite"
    endpoint = fresh_endpoint()
    publisher = Publisher(endpoint)
    command = [sys.executable, "-m", "speech_emotion", "history", "--results", endpoint]
    process = subprocess.Popen([*command, "--file", str(path)], cwd=ROOT)
    try:
        publisher.wait_for()
        seqs = itertools.count()

        def committed() -> int:
            publisher.send(dataclasses.replace(make_result(next(seqs)), time=time.time()))
            time.sleep(0.05)
            return len(kept_in(path))

        wait_until(lambda: committed() >= 40, "commits")
        before = kept_in(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
        process.wait()
        publisher.close()
        Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
    kept = kept_in(path)
    assert kept == list(range(len(kept)))  # only the newest are missing
    assert len(kept) >= len(before) >= 40


def test_every_published_message_is_written(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    path = tmp_path / "kept.sqlite"
    code, stderr, received = supervise(
        f"--source=file:{clip(9.0)}", "--speed=realtime", f"--history={path}"
    ).ended()
    assert code == 0, stderr
    assert "writing results" in stderr
    results = received.fresh(public.Result, "main")
    with HistoryReader(path) as reader:
        answer = reader.windows("main", 0.0, time.time() + 10.0, 10000)
        spoken = reader.utterances("main", 0.0, time.time() + 10.0)
    assert [row[0] for row in answer["rows"]] == [one.seq for one in results]
    assert [row[4] for row in answer["rows"]] == [one.emotion for one in results]
    assert len(spoken) == len(received.fresh(public.Utterance, "main")) > 0


def test_a_killed_history_writer_restarts_and_the_pipeline_goes_on(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    path = tmp_path / "kept.sqlite"
    running = supervise(f"--source=file:{clip(50.0)}", f"--history={path}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 4)
    running.stages()["history"].kill()
    running.subscriber.wait_for(
        lambda received: any(
            (stage.name, stage.restarts, stage.state) == ("history", 1, "ready")
            for health in received.fresh(public.Health)[-1:]
            for stage in health.stages
        )
    )
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    rows = [s for h in received.fresh(public.Health) for s in h.stages if s.name == "history"]
    assert rows[-1].restarts == 1
    kept = kept_in(path)
    last = received.fresh(public.Result)[-1].seq
    assert kept[-1] == last
    assert len(kept) >= last - 6  # messages of one commit interval and one restart


@pytest.mark.parametrize("seconds", [8.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_a_lock_of_another_program_loses_nothing(
    supervise: Supervise, clip: Clip, tmp_path: Path, seconds: float
) -> None:
    path = tmp_path / "kept.sqlite"
    sound = clip(50.0, repeat=1 + round(seconds / 50.0))
    running = supervise(f"--source=file:{sound}", f"--history={path}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    other = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    time.sleep(seconds)
    other.execute("ROLLBACK")
    other.close()
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    assert "history is written again" in stderr
    rows = [s for h in received.fresh(public.Health) for s in h.stages if s.name == "history"]
    assert rows[-1].restarts == 0
    assert all(h.counters.get("history_unwritten", 0) == 0 for h in received.fresh(public.Health))
    assert kept_in(path) == [one.seq for one in received.fresh(public.Result)]


def test_a_removed_file_of_a_running_pipeline_is_written_again(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    path = tmp_path / "kept" / "kept.sqlite"
    path.parent.mkdir()
    running = supervise(f"--source=file:{clip(50.0)}", f"--history={path}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 4)
    for suffix in ("-wal", "-shm", ""):  # the writer may notice it between two of them
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    # A health that is published after the new file was seen comes after all results before it.
    wait_until(path.exists, "the new file")
    seen = time.time()
    running.subscriber.wait_for(lambda received: received.fresh(public.Health)[-1].time > seen)
    before = running.received.fresh(public.Result)[-1].seq
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    assert "was removed or replaced" in stderr
    kept = kept_in(path)
    last = received.fresh(public.Result)[-1].seq
    assert kept == list(range(kept[0], last + 1))
    assert kept[0] <= before + 1


def test_a_file_that_cannot_be_used_ends_the_pipeline_at_the_start(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    path = tmp_path / "text.sqlite"
    path.write_text("this is not a database " * 100)
    for file in (path, tmp_path / "missing" / "kept.sqlite", tmp_path):
        code, stderr, _ = supervise(f"--source=file:{clip(9.0)}", f"--history={file}").ended()
        assert code == 2, stderr
        (line,) = stderr.splitlines()
        assert str(file) in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--file", "/nonexistent/x.sqlite"], "/nonexistent/x.sqlite"),
        ([], "--file"),
        (["--file", "x", "--days", "0"], "--days"),
        (["--file", os.devnull + "/x", "--results", "nonsense"], "/x"),
    ],
)
def test_an_error_of_the_user_is_one_line(flags: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "speech_emotion", "history", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line
    wait_until(lambda: not Path("x").exists(), "no file to be made")

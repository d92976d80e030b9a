"""The history writer as a process: crashes, restarts, errors of the user."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from tests.support.history import make_result
from tests.support.pipelines import PATIENCE_S, ROOT, Running, fresh_endpoint, wait_until
from tests.support.publisher import Publisher

Supervise = Callable[..., Running]


Clip = Callable[..., Path]


def test_a_crash_loses_at_most_a_second(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    endpoint = fresh_endpoint()
    publisher = Publisher(endpoint)
    command = [sys.executable, "-m", "speech_emotion", "history", "--results", endpoint]
    process = subprocess.Popen([*command, "--file", str(path)], cwd=ROOT)
    try:
        publisher.wait_for()
        sent: list[float] = []
        for seq in range(60):
            publisher.send(dataclasses.replace(make_result(seq), time=time.time()))
            sent.append(time.monotonic())
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        process.wait()
    finally:
        process.kill()
        process.wait()
        publisher.close()
        Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
    with HistoryReader(path) as reader:
        kept = {row[0] for row in reader.windows("main", 0.0, time.time() + 1.0, 1000)["rows"]}
    missing = [at for seq, at in enumerate(sent) if seq not in kept]
    assert missing == [at for at in sent if at >= (missing or [killed])[0]]  # only the newest
    assert all(killed - at <= 1.0 for at in missing)
    assert len(kept) > 30


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
            for stage in received.fresh(public.Health)[-1].stages
        )
    )
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    rows = [s for h in received.fresh(public.Health) for s in h.stages if s.name == "history"]
    assert rows[-1].restarts == 1
    with HistoryReader(path) as reader:
        kept = [row[0] for row in reader.windows("main", 0.0, time.time() + 10.0, 9999)["rows"]]
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
    other = sqlite3.connect(path, isolation_level=None)
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
    with HistoryReader(path) as reader:
        kept = [row[0] for row in reader.windows("main", 0.0, time.time() + 9.0, 9999)["rows"]]
    assert kept == [one.seq for one in received.fresh(public.Result)]


def test_a_removed_file_of_a_running_pipeline_is_written_again(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    path = tmp_path / "kept" / "kept.sqlite"
    path.parent.mkdir()
    running = supervise(f"--source=file:{clip(50.0)}", f"--history={path}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 4)
    for file in path.parent.iterdir():
        file.unlink()
    code, stderr, received = running.stopped(8)
    assert code == 0, stderr
    assert "was removed or replaced" in stderr
    with HistoryReader(path) as reader:
        kept = [row[0] for row in reader.windows("main", 0.0, time.time() + 9.0, 9999)["rows"]]
    last = received.fresh(public.Result)[-1].seq
    assert kept == list(range(kept[0], last + 1))
    assert len(kept) >= last - 8


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

"""The history file: what is written is found again, once, for as long as it is kept."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history import PURGE_ROWS, Reader, Writer
from speech_emotion.dashboard.history_writer import HELD, Recorder
from tests.support.history import T0, heard, said
from tests.support.pipelines import PATIENCE_S, ROOT, Running, fresh_endpoint, wait_until
from tests.support.publisher import Publisher, health, result

Supervise = Callable[..., Running]


Clip = Callable[..., Path]


LABELS = ("angry", "sad")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    one = Writer(path)
    yield one
    one.close()


def put(writer: Writer, *messages: public.Public) -> None:
    writer.write([(message, T0) for message in messages])


def test_windows_come_back_as_they_were(writer: Writer, path: Path) -> None:
    gap = dataclasses.replace(result(2, skipped=5), time=T0 + 4.0, lost=40000, end=6 * 8000 + 16000)
    put(writer, heard(0), heard(1, speech=False), gap)
    with Reader(path) as reader:
        found = reader.windows("main", T0, T0 + 100.0, 1000)
        assert reader.bounds("main") == (T0 + 0.5, T0 + 4.0)
        assert reader.streams() == ["main"]
        assert reader.bounds("hall") is None
        assert reader.windows("hall", T0, T0 + 100.0, 1000)["rows"] == []
    assert found["labels"] == ["angry", "sad"]
    assert found["step"] == 0.0
    assert found["rows"] == [
        [0, T0 + 0.5, 1.0, "speech", "sad", 0.75, None, -20.0, 0, [0.25, 0.75]],
        [1, T0 + 1.0, 1.0, "silence", None, None, None, -100.0, 0, None],
        [2, T0 + 4.0, 3.0, "gap", None, None, None, -100.0, 40000, None],
    ]


def test_a_message_is_kept_once_whoever_sends_it_again(writer: Writer, path: Path) -> None:
    put(writer, heard(0), said(0), health())
    put(writer, heard(0), said(0), heard(0, run="b"), health())
    writer.close()
    second = Writer(path)
    put(second, heard(0), said(0))
    second.close()
    with Reader(path) as reader:
        assert len(reader.windows("main", 0.0, T0 * 2, 1000)["rows"]) == 2  # one of each run
        assert len(reader.utterances("main", 0.0, T0 * 2)) == 1


def test_many_windows_are_put_together(writer: Writer, path: Path) -> None:
    put(writer, *(heard(seq, speech=seq < 400) for seq in range(800)))
    with Reader(path) as reader:
        found = reader.windows("main", T0, T0 + 400.0, 100)
    assert found["step"] == 4.0
    assert len(found["rows"]) == pytest.approx(100, abs=1)
    first, last = found["rows"][0], found["rows"][-1]
    assert first[3:5] in (["speech", "sad"], ["speech", "angry"])
    assert first[9] == pytest.approx([0.5, 0.5], abs=0.08)
    assert last[3:6] == ["silence", None, None]
    assert last[9] is None
    times = [row[1] for row in found["rows"]]
    assert times == sorted(times)


def test_labels_with_quotes_do_no_harm(writer: Writer, path: Path) -> None:
    odd = {'it\'s "x"': 0.75, "$.a; DROP TABLE result": 0.25}
    one = dataclasses.replace(heard(0), smoothed=odd)
    put(writer, *(dataclasses.replace(one, seq=seq, time=T0 + 1 + seq) for seq in range(20)))
    with Reader(path) as reader:
        found = reader.windows("main", T0, T0 + 30.0, 5)
    assert found["labels"] == list(odd)
    assert all(row[9] == list(odd.values()) for row in found["rows"])


def test_old_entries_go_in_portions(writer: Writer, path: Path) -> None:
    many = PURGE_ROWS + 10
    put(writer, *(heard(seq, speech=False) for seq in range(many)), said(1), health())
    put(writer, heard(0, stream="hall"))
    assert writer.purge(T0) == 1  # health() is of the year 1970
    middle = T0 + 0.5 * many + 0.25
    assert writer.purge(middle) == PURGE_ROWS + 1
    assert writer.purge(middle) == many - PURGE_ROWS + 1  # hall's one, too
    assert writer.purge(middle) == 0
    with Reader(path) as reader:
        assert reader.streams() == []
    put(writer, heard(many))
    with Reader(path) as reader:
        assert reader.bounds("main") == (heard(many).time, heard(many).time)


def test_health_is_kept_when_it_changes_and_once_a_minute(writer: Writer, path: Path) -> None:
    for second in range(125):
        state = "ready" if second != 30 else "starting"
        put(writer, dataclasses.replace(health(stage=state), time=T0 + second))
    with Reader(path) as reader:
        lines = list(reader.csv("health", "", T0 - 1.0, T0 + 1000.0))
    times = [float(row[0]) - T0 for row in csv.reader(lines[1:])]
    assert times == [0.0, 30.0, 31.0, 91.0]


def test_csv_is_a_table_of_everything(writer: Writer, path: Path) -> None:
    formula = dataclasses.replace(heard(1), emotion="=cmd()")
    put(writer, heard(0), formula, said(0))
    with Reader(path) as reader:
        rows = list(csv.DictReader(reader.csv("result", "main", T0, T0 + 100.0)))
        spoken = list(csv.DictReader(reader.csv("utterance", "main", T0 - 1.0, T0 + 100.0)))
    assert [row["seq"] for row in rows] == ["0", "1"]
    assert json.loads(rows[0]["smoothed"]) == {"angry": 0.25, "sad": 0.75}
    assert rows[1]["emotion"] == "'=cmd()"  # no spreadsheet runs it
    assert float(rows[0]["rms_db"]) == -20.0
    assert [row["emotion"] for row in spoken] == ["sad"]


def test_the_file_is_for_its_owner(writer: Writer, path: Path) -> None:
    put(writer, heard(0))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


@pytest.mark.parametrize("kind", ["text", "other", "folder", "absent"])
def test_what_is_no_history_is_refused_in_one_line(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("no database, but long enough to be looked at\n" * 100)
    elif kind == "other":
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE mine (x)")
        other.close()
    elif kind == "folder":
        path.mkdir()
    before = path.read_bytes() if path.is_file() else None
    for opens in [Reader] if kind == "absent" else [Writer, Reader]:
        with pytest.raises(UserError, match="history") as caught:
            opens(path)
        assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


class FullDisk:
    """A writer whose disk takes nothing until told otherwise."""

    def __init__(self) -> None:
        self.full = True
        self.written: list[public.Public] = []

    def write(self, messages: list[tuple[public.Public, float]]) -> None:
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        self.written += [message for message, _ in messages]

    def purge(self, before: float) -> int:  # noqa: ARG002
        return 0


def test_a_full_disk_is_waited_for_and_what_is_let_go_is_counted() -> None:
    disk = FullDisk()
    recorder = Recorder(disk, 1.0)  # type: ignore[arg-type]
    for seq in range(HELD + 7):
        recorder.take(heard(seq))
    recorder.turn(0.0)
    assert (disk.written, recorder.unwritten) == ([], 7)
    disk.full = False
    recorder.turn(0.5)
    assert disk.written == []  # not tried again at once
    recorder.turn(3.0)
    assert len(disk.written) == HELD
    assert recorder.flush()


def test_a_crash_loses_at_most_a_second(path: Path) -> None:
    endpoint = fresh_endpoint()
    publisher = Publisher(endpoint)
    command = [sys.executable, "-m", "speech_emotion", "history", "--results", endpoint]
    process = subprocess.Popen([*command, "--file", str(path)], cwd=ROOT)
    try:
        publisher.wait_for()
        sent: list[float] = []
        for seq in range(60):
            publisher.send(dataclasses.replace(heard(seq), time=time.time()))
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
    with Reader(path) as reader:
        kept = {row[0] for row in reader.windows("main", 0.0, time.time() + 1.0, 1000)["rows"]}
    missing = [at for seq, at in enumerate(sent) if seq not in kept]
    assert missing == [at for at in sent if at >= (missing or [killed])[0]]  # only the newest
    assert all(killed - at <= 1.0 for at in missing)
    assert len(kept) > 30


def test_a_pipeline_keeps_all_it_publishes(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    path = tmp_path / "kept.sqlite"
    code, stderr, received = supervise(
        f"--source=file:{clip(9.0)}", "--speed=realtime", f"--history={path}"
    ).ended()
    assert code == 0, stderr
    assert "keeping results" in stderr
    results = received.fresh(public.Result, "main")
    with Reader(path) as reader:
        found = reader.windows("main", 0.0, time.time() + 10.0, 10000)
        spoken = reader.utterances("main", 0.0, time.time() + 10.0)
    assert [row[0] for row in found["rows"]] == [one.seq for one in results]
    assert [row[4] for row in found["rows"]] == [one.emotion for one in results]
    assert len(spoken) == len(received.fresh(public.Utterance, "main")) > 0


def test_a_killed_recorder_comes_back_and_ends_nothing(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    path = tmp_path / "kept.sqlite"
    running = supervise(f"--source=file:{clip(14.0)}", f"--history={path}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 4)
    running.stages()["history"].kill()
    code, stderr, received = running.ended()
    assert code == 0, stderr
    rows = [s for h in received.fresh(public.Health) for s in h.stages if s.name == "history"]
    assert rows[-1].restarts == 1
    with Reader(path) as reader:
        kept = [row[0] for row in reader.windows("main", 0.0, time.time() + 10.0, 9999)["rows"]]
    last = received.fresh(public.Result)[-1].seq
    assert kept[-1] == last
    assert len(kept) >= last - 6  # what came within a commit and a restart


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--file", "/nonexistent/x.sqlite"], "/nonexistent/x.sqlite"),
        ([], "--file"),
        (["--file", "x", "--days", "0"], "--days"),
        (["--file", os.devnull + "/x", "--results", "nonsense"], "/x"),
    ],
)
def test_the_recorders_mistakes_are_one_line(flags: list[str], words: str) -> None:
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

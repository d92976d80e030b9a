"""The history file: what is written is read again, once, until it is purged."""

from __future__ import annotations

import csv
import dataclasses
import json
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.dashboard.history.writer import PURGE_ROWS, HistoryWriter
from speech_emotion.dashboard.history_writer import PENDING, HistoryBuffer
from tests.support.history import T0, heard, said
from tests.support.publisher import health, result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


@pytest.fixture
def writer(path: Path) -> Iterator[HistoryWriter]:
    open_writer = HistoryWriter(path)
    yield open_writer
    open_writer.close()


def put(writer: HistoryWriter, *messages: public.Public) -> None:
    writer.write([(message, T0) for message in messages])


def test_windows_are_read_as_written(writer: HistoryWriter, path: Path) -> None:
    gap = dataclasses.replace(result(2, skipped=5), time=T0 + 4.0, lost=40000, end=6 * 8000 + 16000)
    put(writer, heard(0), heard(1, speech=False), gap)
    with HistoryReader(path) as reader:
        answer = reader.windows("main", T0, T0 + 100.0, 1000)
        assert reader.bounds("main") == (T0 + 0.5, T0 + 4.0)
        assert reader.streams() == ["main"]
        assert reader.bounds("hall") is None
        assert reader.windows("hall", T0, T0 + 100.0, 1000)["rows"] == []
    assert answer["labels"] == ["angry", "sad"]
    assert answer["step"] == 0.0
    assert answer["rows"] == [
        [0, T0 + 0.5, 1.0, "speech", "sad", 0.75, None, -20.0, 0, [0.25, 0.75]],
        [1, T0 + 1.0, 1.0, "silence", None, None, None, -100.0, 0, None],
        [2, T0 + 4.0, 3.0, "gap", None, None, None, -100.0, 40000, None],
    ]


def test_a_repeated_message_is_written_once(writer: HistoryWriter, path: Path) -> None:
    put(writer, heard(0), said(0), health())
    put(writer, heard(0), said(0), heard(0, run="b"), health())
    writer.close()
    second = HistoryWriter(path)
    put(second, heard(0), said(0))
    second.close()
    with HistoryReader(path) as reader:
        assert len(reader.windows("main", 0.0, T0 * 2, 1000)["rows"]) == 2  # one of each run
        assert len(reader.utterances("main", 0.0, T0 * 2)) == 1


def test_many_windows_are_aggregated(writer: HistoryWriter, path: Path) -> None:
    put(writer, *(heard(seq, speech=seq < 400) for seq in range(800)))
    with HistoryReader(path) as reader:
        answer = reader.windows("main", T0, T0 + 400.0, 100)
    assert answer["step"] == 4.0
    assert len(answer["rows"]) == pytest.approx(100, abs=1)
    first, last = answer["rows"][0], answer["rows"][-1]
    assert first[3:5] in (["speech", "sad"], ["speech", "angry"])
    assert first[9] == pytest.approx([0.5, 0.5], abs=0.08)
    assert last[3:6] == ["silence", None, None]
    assert last[9] is None
    times = [row[1] for row in answer["rows"]]
    assert times == sorted(times)


def test_labels_with_quotes_do_no_harm(writer: HistoryWriter, path: Path) -> None:
    odd = {'it\'s "x"': 0.75, "$.a; DROP TABLE result": 0.25}
    one = dataclasses.replace(heard(0), smoothed=odd)
    put(writer, *(dataclasses.replace(one, seq=seq, time=T0 + 1 + seq) for seq in range(20)))
    with HistoryReader(path) as reader:
        answer = reader.windows("main", T0, T0 + 30.0, 5)
    assert answer["labels"] == list(odd)
    assert all(row[9] == list(odd.values()) for row in answer["rows"])


def test_old_rows_are_deleted_in_portions(writer: HistoryWriter, path: Path) -> None:
    many = PURGE_ROWS + 10
    put(writer, *(heard(seq, speech=False) for seq in range(many)), said(1), health())
    put(writer, heard(0, stream="hall"))
    assert writer.purge(T0) == 1  # health() is of the year 1970
    middle = T0 + 0.5 * many + 0.25
    assert writer.purge(middle) == PURGE_ROWS + 1
    assert writer.purge(middle) == many - PURGE_ROWS + 1  # hall's one, too
    assert writer.purge(middle) == 0
    with HistoryReader(path) as reader:
        assert reader.streams() == []
    put(writer, heard(many))
    with HistoryReader(path) as reader:
        assert reader.bounds("main") == (heard(many).time, heard(many).time)


def test_health_is_written_when_it_changes_and_once_a_minute(
    writer: HistoryWriter, path: Path
) -> None:
    for second in range(125):
        state = "ready" if second != 30 else "starting"
        put(writer, dataclasses.replace(health(stage=state), time=T0 + second))
    with HistoryReader(path) as reader:
        lines = list(reader.csv("health", "", T0 - 1.0, T0 + 1000.0))
    times = [float(row[0]) - T0 for row in csv.reader(lines[1:])]
    assert times == [0.0, 30.0, 31.0, 91.0]


def test_csv_has_all_columns(writer: HistoryWriter, path: Path) -> None:
    formula = dataclasses.replace(heard(1), emotion="=cmd()")
    put(writer, heard(0), formula, said(0))
    with HistoryReader(path) as reader:
        rows = list(csv.DictReader(reader.csv("result", "main", T0, T0 + 100.0)))
        spoken = list(csv.DictReader(reader.csv("utterance", "main", T0 - 1.0, T0 + 100.0)))
    assert [row["seq"] for row in rows] == ["0", "1"]
    assert json.loads(rows[0]["smoothed"]) == {"angry": 0.25, "sad": 0.75}
    assert rows[1]["emotion"] == "'=cmd()"  # no spreadsheet runs it
    assert float(rows[0]["rms_db"]) == -20.0
    assert [row["emotion"] for row in spoken] == ["sad"]


def test_only_the_owner_can_read_the_file(writer: HistoryWriter, path: Path) -> None:
    put(writer, heard(0))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


@pytest.mark.parametrize("kind", ["text", "other", "folder", "absent"])
def test_a_file_that_is_not_a_history_is_refused_in_one_line(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("no database, but long enough to be looked at\n" * 100)
    elif kind == "other":
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE mine (x)")
        other.close()
    elif kind == "folder":
        path.mkdir()
    before = path.read_bytes() if path.is_file() else None
    for opens in [HistoryReader] if kind == "absent" else [HistoryWriter, HistoryReader]:
        with pytest.raises(UserError, match="history") as caught:
            opens(path)
        assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


class FullDisk:
    """A writer whose disk is full."""

    def __init__(self) -> None:
        self.full = True
        self.written: list[public.Public] = []

    def write(self, messages: list[tuple[public.Public, float]]) -> None:
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        self.written += [message for message, _ in messages]

    def purge(self, before: float) -> int:  # noqa: ARG002
        return 0


def test_messages_wait_for_a_full_disk_and_drops_are_counted() -> None:
    disk = FullDisk()
    buffer = HistoryBuffer(disk, 1.0)  # type: ignore[arg-type]
    for seq in range(PENDING + 7):
        buffer.take(heard(seq))
    buffer.turn(0.0)
    assert (disk.written, buffer.unwritten) == ([], 7)
    disk.full = False
    buffer.turn(0.5)
    assert disk.written == []  # no retry before 2 s
    buffer.turn(3.0)
    assert len(disk.written) == PENDING
    assert buffer.flush()

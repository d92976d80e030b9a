"""Windows that never reached the history are counted by `seq`, over restarts of its process."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from pathlib import Path

import pytest

from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.pending import PendingMessages
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.dashboard.history.schema import PROGRESS_ROWS
from speech_emotion.dashboard.history.writer import HistoryWriter
from speech_emotion.dashboard.history_writer import WriterThread
from tests.support.history import T0, make_result
from tests.support.publisher import result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def put(writer: HistoryWriter, *seqs: int, stream: str = "main", run: str = "a") -> None:
    writer.write([(make_result(seq, stream=stream, run=run), T0) for seq in seqs])


def test_jumps_of_seq_are_counted_and_declared_gaps_are_not(path: Path) -> None:
    writer = HistoryWriter(path, whole_runs=True)
    put(writer, 0, 1)
    assert writer.lost == 0
    put(writer, 4, 5)
    assert writer.lost == 2
    gap = dataclasses.replace(result(6, skipped=100), time=T0 + 9.0)
    writer.write([(gap, T0)])
    put(writer, 106, 3, 106)  # a replay, and one that is known
    assert writer.lost == 2
    put(writer, 2, stream="hall")
    assert writer.lost == 4
    writer.close()


def test_a_restarted_writer_counts_what_was_published_while_it_was_away(path: Path) -> None:
    first = HistoryWriter(path, whole_runs=True)
    put(first, 0, 3)
    first.close()
    second = HistoryWriter(path, whole_runs=True)
    assert second.lost == 0  # it does not know yet which run it will hear
    put(second, 8)
    assert second.lost == 2 + 4
    put(second, 9)
    second.close()
    with HistoryReader(path) as reader:
        rows = reader.windows("main", 0.0, T0 + 1e6, 100)["rows"]
    assert [row[0] for row in rows] == [0, 3, 8, 9]


def test_rows_that_are_purged_are_not_lost(path: Path) -> None:
    first = HistoryWriter(path, whole_runs=True)
    put(first, *range(10))
    assert first.purge(T0 + 1e6) == 10
    first.close()
    second = HistoryWriter(path, whole_runs=True)
    put(second, 10)
    assert second.lost == 0
    second.close()


def test_a_subscriber_that_comes_in_the_middle_has_lost_nothing_yet(path: Path) -> None:
    writer = HistoryWriter(path)
    put(writer, 500, 502)
    assert writer.lost == 1
    writer.close()


def test_a_write_that_fails_counts_nothing(path: Path) -> None:
    writer = HistoryWriter(path, whole_runs=True)
    put(writer, 0)
    writer._db.execute("PRAGMA query_only = 1")
    with pytest.raises(sqlite3.Error):
        put(writer, 5)
    assert writer.lost == 0
    writer._db.execute("PRAGMA query_only = 0")
    put(writer, 5)
    assert writer.lost == 4
    writer.close()


def test_a_new_file_continues_the_count(path: Path) -> None:
    pending = PendingMessages()
    thread = WriterThread(path, 1.0, pending, HistoryWriter(path, whole_runs=True), whole_runs=True)

    def receive(seq: int) -> None:
        pending.add(dataclasses.replace(make_result(seq), time=time.time()))
        assert thread.turn(0.0)

    receive(2)
    for file in path.parent.iterdir():
        file.unlink()
    receive(4)
    assert thread.lost == 3
    again = HistoryWriter(path, whole_runs=True)
    put(again, 5)
    assert again.lost == 3
    again.close()
    thread.close()


def test_a_file_of_an_earlier_version_is_extended(path: Path) -> None:
    HistoryWriter(path).close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE progress")
    db.close()
    writer = HistoryWriter(path, whole_runs=True)
    put(writer, 1)
    assert writer.lost == 1
    writer.close()


def test_the_table_of_runs_is_bounded(path: Path) -> None:
    writer = HistoryWriter(path)
    messages: list[tuple[public.Public, float]] = [
        (make_result(0, run=f"{number:016x}"), T0) for number in range(PROGRESS_ROWS + 50)
    ]
    writer.write(messages)
    (rows,) = writer._db.execute("SELECT count(*) FROM progress").fetchone()
    assert rows <= PROGRESS_ROWS + 1
    put(writer, 3, run=f"{PROGRESS_ROWS + 49:016x}")
    assert writer.lost == 2
    writer.close()

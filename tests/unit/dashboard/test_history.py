"""The history file: what is written is read again, once, until it is purged."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import io
import itertools
import json
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history import writer as history_file
from speech_emotion.dashboard.history.csv_export import csv_text
from speech_emotion.dashboard.history.pending import PENDING, Entry, PendingMessages
from speech_emotion.dashboard.history.purge_clock import PurgeClock
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.dashboard.history.rows import PAGE, HistoryRows, Key
from speech_emotion.dashboard.history.writer import PURGE_ROWS, HistoryBusyError, HistoryWriter
from speech_emotion.dashboard.history_writer import WriterThread, days_before
from tests.support.history import T0, make_result, make_utterance
from tests.support.pipelines import PATIENCE_S, wait_until
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
    put(writer, make_result(0), make_result(1, speech=False), gap)
    with HistoryReader(path) as reader:
        answer = reader.windows("main", T0, T0 + 100.0, 1000)
        assert reader.bounds("main") == (T0 + 0.5, T0 + 4.0)
        assert reader.streams() == ["main"]
        assert reader.bounds("hall") is None
        assert reader.windows("hall", T0, T0 + 100.0, 1000)["rows"] == []
    assert answer["labels"] == ["angry", "sad"]
    assert answer["step"] == 0.0
    assert answer["rows"] == [
        [0, T0 + 0.5, 1.0, "speech", "sad", 0.75, None, -20.0, 0, [0.25, 0.75], None],
        [1, T0 + 1.0, 1.0, "silence", None, None, None, -100.0, 0, None, None],
        [2, T0 + 4.0, 3.0, "gap", None, None, None, -100.0, 40000, None, None],
    ]


def test_a_repeated_message_is_written_once(writer: HistoryWriter, path: Path) -> None:
    put(writer, make_result(0), make_utterance(0), health())
    put(writer, make_result(0), make_utterance(0), make_result(0, run="b"), health())
    writer.close()
    second = HistoryWriter(path)
    put(second, make_result(0), make_utterance(0))
    second.close()
    with HistoryReader(path) as reader:
        assert len(reader.windows("main", 0.0, T0 * 2, 1000)["rows"]) == 2  # one of each run
        assert len(reader.utterances("main", 0.0, T0 * 2)) == 1


def test_many_windows_are_aggregated(writer: HistoryWriter, path: Path) -> None:
    put(writer, *(make_result(seq, speech=seq < 400) for seq in range(800)))
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


def test_the_rest_of_an_aggregate_was_uncertain(writer: HistoryWriter, path: Path) -> None:
    doubtful = dataclasses.replace(make_result(0), emotion="uncertain", reason="low_margin")
    sure = dataclasses.replace(make_result(0), emotion="angry")
    put(
        writer,
        *(
            dataclasses.replace(sure if seq % 4 == 0 else doubtful, seq=seq, time=T0 + 1 + seq)
            for seq in range(400)
        ),
    )
    with HistoryReader(path) as reader:
        answer = reader.windows("main", T0, T0 + 400.0, 10)
    assert [row[4] for row in answer["rows"]] == ["uncertain"] * len(answer["rows"])
    for row in answer["rows"][:-1]:  # the last one has the single window at the end
        assert row[9] == pytest.approx([0.25, 0.0], abs=0.03)


def test_utterances_are_counted_and_aggregated(writer: HistoryWriter, path: Path) -> None:
    put(
        writer,
        *(
            dataclasses.replace(make_utterance(seq), emotion="angry" if seq % 3 else "sad")
            for seq in range(1, 1201)
        ),
    )
    with HistoryReader(path) as reader:
        assert reader.count_utterances("main", T0, T0 + 2000.0) == 1200
        assert len(reader.utterances("main", T0, T0 + 2000.0)) == 500
        bins = reader.utterance_bins("main", T0, T0 + 1200.0, 4)
    assert [one["time"] for one in bins] == [T0 + 300.0 * n for n in range(1, 6)][: len(bins)]
    assert sum(one["count"] for one in bins) == 1200
    for one in bins[:4]:
        assert (one["emotion"], one["seconds"]) == ("angry", 300.0)
        assert one["share"] == pytest.approx(2 / 3, abs=0.01)


def test_labels_with_quotes_do_no_harm(writer: HistoryWriter, path: Path) -> None:
    odd = {'it\'s "x"': 0.75, "$.a; DROP TABLE result": 0.25}
    one = dataclasses.replace(make_result(0), emotion='it\'s "x"', smoothed=odd)
    put(writer, *(dataclasses.replace(one, seq=seq, time=T0 + 1 + seq) for seq in range(20)))
    with HistoryReader(path) as reader:
        answer = reader.windows("main", T0, T0 + 30.0, 5)
    assert answer["labels"] == list(odd)
    assert all(row[9] == [1.0, 0.0] for row in answer["rows"])


def test_old_rows_are_deleted_in_portions(writer: HistoryWriter, path: Path) -> None:
    many = PURGE_ROWS + 10
    put(
        writer,
        *(make_result(seq, speech=False) for seq in range(many)),
        make_utterance(1),
        health(),
    )
    put(writer, make_result(0, stream="hall"))
    assert writer.purge(T0) == 1  # health() is of the year 1970
    middle = T0 + 0.5 * many + 0.25
    assert writer.purge(middle) == PURGE_ROWS + 1
    assert writer.purge(middle) == many - PURGE_ROWS + 1  # hall's one, too
    assert writer.purge(middle) == 0
    with HistoryReader(path) as reader:
        assert reader.streams() == []
    put(writer, make_result(many))
    with HistoryReader(path) as reader:
        assert reader.bounds("main") == (make_result(many).time, make_result(many).time)


def test_health_is_written_when_it_changes_and_once_a_minute(
    writer: HistoryWriter, path: Path
) -> None:
    for second in range(125):
        state = "ready" if second != 30 else "starting"
        put(writer, dataclasses.replace(health(stage=state), time=T0 + second))
    rows = exported(path, "health", "", T0 - 1.0, T0 + 1000.0)
    times = [float(row["time"]) - T0 for row in rows]
    assert times == [0.0, 30.0, 31.0, 91.0]


def exported(path: Path, table: str, stream: str, start: float, end: float) -> list[dict[str, str]]:
    text = "".join(csv_text(HistoryRows(path, table, stream, start, end)))
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_every_row_once_in_the_order_of_time(writer: HistoryWriter, path: Path) -> None:
    runs = [make_result(seq, run="ab"[seq % 2]) for seq in range(3 * PAGE)]
    put(writer, *(dataclasses.replace(one, time=T0 + one.seq // 7) for one in runs))
    rows = exported(path, "result", "main", T0 - 1.0, T0 + 9999.0)
    assert sorted(int(row["seq"]) for row in rows) == list(range(3 * PAGE))
    times = [float(row["time"]) for row in rows]
    assert times == sorted(times)


@pytest.mark.parametrize("limit", [1, 7, PAGE + 1])
def test_pages_by_key_have_every_row_once(writer: HistoryWriter, path: Path, limit: int) -> None:
    """Three sources with equal times, and rows that are written between two pages."""
    count = 40 if limit < 5 else 3 * PAGE
    put(writer, *(stamped_row(seq, seq // 5) for seq in range(count)))
    found: list[tuple[str, str, int]] = []
    after = None
    while True:
        with HistoryRows(path, "result", None, T0 - 1.0, T0 + 9999.0, after) as rows:
            pairs = list(itertools.islice(rows, limit))
        if not pairs:
            break
        found += [(row["stream"], row["run"], row["seq"]) for _, row in pairs]
        after = Key.parse(str(pairs[-1][0]))
        put(writer, stamped_row(count, -100))  # before the place of the reader
        count += 1
    assert len(found) == len(set(found)) == (40 if limit < 5 else 3 * PAGE)
    assert sorted(seq for _, _, seq in found) == list(range(len(found)))


def stamped_row(seq: int, second: float) -> public.Result:
    row = make_result(seq, run="abc"[seq % 3], stream="hall" if seq % 2 else "main")
    return dataclasses.replace(row, time=T0 + second + 0.1234567)


def test_a_key_is_exact_at_any_time() -> None:
    for at in (0.0, 1.5, 1_000_000_000.1234567, T0 + 1 / 3, 4_102_444_800.987654):
        assert Key.parse(str(Key(at, 3, 7))) == Key(at, 3, 7)
    for wrong in ("", "1", "1:2", "1:2:3:4", "a:1:2", "1:-1:2", "1e3:1:2", "nan:1:2", "٣:1:2"):
        with pytest.raises(ValueError, match=r"^$"):
            Key.parse(wrong)


def test_a_stopped_export_does_not_pin_the_log(writer: HistoryWriter, path: Path) -> None:
    put(writer, *(make_result(seq) for seq in range(3 * PAGE)))
    text = csv_text(HistoryRows(path, "result", "main", T0, T0 + 9999.0))
    next(text)
    next(text)
    put(writer, *(make_result(seq) for seq in range(3 * PAGE, 4 * PAGE)))
    busy, frames, done = writer._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, frames, done) == (0, 0, 0)  # the log is empty
    text.close()  # type: ignore[attr-defined]


def test_csv_has_all_columns(writer: HistoryWriter, path: Path) -> None:
    formula = dataclasses.replace(make_result(1), emotion="=cmd()")
    put(writer, make_result(0), formula, make_utterance(0))
    rows = exported(path, "result", "main", T0, T0 + 100.0)
    spoken = exported(path, "utterance", "main", T0 - 1.0, T0 + 100.0)
    assert [row["seq"] for row in rows] == ["0", "1"]
    assert json.loads(rows[0]["smoothed"]) == {"angry": 0.25, "sad": 0.75}
    assert rows[1]["emotion"] == "'=cmd()"  # no spreadsheet runs it
    assert float(rows[0]["rms_db"]) == -20.0
    assert dt.datetime.fromisoformat(rows[0]["time_iso"]).timestamp() == float(rows[0]["time"])
    assert [row["emotion"] for row in spoken] == ["sad"]


def test_only_the_owner_can_read_the_file(writer: HistoryWriter, path: Path) -> None:
    put(writer, make_result(0))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*/none"):
        HistoryWriter(tmp_path / "none" / "history.sqlite")


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


class FakeWriter:
    """A writer whose disk can be full or stalled."""

    def __init__(self) -> None:
        self.full = False
        self.stalled = threading.Event()
        self.stalled.set()
        self.refused = self.lost = 0
        self.written: list[public.Public] = []

    def in_place(self) -> bool:
        return True

    def write(self, messages: list[Entry]) -> None:
        self.stalled.wait()
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        self.written += [message for message, _ in messages]

    def purge_clock(self, keep_s: float, wall: float, monotonic: float) -> PurgeClock:
        return PurgeClock(keep_s, None, 0.0, wall, monotonic)

    def save_purge_clock(self, clock: PurgeClock) -> None:
        pass

    def purge(self, before: float) -> int:  # noqa: ARG002
        return 0

    def count_older(self) -> bool:
        return False

    def close(self) -> None:
        pass


def thread_of(writer: FakeWriter, pending: PendingMessages) -> WriterThread:
    return WriterThread(Path("x.sqlite"), 1.0, pending, writer)  # type: ignore[arg-type]


def test_messages_wait_for_a_full_disk_and_drops_are_counted() -> None:
    disk, pending = FakeWriter(), PendingMessages()
    disk.full = True
    thread = thread_of(disk, pending)
    for seq in range(PENDING + 7):
        pending.add(make_result(seq))
    assert not thread.turn(0.0)
    assert (disk.written, pending.dropped, len(pending)) == ([], 7, PENDING)
    disk.full = False
    assert thread.turn(3.0)
    assert [message.seq for message in disk.written] == list(range(7, PENDING + 7))  # type: ignore[union-attr]
    assert (len(pending), pending.age_s()) == (0, 0.0)


def test_a_stalled_disk_blocks_only_the_writer_thread() -> None:
    disk, pending = FakeWriter(), PendingMessages()
    thread = thread_of(disk, pending)
    disk.stalled.clear()
    pending.add(make_result(0))
    thread.start()
    wait_until(lambda: bool(pending._batch), "the write to start")
    for seq in range(1, PENDING + 3):
        pending.add(make_result(seq))  # never waits
    assert (len(pending), pending.dropped) == (PENDING, 3)
    disk.stalled.set()
    thread.stop(PATIENCE_S)
    seqs = [message.seq for message in disk.written]  # type: ignore[union-attr]
    assert seqs == [0, *range(4, PENDING + 3)]  # the batch in flight is never dropped


def test_a_removed_file_is_opened_again(path: Path) -> None:
    pending = PendingMessages()
    thread = WriterThread(path, 1.0, pending, HistoryWriter(path))
    kept = path.with_name("moved.sqlite")
    for seq, action in enumerate(["none", "delete", "move", "wal"]):
        if action == "delete":
            for file in path.parent.iterdir():
                file.unlink()
        elif action == "move":
            path.rename(kept)
        elif action == "wal":
            path.with_name(path.name + "-wal").unlink()
        pending.add(dataclasses.replace(make_result(seq), time=time.time()))
        assert thread.turn(0.0)
        with HistoryReader(path) as reader:
            rows = reader.windows("main", 0.0, time.time() + 9.0, 100)["rows"]
        assert rows[-1][0] == seq
    assert [row[0] for row in rows] == [2, 3]  # a lost log loses no row of the file
    with HistoryReader(kept) as reader:
        rows = reader.windows("main", 0.0, time.time() + 9.0, 100)["rows"]
    assert [row[0] for row in rows] == [1]  # a moved file is complete
    thread.close()


def test_a_file_that_is_locked_at_the_start_is_opened_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_file, "BUSY_S", 0.05)
    HistoryWriter(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("DROP TABLE purge_clock")  # a file of an earlier version has to be extended
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistoryBusyError):
        HistoryWriter(path)
    pending = PendingMessages()
    thread = WriterThread(path, 1.0, pending, None)
    pending.add(dataclasses.replace(make_result(0), time=time.time()))
    assert not thread.turn(0.0)
    other.execute("ROLLBACK")
    other.close()
    assert thread.turn(2.0)
    with HistoryReader(path) as reader:
        assert len(reader.windows("main", 0.0, time.time() + 9.0, 100)["rows"]) == 1
    thread.close()


def test_a_value_that_sqlite_cannot_store_is_counted_and_skipped(
    writer: HistoryWriter, path: Path
) -> None:
    put(writer, dataclasses.replace(make_result(0), lost=1 << 63), make_result(1))
    assert writer.refused == 1
    with HistoryReader(path) as reader:
        rows = reader.windows("main", T0, T0 + 100.0, 1000)["rows"]
    assert [row[0] for row in rows] == [1]


DAY_S = 86400.0
KEEP_S = 14 * DAY_S


def test_the_hold_survives_a_restart(writer: HistoryWriter) -> None:
    clock = writer.purge_clock(KEEP_S, T0, 0.0)
    clock.update(T0 + 30 * DAY_S, 60.0)
    writer.save_purge_clock(clock)
    again = writer.purge_clock(KEEP_S, T0 + 30 * DAY_S + 60.0, 9.0)
    assert (again.trusted, again.holding) == (T0 + 60.0, True)
    off = writer.purge_clock(KEEP_S, T0 + 3 * DAY_S, 9.0)  # a box that was off for three days
    assert (off.trusted, off.holding) == (T0 + 3 * DAY_S, False)


def test_the_first_purge_does_not_read_every_row(writer: HistoryWriter) -> None:
    steps = []
    counted: list[None] = []
    for rows in (range(10), range(10, 2000)):
        put(writer, *(make_result(seq, run=f"run {seq % 3}") for seq in rows))
        counted.clear()
        writer._db.set_progress_handler(lambda: counted.append(None), 1)
        clock = writer.purge_clock(KEEP_S, T0 + 30 * DAY_S, 0.0)  # far ahead
        writer._db.set_progress_handler(None, 0)
        assert clock.trusted == make_result(rows[-1]).time
        steps.append(len(counted))
    assert steps[0] == steps[1] > 0


def test_a_start_with_a_clock_far_ahead_keeps_an_older_file(
    writer: HistoryWriter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(writer, *(make_result(seq) for seq in range(10)))
    writer.close()
    monkeypatch.setattr(time, "time", lambda: T0 + 40 * DAY_S)
    thread = WriterThread(path, 14.0, PendingMessages(), HistoryWriter(path))
    for turn in range(5):
        assert thread.turn(1000.0 * turn)
    with HistoryReader(path) as reader:
        assert len(reader.windows("main", 0.0, T0 + 100.0, 1000)["rows"]) == 10
    thread.close()


def test_days_are_calendar_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for day in (dt.datetime(2026, 3, 30, 12), dt.datetime(2026, 10, 26, 12)):
            before = dt.datetime.fromtimestamp(days_before(day.timestamp(), 14.0))
            assert before == day - dt.timedelta(days=14)
    finally:
        monkeypatch.undo()
        time.tzset()

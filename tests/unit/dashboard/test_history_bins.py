"""The counts that the writer keeps beside the rows: equal to the rows, once, until the purge."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.bins import LEVELS, UTTERANCE
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.dashboard.history.writer import HistoryWriter
from tests.support.history import T0, make_result, make_utterance

COUNT = 3000
"""Windows of the file, 20 s apart: 17 hours."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


@pytest.fixture
def writer(path: Path) -> Iterator[HistoryWriter]:
    open_writer = HistoryWriter(path)
    rows: list[public.Public] = [
        dataclasses.replace(
            make_result(seq, speech=seq % 5 != 0),
            time=T0 + 20.0 * seq,
            dimensions={"arousal": arousal(seq), "mood": 1.0} if seq % 5 else None,
        )
        for seq in range(COUNT)
    ]
    rows += [spoken(seq) for seq in range(1, COUNT // 2)]
    put(open_writer, *rows)
    yield open_writer
    open_writer.close()


def arousal(seq: int) -> float:
    return round(seq / COUNT, 4)


def spoken(seq: int, **changes: Any) -> public.Utterance:
    one = dataclasses.replace(
        make_utterance(seq), time=T0 + 40.0 * seq, emotion="angry" if seq % 3 else "sad"
    )
    return dataclasses.replace(one, **changes)


def put(writer: HistoryWriter, *messages: public.Public) -> None:
    writer.write([(message, T0) for message in messages])


def bins(path: Path, table: str = "bin") -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4").fetchall()


def make_earlier(path: Path, *dropped: str) -> None:
    """Make the file one of an earlier version, which lacks some tables and indices."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        for one in dropped:
            db.execute(f"DROP {one}")


@pytest.mark.usefixtures("writer")
def test_each_row_is_counted_once_at_each_length(writer: HistoryWriter, path: Path) -> None:
    put(writer, make_result(0), spoken(1))  # repeated
    for seconds in LEVELS:
        own = [row for row in bins(path) if row[1] == seconds]
        assert sum(row[5] for row in own if row[3] != UTTERANCE) == COUNT
        assert sum(row[5] for row in own if row[3] == UTTERANCE) == COUNT // 2 - 1
        assert all(row[2] % seconds == 0 for row in own)
    assert all(long % short == 0 for short, long in itertools.pairwise(LEVELS))


def test_a_failed_transaction_counts_nothing(writer: HistoryWriter, path: Path) -> None:
    before = bins(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON bin BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(sqlite3.Error, match="full"):
        put(writer, make_result(COUNT))
    other.execute("DROP TRIGGER full")
    other.close()
    assert bins(path) == before
    put(writer, make_result(COUNT, speech=False))
    assert sum(row[5] for row in bins(path)) == sum(row[5] for row in before) + len(LEVELS)


def test_a_file_of_an_earlier_version_is_counted_in_portions(
    writer: HistoryWriter, path: Path
) -> None:
    wanted = bins(path)
    writer.close()
    make_earlier(
        *(path, "TABLE bin", "TABLE binned", "TABLE dimension_bin", "TABLE dimension_binned"),
        "INDEX utterance_label",
    )
    with HistoryReader(path) as reader:  # before a writer has opened it
        assert reader.shares(None, 0.0, 2 * T0, 0, 100) == {
            "labels": ["angry", "sad"],
            "rows": [],
            "complete": False,
        }
        old = reader.windows("main", 0.0, 2 * T0, 100)
    second = HistoryWriter(path)
    late = T0 + 20.0 * COUNT + 90_000.0
    put(second, dataclasses.replace(make_result(COUNT), time=late))
    assert second.count_older()
    put(second, dataclasses.replace(make_result(COUNT + 1), time=T0 + 100.0))  # not counted yet
    while second.count_older():
        pass
    second.close()
    first = [row for row in bins(path) if row[2] <= T0 + 20.0 * COUNT and row[2] > T0 + 3600.0]
    assert first == [row for row in wanted if row[2] > T0 + 3600.0]
    assert sum(row[5] for row in bins(path)) == sum(row[5] for row in wanted) + 2 * len(LEVELS)
    with HistoryReader(path) as reader:
        assert reader.shares(None, 0.0, 2 * T0, 0, 100)["complete"]
        assert old["step"] > 10.0
        assert reader.windows("main", 0.0, 2 * T0, 100)["step"] == 1800.0


def test_each_dimension_is_averaged_and_no_other(writer: HistoryWriter, path: Path) -> None:
    put(writer, dataclasses.replace(make_result(1), dimensions={"arousal": 1.0}))  # repeated
    with HistoryReader(path) as reader:
        for windows, limit, step in ((100, 70, 30.0), (COUNT, 500, 120.0), (COUNT, 33, 2700.0)):
            answer = reader.windows("main", T0 - 1.0, T0 + 20.0 * windows, limit)
            assert answer["step"] == step
            for row in answer["rows"]:
                first, last = (row[1] - step - T0) / 20.0, (row[1] - T0) / 20.0
                seqs = [n for n in range(windows + 1) if first <= n < last and n % 5]
                assert bool(seqs) == (row[3] == "speech")
                wanted = {"arousal": sum(map(arousal, seqs)) / len(seqs)} if seqs else None
                assert row[10] == (wanted and pytest.approx(wanted, abs=1e-4))


def test_a_file_without_dimensions_in_bins_gets_them_in_portions(
    writer: HistoryWriter, path: Path
) -> None:
    wanted, counts = bins(path, "dimension_bin"), bins(path)
    span = ("main", T0 - 1.0, T0 + 20.0 * COUNT, 100)
    with HistoryReader(path) as reader:
        chart = reader.windows(*span)
        writer.close()
        make_earlier(path, "TABLE dimension_bin", "TABLE dimension_binned")
        old = reader.windows(*span)
    assert [row[:10] for row in old["rows"]] == [row[:10] for row in chart["rows"]]
    assert {row[10] for row in old["rows"]} == {None}
    second = HistoryWriter(path)
    assert bins(path, "dimension_bin") == []
    late = dataclasses.replace(make_result(1, stream="hall"), time=T0 + 20.0 * COUNT + 90_000.0)
    put(second, dataclasses.replace(late, dimensions={"valence": 0.25}))
    portions = 1
    while second.count_older():
        portions += 1
    second.close()
    assert portions == pytest.approx(20 * COUNT / 600, abs=2)
    filled = bins(path, "dimension_bin")
    old_rows = [row for row in filled if row[3] == "arousal"]
    assert [row[:5] for row in old_rows] == [row[:5] for row in wanted]
    assert [row[5] for row in old_rows] == pytest.approx([row[5] for row in wanted])
    assert len(filled) == len(wanted) + len(LEVELS)
    assert sum(row[5] for row in bins(path)) == sum(row[5] for row in counts) + len(LEVELS)
    with HistoryReader(path) as reader:
        again = reader.windows(*span)
    for row, before in zip(again["rows"], chart["rows"], strict=True):
        assert row[:10] == before[:10]
        assert row[10] == pytest.approx(before[10], abs=1e-4)


@pytest.mark.usefixtures("writer")
def test_a_chart_of_any_time_has_few_rows_and_the_same_shares(path: Path) -> None:
    with HistoryReader(path) as reader:
        for start, end in ((T0, T0 + 20.0 * COUNT), (-1e12, 1e12), (0.0, 1e300)):
            answer = reader.windows("main", start, end, 100)
            assert 90 <= len(answer["rows"]) <= 102
            assert answer["step"] % 60 == 0
            speech = [row for row in answer["rows"] if row[3] == "speech"]
            assert all(sum(row[9]) == pytest.approx(1.0, abs=0.001) for row in speech)
            spans = [(row[1] - row[2], row[1]) for row in answer["rows"]]
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
            heard = reader.utterance_bins("main", start, end, 100)
            assert sum(one["count"] for one in heard) == COUNT // 2 - 1
        assert reader.count_utterances("main", -1e12, 1e12) == COUNT // 2 - 1
        assert reader.count_utterances("main", -1e12, 1e12, most=10) == COUNT // 2 - 1


def test_shares_by_hour_and_of_the_whole_time(writer: HistoryWriter, path: Path) -> None:
    put(writer, dataclasses.replace(make_result(0, stream="hall"), time=T0 + 7200.0))
    with HistoryReader(path) as reader:
        hours = reader.shares("main", T0, T0 + 7200.0, 3600, 100)
        whole = reader.shares(None, T0 - 1e9, T0 + 1e9, 0, 100)
        with pytest.raises(ValueError, match=r"^$"):
            reader.shares(None, T0, T0 + 1e9, 900, 10)
    assert hours["rows"] == [
        ["main", T0, 180, 0.8, 0.0, [0.5, 0.5], [60, 29], 89],
        ["main", T0 + 3600, 180, 0.8, 0.0, [0.5, 0.5], [60, 30], 90],
    ]
    assert [row[:4] for row in whole["rows"]] == [
        ["hall", T0 + 7200, 1, 1.0],
        ["main", T0, COUNT, 0.8],
    ]


def test_the_list_has_every_utterance_once_newest_first(writer: HistoryWriter, path: Path) -> None:
    # Two runs and a second stream with equal times.
    put(writer, *(spoken(seq, run="b") for seq in range(1, 60)))
    put(writer, *(spoken(seq, stream="hall") for seq in range(1, 60)))
    for stream, label, wanted in (
        (None, None, COUNT // 2 - 1 + 118),
        ("main", None, COUNT // 2 - 1 + 59),
        ("hall", "sad", 19),
        ("hall", "happy", 0),
    ):
        found: list[tuple[float, int, int]] = []
        with HistoryReader(path) as reader:
            before = None
            while part := reader.newest_utterances(stream, label, 0.0, 2 * T0, 37, before):
                assert label is None or {one["emotion"] for _, one in part} == {label}
                found += [key for key, _ in part]
                before = part[-1][0]
        assert len(found) == len(set(found)) == wanted
        assert found == sorted(found, reverse=True)


def test_bins_go_with_their_rows_and_the_file_shrinks(writer: HistoryWriter, path: Path) -> None:
    writer._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    while writer.purge(T0 + 20.0 * COUNT - 4000.0):
        pass
    for table in ("bin", "dimension_bin"):
        left = bins(path, table)
        assert {row[1] for row in left} == set(LEVELS)
        assert min(row[2] + row[1] for row in left) > T0 + 20.0 * COUNT - 4000.0
    while writer.purge(T0 + 1e6):
        pass
    assert bins(path) == bins(path, "dimension_bin") == []
    writer._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < size / 4

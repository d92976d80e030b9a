"""The outbox: what is in it after a crash, its limit, and its numbers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.fleet.messages import Intake, Record
from speech_emotion.fleet.outbox import OVERHEAD, Outbox
from tests.support.history import make_result

LIMIT = 1 << 20


def outbox(path: Path, limit: int = LIMIT) -> Outbox:
    return Outbox(path / "fleet.sqlite", "home", "kitchen", limit)


def records(first: int, number: int) -> list[Record]:
    intake = Intake({"result/main/a": str(first)})
    return [r for seq in range(first, first + number) for r in intake.feed(make_result(seq), 0.0)]


def test_what_is_written_is_there_after_a_restart(tmp_path: Path) -> None:
    with outbox(tmp_path) as one:
        one.commit(records(0, 3))
        own, (first, *_) = one.id, one.oldest(10)
        one.commit([], [first], 77)
        assert one.waiting == 2
    assert (tmp_path / "fleet.sqlite").stat().st_mode & 0o077 == 0
    with outbox(tmp_path) as again:
        assert (again.id, again.sequence, again.waiting) == (own, 77, 2)
        assert [(one.number, one.id) for one in again.oldest(10)] == [
            (2, "main/a/1"),
            (3, "main/a/2"),
        ]
        assert again.states() == {"result/main/a": "3"}
        assert again.oldest(1)[0].subject == "sep.home.kitchen.main.result"


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    with outbox(tmp_path) as one:
        one.commit(records(0, 2))
        one.commit([], one.oldest(2))
    with outbox(tmp_path) as again:
        again.commit(records(2, 1))
        assert again.oldest(1)[0].number == 3


def test_a_full_outbox_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    body = records(0, 1)[0].body
    limit = 10 * (len(body) + OVERHEAD)
    with outbox(tmp_path, limit) as one:
        one.commit([Record("main", "result", body, str(number)) for number in range(25)])
        assert one.dropped == 25 - one.waiting
        assert 8 <= one.waiting <= 10
        assert one.oldest(1)[0].id == str(one.dropped)
        assert one.oldest(1)[0].number == one.dropped + 1
        # What was dropped meanwhile may be accepted all the same.
        one.commit([], one.oldest(1) * 2)
        assert one.bytes == one.waiting * (len(body) + OVERHEAD)


def test_a_record_without_an_id_gets_the_number_of_its_outbox(tmp_path: Path) -> None:
    with outbox(tmp_path) as one:
        one.commit([Record("BOX", "health", b"{}")])
        assert one.oldest(1)[0].id == f"{one.id}/1"


def test_a_failed_transaction_changes_nothing(tmp_path: Path) -> None:
    with outbox(tmp_path) as one:
        one.commit(records(0, 1))
        bad = Record("main", "result", b"", "x", ("k", None))  # type: ignore[arg-type]
        with pytest.raises(sqlite3.Error):
            one.commit([*records(1, 1), bad], one.oldest(1))
        assert [waiting.id for waiting in one.oldest(9)] == ["main/a/0"]
        assert one.waiting == 1
        one.commit(records(1, 1))
        assert one.waiting == 2


def test_two_pipelines_cannot_share_a_file(tmp_path: Path) -> None:
    with outbox(tmp_path), pytest.raises(UserError, match=r"another pipeline.*set nats\.outbox"):
        outbox(tmp_path)
    (tmp_path / "other").write_text("no database")
    with pytest.raises(UserError, match="cannot be used as outbox"):
        Outbox(tmp_path / "other", "home", "kitchen", LIMIT)

"""The store: rows, batches after a crash, compaction, what is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import errno
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("nats")

import pyarrow as pa

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.fleet.messages import Intake
from speech_emotion.fleet.rollout.orders import Report
from speech_emotion.fleet.store import folder as folder_module
from speech_emotion.fleet.store.folder import MERGED, StoreFolder
from speech_emotion.fleet.store.rows import RefusedError, row_of, table_of
from tests.support.fleet import keys, stored
from tests.support.history import T0, make_result, make_utterance
from tests.support.publisher import health

ARRIVED = dt.datetime.fromtimestamp(T0, dt.UTC)


def body(message: Any) -> bytes:
    return json.dumps(public.to_json_map(message)).encode()


def tables(*seqs: int) -> dict[str, pa.Table]:
    rows = [
        row_of("sep.home.kitchen.main.result", f"main/a/{seq}", body(make_result(seq)), ARRIVED)
        for seq in seqs
    ]
    return {rows[0].partition: table_of("result", [row.values for row in rows])[0]}


def ids(path: Path) -> list[str]:
    return [name for _, name in keys(stored(path, "result"))]


@pytest.mark.parametrize(
    ("subject", "message", "expected"),
    [
        ("main.result", make_result(1), {"emotion": "angry", "confidence": 0.75, "seq": 1}),
        ("main.result", make_result(1, speech=False), {"emotion": None, "probabilities": None}),
        (
            "main.result",
            dataclasses.replace(make_result(1), dimensions={"arousal": 0.5}),
            {"dimensions": {"arousal": 0.5}, "seq": 1},
        ),
        ("main.utterance", make_utterance(4), {"probabilities": {"angry": 0.25, "sad": 0.75}}),
        ("BOX.health", health(), {"state": "ok", "muted": False}),
    ],
)
def test_a_message_is_a_row(
    tmp_path: Path, subject: str, message: Any, expected: dict[str, Any]
) -> None:
    row = row_of(f"sep.home.kitchen.{subject}", "id", body(message), ARRIVED)
    with StoreFolder(tmp_path) as store:
        store.write({row.partition: table_of(row.kind, [row.values])[0]})
    (found,) = stored(tmp_path, row.kind)
    assert {key: found[key] for key in expected} == expected
    assert (found["site"], found["stream"]) == ("home", subject.partition(".")[0])
    assert (found["box"], found["id"]) == ("kitchen", "id")
    assert found["time"] == message.time


@pytest.mark.parametrize(
    ("subject", "payload"),
    [
        ("sep.home.kitchen.main.result", b"no json"),
        ("sep.home.kitchen.main.result", b"[]"),
        ("sep.home.kitchen.main.result", b'{"v": 1}'),
        ("sep.home.kitchen.main.other", body(make_result(0))),
        ("sep.home.../../etc.main.result", body(make_result(0))),
        ("sep.home.kitchen.main.event", b'{"event": 5}'),
        ("sep.home.kitchen.main.event", b'{"event": "mute", "time": 1e300}'),
        ("sep.home.kitchen.main.utterance", body(make_result(0))),
    ],
)
def test_what_no_box_publishes_is_refused(subject: str, payload: bytes) -> None:
    with pytest.raises(RefusedError):
        row_of(subject, "id", payload, ARRIVED)


def test_a_row_that_no_column_can_hold_spoils_no_other() -> None:
    subject = "sep.home.kitchen.main.result"
    good = row_of(subject, "a", body(make_result(0)), ARRIVED).values
    table, refused = table_of("result", [good, {**good, "seq": 2**70}, {**good, "id": "\ud800"}])
    assert (table.num_rows, refused) == (1, 2)


def test_a_batch_that_was_not_finished_does_not_count(tmp_path: Path) -> None:
    with StoreFolder(tmp_path) as store:
        store.state.sequence = 2
        store.write(tables(0, 1))
    state = (tmp_path / "state.json").read_bytes()
    with StoreFolder(tmp_path) as store:
        store.state.sequence = 4
        store.write(tables(2, 3))
    # As after a crash before the last step.
    (tmp_path / "state.json").write_bytes(state)
    with StoreFolder(tmp_path) as store:
        assert store.state.sequence == 2
        assert ids(tmp_path) == ["main/a/0", "main/a/1"]
        store.write(tables(2, 3))
    assert len(ids(tmp_path)) == 4


def test_compaction_keeps_every_row_and_few_files(tmp_path: Path) -> None:
    number = MERGED * MERGED + 3
    with StoreFolder(tmp_path) as store:
        for seq in range(number):
            batch = tables(seq)
            store.write(batch)
            store.compact(batch)
    assert ids(tmp_path) == sorted(f"main/a/{seq}" for seq in range(number))
    assert len(list(tmp_path.glob("result/**/*.parquet"))) == 1 + 3
    with StoreFolder(tmp_path):
        assert len(ids(tmp_path)) == number


def test_a_compaction_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "no exchange")

    monkeypatch.setattr(folder_module, "_exchange", refuse)
    with StoreFolder(tmp_path) as store:
        for seq in range(MERGED):
            batch = tables(seq)
            store.write(batch)
        with pytest.raises(OSError, match="no exchange"):
            store.compact(batch)
        assert len(ids(tmp_path)) == MERGED


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with StoreFolder(tmp_path), pytest.raises(UserError, match="another `fleet store`"):
        StoreFolder(tmp_path)
    (tmp_path / "state.json").write_text('{"v": 9}')
    with pytest.raises(UserError, match="another version"):
        StoreFolder(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as a store"):
        StoreFolder(tmp_path / "file" / "below")


def test_a_report_of_a_roll_out_is_an_event() -> None:
    (record,) = Intake({}).rollout(dataclasses.asdict(Report(1, "refused", "b", "why")), T0)
    row = row_of("sep.home.kitchen.ROLLOUT.event", "x", record.body, ARRIVED)
    assert row.partition.endswith("site=home/stream=ROLLOUT")
    values = row.values
    assert (values["event"], values["state"], values["reason"]) == ("rollout", "refused", "why")

"""The outbox, its store and the workers: the disk and its faults, backoff, bounds."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from speech_emotion.alerts import delivery_worker
from speech_emotion.alerts import store as stores
from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.delivery_worker import DeliveryWorker
from speech_emotion.alerts.errors import DeliveryError
from speech_emotion.alerts.outbox import DELIVERED, GIVEN_UP, KEPT, Delivery, Outbox
from speech_emotion.alerts.rules import RuleState
from speech_emotion.alerts.store import Store
from speech_emotion.common.alert_address import AlertAddress, parse_address
from speech_emotion.common.errors import DeviceError, UserError
from tests.support.alert_messages import alert
from tests.support.pipelines import PATIENCE_S, wait_until

ADDRESS = parse_address("command:lamp pa55-pa55")
KEY = ("anger", "main")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "alerts.sqlite"


def delivery(number: int, **changes: object) -> Delivery:
    return Delivery(alert(number), ADDRESS.key, **changes)  # type: ignore[arg-type]


def contents(path: Path) -> tuple[dict[tuple[str, str], RuleState], list[Delivery]]:
    box = Outbox(path)
    try:
        return box.states(), box.deliveries()
    finally:
        box.close()


def test_what_is_committed_is_read_again(path: Path) -> None:
    box = Outbox(path)
    state = RuleState("a", 7, since=3, raised=True, held=False, fired=1.5)
    box.commit({KEY: state}, [delivery(0), delivery(1)])
    ended = delivery(0, state=DELIVERED, attempts=2, failure=None, ended=9.0)
    box.commit({KEY: state}, [ended])
    box.close()
    assert contents(path) == ({KEY: state}, [ended, delivery(1)])
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"pa55" not in path.read_bytes()


def test_only_the_newest_ended_deliveries_stay(path: Path) -> None:
    box = Outbox(path)
    many = [delivery(number, state=DELIVERED) for number in range(KEPT + 50)]
    box.commit({}, [delivery(9999), *many])
    box.close()
    kept = contents(path)[1]
    assert len(kept) == KEPT + 1
    assert kept[0] == delivery(9999)  # the oldest, and it waits
    assert kept[-1] == many[-1]


def test_a_file_of_another_program_and_a_second_pipeline_are_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("no database " * 100)
    with pytest.raises(UserError, match="cannot be used as outbox"):
        Outbox(path)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(UserError, match="another program or another version"):
        Outbox(path)
    path.unlink()
    box = Outbox(path)
    with pytest.raises(UserError, match=r"another pipeline uses this outbox.*outbox\.file"):
        Outbox(path)
    box.close()
    Outbox(path).close()
    with pytest.raises(UserError, match="cannot be used"):
        Outbox(path.parent)


def test_a_lock_of_another_program_is_no_mistake_of_the_user(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speech_emotion.common.stage.state_database.BUSY_S", 0.05)
    Outbox(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DeviceError, match="holds its lock"):
        Outbox(path)
    other.close()


@pytest.fixture
def started(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], tuple[Store, list[Delivery]]]]:
    """Starts a store; the second value has what it has passed on."""
    monkeypatch.setattr(stores, "COMMIT_S", 0.02)
    monkeypatch.setattr(stores, "RETRY_S", 0.02)
    running: list[Store] = []

    def start() -> tuple[Store, list[Delivery]]:
        passed: list[Delivery] = []
        store = Store(path, passed.extend)
        store.start()
        running.append(store)
        return store, passed

    yield start
    for store in running:
        store.stop(PATIENCE_S)


def on_disk(path: Path) -> list[tuple[str, str]]:
    """Alert and state of each row, read beside the open store; none before it has its tables."""
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'delivery'").fetchone():
            return []
        return db.execute("SELECT alert, state FROM delivery ORDER BY id").fetchall()


def test_an_alert_is_on_the_disk_before_it_is_passed_on(
    path: Path, started: Callable[[], tuple[Store, list[Delivery]]]
) -> None:
    store, passed = started()
    seen: list[list[tuple[str, str]]] = []

    def stored(new: list[Delivery]) -> None:
        seen.append(on_disk(path))
        passed.extend(new)

    store._stored = stored
    state = RuleState("a", 3)
    store.put({KEY: state}, [delivery(1)])
    store.put({KEY: state}, [delivery(1)])  # it is known
    store.flush(PATIENCE_S)
    assert passed == [delivery(1)]
    assert seen == [[(alert(1).id, "waiting")]]
    store.settle(delivery(1, state=DELIVERED, attempts=1))
    wait_until(lambda: on_disk(path) == [(alert(1).id, DELIVERED)], "the mark")
    store.put({KEY: dataclasses.replace(state, next=4)}, [])
    store.stop(PATIENCE_S)
    assert contents(path)[0] == {KEY: RuleState("a", 4)}
    again, _ = started()
    assert again.waiting() == []
    assert again.newest(5) == [delivery(1, state=DELIVERED, attempts=1)]


def test_many_quick_deliveries_are_all_marked(
    path: Path, started: Callable[[], tuple[Store, list[Delivery]]]
) -> None:
    store, passed = started()
    store.put({}, [delivery(number) for number in range(3 * KEPT)])
    wait_until(lambda: len(passed) == 3 * KEPT, "all to be passed on")
    for one in list(passed):
        store.settle(dataclasses.replace(one, state=DELIVERED, attempts=1))
    store.stop(PATIENCE_S)
    assert len(on_disk(path)) == KEPT
    assert {state for _, state in on_disk(path)} == {DELIVERED}


def test_a_disk_that_fails_delays_no_alert_and_forgets_none(
    path: Path,
    started: Callable[[], tuple[Store, list[Delivery]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, passed = started()
    commit = Outbox.commit

    def failing(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Outbox, "commit", failing)
    store.put({KEY: RuleState("a", 1)}, [delivery(1)])
    wait_until(lambda: passed == [delivery(1)], "the alert, from memory")
    store.settle(delivery(1, state=DELIVERED, attempts=1))
    store.put({}, [delivery(2)])
    wait_until(lambda: len(passed) == 2, "the second one")
    assert store.unwritten == 2
    assert on_disk(path) == []
    monkeypatch.setattr(Outbox, "commit", commit)
    wait_until(lambda: len(on_disk(path)) == 2, "the file to be written again")
    assert on_disk(path) == [(alert(1).id, DELIVERED), (alert(2).id, "waiting")]
    wait_until(lambda: "is written again" in caplog.text, "the line in the log")


def test_a_file_that_is_removed_is_written_anew(
    path: Path, started: Callable[[], tuple[Store, list[Delivery]]]
) -> None:
    store, _ = started()
    store.put({KEY: RuleState("a", 1)}, [delivery(1), delivery(2)])
    wait_until(lambda: len(on_disk(path)) == 2, "the file")
    for file in path.parent.iterdir():
        file.unlink()
    store.settle(delivery(1, state=DELIVERED, attempts=1))
    wait_until(lambda: len(on_disk(path)) == 2, "a new file")
    store.stop(PATIENCE_S)
    states, kept = contents(path)
    assert states == {KEY: RuleState("a", 1)}
    assert [one.state for one in kept] == [DELIVERED, "waiting"]


class Receiver:
    """What stands for a channel: it fails while it is shut."""

    def __init__(self) -> None:
        self.shut = False
        self.arrived: list[str] = []
        self.attempts: list[float] = []

    def send(self, address: AlertAddress, one: Alert) -> None:
        self.attempts.append(time.monotonic())
        if self.shut:
            raise DeliveryError(f"{address.words} did not answer\nat all")
        self.arrived.append(one.id)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    monkeypatch.setattr(delivery_worker, "BACKOFF_S", (0.02, 0.08))
    return Receiver()


@pytest.fixture
def worker(receiver: Receiver) -> Iterator[tuple[DeliveryWorker, list[Delivery]]]:
    settled: list[Delivery] = []
    one = DeliveryWorker(ADDRESS, settled.append, 3600.0, receiver.send)
    one.start()
    yield one, settled
    one.request_stop()
    one.join(PATIENCE_S)


def test_a_courier_keeps_the_order_and_tries_with_growing_delay(
    receiver: Receiver, worker: tuple[DeliveryWorker, list[Delivery]]
) -> None:
    one, settled = worker
    receiver.shut = True
    for number in range(3):
        one.add(delivery(number))
    wait_until(lambda: len(receiver.attempts) >= 6, "six attempts")
    assert one.failed >= 5
    assert one.waiting == 3
    assert one.age_s() > 0.0
    delays = [b - a for a, b in zip(receiver.attempts, receiver.attempts[1:6], strict=False)]
    assert all(d >= least for d, least in zip(delays, [0.02, 0.04, 0.08, 0.08], strict=False))
    failure = settled[-1].failure or ""
    assert failure == "('lamp', '***') did not answer\\nat all"
    assert settled[-1].attempts >= 5
    receiver.shut = False
    wait_until(lambda: len(receiver.arrived) == 3, "all")
    assert receiver.arrived == [alert(number).id for number in range(3)]

    def delivered() -> list[int]:
        return [entry.alert.seq for entry in list(settled) if entry.state == DELIVERED]

    wait_until(lambda: len(delivered()) == 3, "all to be settled")
    assert one.waiting == 0
    assert delivered() == [0, 1, 2]
    assert one.delivered == 3
    assert one.age_s() == 0.0


def test_a_test_does_not_wait_and_is_tried_once(
    receiver: Receiver,
    worker: tuple[DeliveryWorker, list[Delivery]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery_worker, "BACKOFF_S", (60.0, 60.0))
    one, settled = worker
    receiver.shut = True
    one.add(delivery(0))
    wait_until(lambda: one.failed == 1, "the failure")
    trial = Delivery(alert(7, test=True), ADDRESS.key)
    one.add(trial)
    wait_until(lambda: bool(settled) and settled[-1].alert.test, "the test")
    assert settled[-1].state == GIVEN_UP
    receiver.shut = False
    one.add(dataclasses.replace(trial, alert=alert(8, test=True)))
    wait_until(lambda: len(receiver.arrived) == 2, "the test, and with it what waits")
    assert receiver.arrived == [alert(8).id, alert(0).id]


def test_old_alerts_are_given_up_and_too_many_drop_the_oldest(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_worker, "MAX_WAITING", 3)
    settled: list[Delivery] = []
    one = DeliveryWorker(ADDRESS, settled.append, 3600.0, receiver.send)
    receiver.shut = True
    now = time.time()
    for number, age in enumerate([0.0, 4000.0, 0.0, 0.0]):
        one.add(Delivery(alert(number, time=now - age), ADDRESS.key))
    assert [(entry.alert.seq, entry.state) for entry in settled] == [(0, GIVEN_UP)]
    assert "more than 3" in (settled[0].failure or "")
    one.start()

    def given_up() -> list[Delivery]:
        return [entry for entry in list(settled) if entry.state == GIVEN_UP]

    wait_until(lambda: len(given_up()) == 2, "the old alert to be given up")
    assert one.dropped == 2
    old = given_up()[-1]
    assert old.alert.seq == 1
    assert old.attempts == delivery_worker.LEAST_ATTEMPTS  # a clock set ahead gives up none at once
    receiver.shut = False
    wait_until(lambda: len(receiver.arrived) == 2, "the others")
    one.request_stop()
    one.join(PATIENCE_S)


def test_at_the_end_what_can_be_delivered_is_and_the_rest_stays(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_worker, "BACKOFF_S", (60.0, 60.0))
    settled: list[Delivery] = []
    free, blocked = threading.Event(), threading.Event()

    def slow(address: AlertAddress, one: Alert) -> None:
        blocked.set()
        free.wait(PATIENCE_S)
        receiver.send(address, one)

    one = DeliveryWorker(ADDRESS, settled.append, 3600.0, slow)
    one.start()
    for number in range(5):
        one.add(delivery(number))
    assert blocked.wait(PATIENCE_S)
    one.request_stop()
    free.set()
    one.join(PATIENCE_S)
    assert len(receiver.arrived) == 5
    receiver.shut = True
    other = DeliveryWorker(ADDRESS, settled.append, 3600.0, receiver.send)
    other.add(delivery(9))
    other.request_stop()
    other.start()
    other.join(PATIENCE_S)  # it does not wait for the next attempt
    assert settled[-1] == delivery(9, attempts=1, failure=settled[-1].failure)

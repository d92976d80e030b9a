"""The numbered events that event streams send: bounded, and continued without a hole."""

from __future__ import annotations

from speech_emotion.dashboard.live.event_log import KEPT_CHARS, KEPT_S, PART_CHARS, EventLog


def numbers(log: EventLog, after: int) -> list[int]:
    """The events after one, in as many parts as it takes."""
    found: list[int] = []
    while part := log.since(found[-1] if found else after)[0]:
        found += [event.number for event in part]
    return found


def test_every_event_after_a_place_comes_once_and_in_order() -> None:
    log = EventLog()
    assert log.since(0) == ([], 0)
    for _ in range(100):
        log.append("result", "main", "{}", 0.0)
    for after in (0, 1, 50, 99, 100):
        assert numbers(log, after) == list(range(after + 1, 101))
        assert log.since(after)[1] == 0


def test_what_is_no_longer_kept_is_counted() -> None:
    log = EventLog()
    for second in range(1000):
        log.append("result", "main", "{}", float(second))
        kept = min(second + 1, int(KEPT_S) + 1)
        assert len(log) == kept
        part, missed = log.since(0)
        assert missed == second + 1 - kept
        assert part[0].number == missed + 1
    assert log.since(997) == (log.since(0)[0][-3:], 0)
    log.append("result", "main", "{}", 1e6)
    assert log.since(998) == (log.since(1000)[0], 2)


def test_memory_is_bounded_for_events_of_any_size() -> None:
    log = EventLog()
    big = "x" * (KEPT_CHARS // 20)
    for _ in range(200):
        log.append("result", "main", big, 0.0)
    assert len(log) <= 20
    part, missed = log.since(0)
    assert sum(len(event.data) for event in part) < PART_CHARS + len(big) + 1
    assert missed + len(log) == 200
    log.append("result", "main", "x" * (KEPT_CHARS + 1), 0.0)  # larger than all that is kept
    assert log.since(0) == ([], 201)
    log.append("info", "main", "{}", 0.0)
    assert [event.number for event in log.since(0)[0]] == [202]


def test_an_id_is_of_one_server_only() -> None:
    log, other = EventLog(), EventLog()
    for one in (log, other):
        one.append("result", "main", "{}", 0.0)
    assert log.number(log.name(1)) == 1
    assert log.number(log.name(0)) == 0
    epoch = log.name(1).partition("-")[0]
    for wrong in (other.name(1), f"{epoch}-2", f"{epoch}--1", f"{epoch}-", epoch, "", "-1", "١-١"):
        assert log.number(wrong) is None

"""Quiet hours: the calendar, midnight, and daylight saving time."""

from __future__ import annotations

import datetime
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.errors import UserError
from speech_emotion.common.privacy.quiet_hours import (
    QuietHours,
    find_zone,
    parse_clock,
    quiet_until,
)

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NIGHT = QuietHours(parse_clock("22:00"), parse_clock("07:00"))


def at(text: str, *, fold: int = 0, zone: datetime.tzinfo = BERLIN) -> float:
    """Unix time of a moment on the wall clock."""
    moment = datetime.datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)
    return moment.timestamp()


def utc(text: str) -> float:
    return at(text, zone=datetime.UTC)


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-07-01 21:59:59", None),
        ("2026-07-01 22:00:00", "2026-07-02 07:00"),
        ("2026-07-02 00:00:00", "2026-07-02 07:00"),
        ("2026-07-02 06:59:59", "2026-07-02 07:00"),
        ("2026-07-02 07:00:00", None),
    ],
)
def test_a_night(now: str, until: str | None) -> None:
    assert quiet_until([NIGHT], at(now), BERLIN) == (None if until is None else at(until))


def test_days_are_those_on_which_it_begins() -> None:
    friday = QuietHours(NIGHT.begin, NIGHT.end, days=(4,))
    assert quiet_until([friday], at("2026-07-03 23:00"), BERLIN) == at("2026-07-04 07:00")
    assert quiet_until([friday], at("2026-07-04 06:00"), BERLIN) == at("2026-07-04 07:00")
    assert quiet_until([friday], at("2026-07-04 23:00"), BERLIN) is None
    assert quiet_until([friday], at("2026-07-03 06:00"), BERLIN) is None


def test_periods_that_touch_count_as_one() -> None:
    day = [QuietHours(0, 720), QuietHours(720, 780)]
    assert quiet_until(day, at("2026-07-03 01:00"), BERLIN) == at("2026-07-03 13:00")
    always = [QuietHours(0, 720), QuietHours(720, 0)]
    until = quiet_until(always, at("2026-07-03 01:00"), BERLIN)
    assert until is not None
    assert until > at("2026-07-08 00:00")


# In Europe/Berlin the clock jumps from 02:00 to 03:00 on 2026-03-29 (01:00 UTC), and shows
# 02:00 to 03:00 twice on 2026-10-25 (00:00 and 01:00 UTC).


def test_a_begin_that_the_clock_skips_is_the_moment_of_the_change() -> None:
    period = [QuietHours(parse_clock("02:30"), parse_clock("06:00"))]
    change = utc("2026-03-29 01:00")
    assert quiet_until(period, change - 1.0, BERLIN) is None
    assert quiet_until(period, change, BERLIN) == utc("2026-03-29 04:00")


def test_an_end_that_the_clock_skips_is_the_moment_of_the_change() -> None:
    period = [QuietHours(parse_clock("01:00"), parse_clock("02:30"))]
    change = utc("2026-03-29 01:00")
    assert quiet_until(period, change - 1.0, BERLIN) == change
    assert quiet_until(period, change, BERLIN) is None


def test_a_begin_that_the_clock_shows_twice_is_the_first_one() -> None:
    period = [QuietHours(parse_clock("02:30"), parse_clock("06:00"))]
    begin, end = utc("2026-10-25 00:30"), utc("2026-10-25 05:00")
    assert quiet_until(period, begin - 1.0, BERLIN) is None
    for minutes in range(0, 270, 5):  # also while the clock shows 02:00 to 02:30 again
        assert quiet_until(period, begin + 60.0 * minutes, BERLIN) == end


def test_an_end_that_the_clock_shows_twice_is_the_second_one() -> None:
    period = [QuietHours(parse_clock("01:00"), parse_clock("02:30"))]
    begin, end = utc("2026-10-24 23:00"), utc("2026-10-25 01:30")
    for minutes in range(0, 150, 5):
        assert quiet_until(period, begin + 60.0 * minutes, BERLIN) == end
    assert quiet_until(period, end, BERLIN) is None


@pytest.mark.parametrize(("night", "hours"), [("2026-03-28", 8), ("2026-10-24", 10)])
def test_the_night_of_a_change_is_an_hour_shorter_or_longer(night: str, hours: int) -> None:
    begin = at(f"{night} 22:00")
    assert quiet_until([NIGHT], begin, BERLIN) == begin + 3600.0 * hours


@given(
    moment=st.integers(1_767_225_600, 1_830_297_600),  # 2026 and 2027
    begin=st.integers(0, 1439),
    end=st.integers(0, 1439),
    zone=st.sampled_from(
        ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]
    ),
)
def test_away_from_a_change_of_the_clock_the_time_of_day_decides(
    moment: int, begin: int, end: int, zone: str
) -> None:
    where = zoneinfo.ZoneInfo(zone)
    clock = datetime.datetime.fromtimestamp(moment, where)
    near = [
        datetime.datetime.fromtimestamp(moment + 3600 * h, where).utcoffset()
        for h in range(-50, 51, 2)
    ]
    if begin == end or len(set(near)) > 1:
        return
    minutes = 60 * clock.hour + clock.minute
    inside = begin <= minutes < end if begin < end else minutes >= begin or minutes < end
    until = quiet_until([QuietHours(begin, end)], float(moment), where)
    assert (until is not None) == inside
    if until is not None:
        assert datetime.datetime.fromtimestamp(until, where).hour * 60 + (
            datetime.datetime.fromtimestamp(until, where).minute
        ) == (end)


def test_without_a_zone_it_is_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        here = zoneinfo.ZoneInfo("America/New_York")
        # The change of 2026-11-01, at 06:00 UTC.
        for hour in range(48):
            now = utc("2026-10-31 12:00") + 3600.0 * hour
            assert quiet_until([NIGHT], now) == quiet_until([NIGHT], now, here)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["24:00", "7", "07:60", "", "07:00:00", "٧:00"])
def test_a_malformed_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be HH:MM"):
        parse_clock(text)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "../../etc/passwd", "a\x00b"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="time zone"):
        find_zone(name)

"""Quiet hours: when the pipeline is muted by the calendar. Pure; no clock of its own.

Times are those of a wall clock. Where daylight saving time moves that clock, privacy decides: a
period begins when the clock reaches `begin` for the first time, and ends when it reaches `end` for
the last time.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import zoneinfo
from collections.abc import Sequence
from typing import Literal, get_args

from speech_emotion.common.errors import UserError

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
LONGEST_CHAIN = 16
"""Most periods that are joined to tell when quiet hours end; they may cover the whole week."""


@dataclasses.dataclass(frozen=True)
class QuietHours:
    """A period on the wall clock.

    Attributes:
        begin, end: minutes after midnight; an `end` at or before `begin` is on the next day.
        days: days on which it begins, 0 is Monday.
    """

    begin: int
    end: int
    days: tuple[int, ...] = tuple(range(7))


def parse_clock(text: str) -> int:
    """`HH:MM` as minutes after midnight.

    Raises:
        UserError: it is no time of the day.
    """
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text)
    if found is None:
        raise UserError(f"time {text!r} must be HH:MM, from 00:00 to 23:59")
    return 60 * int(found[1]) + int(found[2])


def find_zone(name: str) -> zoneinfo.ZoneInfo:
    """A time zone by its name.

    Raises:
        UserError: the name is unknown, or this machine has no time zones.
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(
            f"time zone {name!r} is not known; allowed: names such as Europe/Berlin, where the "
            "system package tzdata is installed"
        ) from None


def quiet_until(
    periods: Sequence[QuietHours], now: float, zone: datetime.tzinfo | None = None
) -> float | None:
    """When the quiet hours end that contain a moment; None outside quiet hours.

    Args:
        now: unix time in seconds.
        zone: time zone of the wall clock; None: the zone of this machine.

    Returns:
        Unix time in seconds. Periods that touch or overlap count as one.
    """
    until = _end_of_one(periods, now, zone)
    if until is None:
        return None
    for _ in range(LONGEST_CHAIN):
        further = _end_of_one(periods, until, zone)
        if further is None:
            break
        until = further
    return until


def _end_of_one(
    periods: Sequence[QuietHours], moment: float, zone: datetime.tzinfo | None
) -> float | None:
    """The latest end of the periods that contain a moment."""
    today = datetime.datetime.fromtimestamp(moment, zone).date()
    ends = []
    for period in periods:
        # It may have begun yesterday; a clock that is set back at midnight shows a day again.
        for offset in (-1, 0, 1):
            day = today + datetime.timedelta(days=offset)
            if day.weekday() not in period.days:
                continue
            last = day + datetime.timedelta(days=period.end <= period.begin)
            begin = _instants(day, period.begin, zone)[0]
            end = _instants(last, period.end, zone)[1]
            if begin <= moment < end:
                ends.append(end)
    return max(ends, default=None)


def _instants(
    day: datetime.date, minutes: int, zone: datetime.tzinfo | None
) -> tuple[float, float]:
    """The first and the last moment at which the wall clock reaches a time of a day.

    Where the clock skips that time, both are the moment at which it is set forward.
    """
    clock = datetime.datetime.combine(day, datetime.time(minutes // 60, minutes % 60), zone)
    first, last = (clock.replace(fold=fold).timestamp() for fold in (0, 1))
    if first <= last:
        return first, last
    return (_change(last, first, zone),) * 2


def _change(low: float, high: float, zone: datetime.tzinfo | None) -> float:
    """The moment after `low`, at or before `high`, at which the clock is set forward."""
    offset = _offset(low, zone)
    while high - low > 1.0:
        middle = (low + high) // 2.0
        low, high = (middle, high) if _offset(middle, zone) == offset else (low, middle)
    return high


def _offset(moment: float, zone: datetime.tzinfo | None) -> datetime.timedelta | None:
    return datetime.datetime.fromtimestamp(moment, zone).astimezone(zone).utcoffset()

"""Moments in ISO 8601, as moment.js takes them: calendar dates, weeks and days of the year, with or without a time.

Its shapes are fixed and its numbers are checked: a text that has the shape of a date but names none (30 February, the
53rd week of a year of 52) is an invalid date, and no other reading of it is tried.
"""

import re
from typing import Final

from cht_rapidpro.domain.records.characters import WS_CLASS
from cht_rapidpro.domain.records.gregorian import (
    MS_PER_DAY,
    MS_PER_MINUTE,
    clip,
    day_number,
    is_day,
    is_leap,
    week_number,
)
from cht_rapidpro.domain.records.javascript import NAN

_TWO: Final = "[0-9]{2}"
_OFFSET: Final = f"(?P<offset>[+-]{_TWO}(?::?{_TWO})?|{WS_CLASS}*Z)?"


def _pattern(dash: str, colon: str) -> re.Pattern[str]:
    day = (
        f"(?:(?:(?P<long_year>[+-][0-9]{{6}})|(?P<year>[0-9]{{4}})){dash}(?P<month>{_TWO}){dash}(?P<day>{_TWO})"
        f"|(?P<week_year>[0-9]{{4}}){dash}W(?P<week>{_TWO}){dash}(?P<weekday>[0-9])"
        f"|(?P<ordinal_year>[0-9]{{4}}){dash}(?P<ordinal>[0-9]{{3}}))"
    )
    fraction = "(?:[.,](?P<fraction>[0-9]+))?"
    time = f"(?P<hour>{_TWO})(?:{colon}(?P<minute>{_TWO})(?:{colon}(?P<second>{_TWO}){fraction})?)?"
    return re.compile(f"{WS_CLASS}*{day}(?:[T ]{time}{_OFFSET})?")


_DAYS: Final = (_pattern("-", ":"), _pattern("", ""))
# Only whole days have a time; to moment.js these forms with one are no ISO 8601.
_MONTH: Final = re.compile(f"{WS_CLASS}*([0-9]{{4}})(?:-?({_TWO}))?")
_WEEK: Final = re.compile(f"{WS_CLASS}*([0-9]{{4}})-?W({_TWO})")


def iso8601(text: str) -> float | None:
    """Milliseconds since the epoch, NaN for a moment that does not exist, None where the text has another shape."""
    for pattern in _DAYS:
        if found := pattern.fullmatch(text):
            return _moment(found)
    if found := _MONTH.fullmatch(text):
        return _midnight(_checked(int(found[1]), int(found[2] or "1"), 1))
    if found := _WEEK.fullmatch(text):
        return _midnight(week_number(int(found[1]), int(found[2]), 1))
    return None


def _midnight(day: int | None) -> float:
    return NAN if day is None else clip(day * MS_PER_DAY)


def _moment(found: re.Match[str]) -> float:
    day, time = _day(found), _time(found)
    return NAN if day is None or time is None else clip(day * MS_PER_DAY + time - _offset(found["offset"]))


def _day(found: re.Match[str]) -> int | None:
    if found["week"]:
        return week_number(int(found["week_year"]), int(found["week"]), int(found["weekday"]))
    if found["ordinal"]:
        year, ordinal = int(found["ordinal_year"]), int(found["ordinal"])
        return day_number(year, 1, 1) + ordinal - 1 if 1 <= ordinal <= 365 + is_leap(year) else None
    return _checked(int(found["long_year"] or found["year"]), int(found["month"]), int(found["day"]))


def _checked(year: int, month: int, day: int) -> int | None:
    return day_number(year, month, day) if is_day(year, month, day) else None


def _time(found: re.Match[str]) -> int | None:
    """Milliseconds into the day; 24:00 is the next midnight."""
    hour, minute, second = (int(found[name] or "0") for name in ("hour", "minute", "second"))
    ms = int(((found["fraction"] or "") + "000")[:3])
    within = hour < 24 or (hour == 24 and not minute and not second and not ms)
    return ((hour * 60 + minute) * 60 + second) * 1000 + ms if within and minute < 60 and second < 60 else None


def _offset(offset: str | None) -> int:
    """Milliseconds that the clock is ahead of UTC. Quirk: any number of hours and minutes will do."""
    if not offset or offset.endswith("Z"):
        return 0
    minutes = int(offset[1:3]) * 60 + int(offset[3:].removeprefix(":") or "0")
    return (minutes if offset[0] == "+" else -minutes) * MS_PER_MINUTE

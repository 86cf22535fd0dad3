"""Days and milliseconds of the Gregorian calendar, in the years that JavaScript's Date knows.

Python's datetime ends before the year 1 and after 9999; CHT stores dates of year 0 and of year 12021 alike. Moments are
milliseconds since the epoch in UTC, NaN where there is none (CHT stores null then, but counts the field as sent).
"""

from typing import Final

from cht_rapidpro.domain.records.javascript import NAN

MS_PER_DAY: Final = 86_400_000
MS_PER_MINUTE: Final = 60_000
_MAX_MS: Final = 8_640_000_000_000_000
_MONTH_LENGTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DAYS_BEFORE_EPOCH: Final = 719_468  # from 1 March of the year 0


def clip(ms: float) -> float:
    """The moment as a Date holds it: whole milliseconds, NaN beyond 275,760 years."""
    return int(ms) if -_MAX_MS <= ms <= _MAX_MS else NAN


def day_number(year: int, month: int, day: int) -> int:
    """Days from the epoch. Month 1 to 12; a day past the end of the month is one of the next."""
    years = year - (month < 3)  # years begin in March, so that the leap day is the last
    days_before_month = (153 * ((month + 9) % 12) + 2) // 5
    return years * 365 + years // 4 - years // 100 + years // 400 + days_before_month + day - 1 - _DAYS_BEFORE_EPOCH


def day_ms(year: int, month: int, day: int) -> float:
    """The midnight with which the day begins."""
    return clip(day_number(year, month, day) * MS_PER_DAY)


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def month_length(year: int, month: int) -> int:
    return _MONTH_LENGTHS[month - 1] + (month == 2 and is_leap(year))


def is_day(year: int, month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= month_length(year, month)


def weekday(days: int) -> int:
    """Of a day number: 1 is Monday, 7 is Sunday."""
    return (days + 3) % 7 + 1


def week_number(year: int, week: int, day: int) -> int | None:
    """The day number of a day of an ISO week, None where the year has no such week or the week no such day."""
    first = _first_week(year)
    weeks = (_first_week(year + 1) - first) // 7
    return first + (week - 1) * 7 + day - 1 if 1 <= week <= weeks and 1 <= day <= 7 else None


def _first_week(year: int) -> int:
    """The Monday of the week that 4 January is in."""
    fourth = day_number(year, 1, 4)
    return fourth - weekday(fourth) + 1

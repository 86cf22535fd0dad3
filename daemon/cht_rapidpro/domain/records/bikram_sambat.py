"""The Bikram Sambat calendar of Nepal: its years 1970 to 2090, of twelve months of 29 to 32 days.

The lengths of the months follow no rule; they are published. These are those that CHT uses (npm package `bikram-sambat`
1.8.1). Other tables differ in single months of some years, and then a date is a day off for every one after it.
"""

import math
from typing import Final

from cht_rapidpro.domain.records.gregorian import MS_PER_DAY, day_ms
from cht_rapidpro.domain.records.javascript import NAN, number

_FIRST_YEAR: Final = 1970
_FIRST_DAY: Final = day_ms(1913, 4, 13)
# CHT counts a day's number, with its fraction, from half past noon of the day before the first.
_CLOCK: Final = 12.5 / 24
# The last digit of the length of each month (9: 29 days, 2: 32), twelve for a year, five years a line from 1970.
_TABLE: Final = """
    112111090900 112120090900 121210009901 021210009091 112111090900
    112201090900 121210009901 021210009091 112111090900 112210090900
    121210009901 111211900900 112111090900 112210090900 121210009901
    111211900900 112111090900 121210090900 121210009901 111211090900
    112111090900 121210090900 121210009091 111211090900 112111090900
    121210009900 121210009091 112111090900 112111090900 121210009901
    021210009091 112111090900 112210090900 121210009901 021210009091
    112111090900 112210090900 121210009901 111211900991 112111090900
    112210090900 121210009901 111211900900 112111090900 112210090900
    121210009901 111211900900 112111090900 121210090900 121210009091
    111211090900 112111090900 121210009900 121210009091 111211090900
    112111090900 121210009901 021210009091 112111090900 112120090900
    121210009901 021210009091 112111090900 112210090900 121210009901
    021211900991 112111090900 112210090900 121210009901 111211900900
    112111090900 112210090900 121210009901 111211900900 112111090900
    121210090900 121210009901 111211090900 112111090900 121210009900
    121210009091 111211090900 112111090900 121210009900 121210009091
    112111090900 112120090900 121210009901 021210009091 112111090900
    112210090900 121210009901 021211909091 112111090900 112210090900
    121210009901 111211900991 112111090900 112210090900 121210009901
    111211900900 112111090900 121210090900 121210009901 111211090900
    112111090900 121210009900 121210009091 111211090900 112111090900
    121210009900 121210009091 112111090900 112111090900 112110009000
    121201009000 021210009000 112111009000 012201009000 021210009000
    021210009000
"""
_LENGTHS: Final = {"9": 29, "0": 30, "1": 31, "2": 32}
MONTHS: Final = tuple(tuple(_LENGTHS[digit] for digit in year) for year in _TABLE.split())


def to_gregorian(year: object, month: object, day: object) -> float | None:
    """Milliseconds at the beginning of the Gregorian day, None where the date does not exist.

    The parts are what JavaScript takes for numbers. Quirks: a month that is no number is the first, a day that is
    none makes the date NaN, and a fraction of a day may make it the next one.
    """
    lengths = _month_lengths(number(year))
    month_number, day_number = number(month), number(day)
    months_before = 0 if math.isnan(month_number) else month_number - 1
    if lengths is None or months_before not in range(12):
        return None
    before = int(months_before)
    if day_number < 1 or day_number > lengths[before]:
        return None
    if math.isnan(day_number):
        return NAN
    days = _days_before_year(int(number(year))) + sum(lengths[:before]) + math.floor(day_number - 1 + _CLOCK)
    return _FIRST_DAY + days * MS_PER_DAY


def _month_lengths(year: float) -> tuple[int, ...] | None:
    place = year - _FIRST_YEAR
    return MONTHS[int(place)] if place in range(len(MONTHS)) else None


def _days_before_year(year: int) -> int:
    return sum(map(sum, MONTHS[: year - _FIRST_YEAR]))

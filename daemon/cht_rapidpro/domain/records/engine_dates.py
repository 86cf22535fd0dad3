"""Dates of year, month and day as JavaScript's own parser reads them (V8), which is more lenient than ISO 8601.

It reads the dates of labelled texts, and elsewhere those that are neither ISO 8601 nor RFC 2822. Of all that it takes,
only dates with the year first are read here. The rest of its language, where "5" and "hello 5" are the first of May
2001, is not to be copied: such a date counts as invalid.
"""

import math
import re
from typing import Final

from cht_rapidpro.domain.records.characters import trim
from cht_rapidpro.domain.records.gregorian import day_ms
from cht_rapidpro.domain.records.javascript import NAN

_EXACT: Final = re.compile("([0-9]{4})-([0-9]{2})-([0-9]{2})")
_LENIENT: Final = re.compile("([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})")


def engine_date(text: str) -> float:
    """Milliseconds since the epoch, or NaN. Quirk: 30 February is 2 March.

    Quirk: unless it is written in the exact form, a first number that could be a month or day is one (0004/9/21 is
    9 April 2021), and years below 100 are years of the last or this century.
    """
    exact, lenient = _EXACT.fullmatch(text), _LENIENT.fullmatch(trim(text))
    if exact and not math.isnan(moment := _date(*map(int, exact.groups()))):
        return moment
    if not lenient:
        return NAN
    year, month, day = map(int, lenient.groups())
    if 1 <= year <= 31:
        year, month, day = day, year, month
    return _date(_century(year), month, day)


def _century(year: int) -> int:
    if year < 50:
        return 2000 + year
    return 1900 + year if year < 100 else year


def _date(year: int, month: int, day: int) -> float:
    return day_ms(year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 else NAN

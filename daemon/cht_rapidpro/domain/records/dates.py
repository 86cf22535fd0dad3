"""Converts a parser's value to a moment as CHT does it: with moment.js, then with JavaScript's own parser.

A moment is milliseconds since the epoch; NaN is a date that cannot be understood. Quirk: a labelled text has its
dates read before they get here, by `engine_dates.py` alone, so "2021-02-30" is 2 March there and no date in the other
formats.
"""

import re
from typing import Final

from cht_rapidpro.domain.records.characters import WS_CLASS, strip_zero_width
from cht_rapidpro.domain.records.engine_dates import engine_date
from cht_rapidpro.domain.records.gregorian import MS_PER_DAY, clip, day_number, is_day
from cht_rapidpro.domain.records.iso8601 import iso8601
from cht_rapidpro.domain.records.javascript import NAN, double, is_number
from cht_rapidpro.domain.records.javascript import text as as_text
from cht_rapidpro.domain.records.rfc2822 import rfc2822

_ASP_NET: Final = re.compile(r"/?date\((-?[0-9]+)", re.IGNORECASE | re.ASCII)
_INTEGER: Final = re.compile(f"{WS_CLASS}*([+-]?[0-9]+)")
_MAX_DIGITS: Final = 20  # a number of more is no part of a date
_FIRST_VALUES: Final = (0, 0, 1, 0, 0, 0, 0)  # of year, month from 0, day, hour, minute, second, millisecond


def read_date(value: object) -> float | None:
    """The moment of a text, a number (taken as it is) or a list; None where CHT would guess one (`engine_dates.py`)."""
    if isinstance(value, str):
        return parse_date(strip_zero_width(value))
    if is_number(value):
        return clip(double(value))
    return _from_list(value) if isinstance(value, list) else NAN


def parse_date(text: str) -> float | None:
    if asp_net := _ASP_NET.match(text):
        return clip(float(asp_net[1]))
    for read in (iso8601, rfc2822):
        moment = read(text)
        if moment is not None:
            return moment
    return engine_date(text)


def _from_list(values: list[object]) -> float:
    """Quirk: the values of a label that was sent several times are year, month from 0, day, hour and so on."""
    parts = [_parse_int(as_text(value)) for value in values[: len(_FIRST_VALUES)]]
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts):
        return NAN
    year, month, day, hour, minute, second, ms = (*whole, *_FIRST_VALUES[len(whole) :])
    until_midnight = 0 <= hour < 24 or (hour == 24 and not minute and not second and not ms)
    in_range = 0 <= minute < 60 and 0 <= second < 60 and 0 <= ms < 1000
    if not (until_midnight and in_range and 0 <= month < 12 and is_day(year, month + 1, day)):
        return NAN
    return clip(day_number(year, month + 1, day) * MS_PER_DAY + ((hour * 60 + minute) * 60 + second) * 1000 + ms)


def _parse_int(text: str) -> int | None:
    """`parseInt(text, 10)`: the number that a text begins with."""
    found = _INTEGER.match(text)
    return int(found[1]) if found and len(found[1]) <= _MAX_DIGITS else None

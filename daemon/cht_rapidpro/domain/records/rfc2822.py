"""Moments in RFC 2822 ("Fri, 09 Apr 2021 08:00:00 +0300"), as moment.js takes them."""

import re
from typing import Final

from cht_rapidpro.domain.records.characters import WS_CLASS, trim
from cht_rapidpro.domain.records.gregorian import MS_PER_DAY, MS_PER_MINUTE, clip, day_number, is_day, weekday
from cht_rapidpro.domain.records.javascript import NAN

_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ZONES: Final = {
    "UT GMT Z z": 0,
    "EDT": -4,
    "EST CDT": -5,
    "CST MDT": -6,
    "MST PDT": -7,
    "PST": -8,
}
_HOURS: Final = {zone: hours for zones, hours in _ZONES.items() for zone in zones.split()}
_MOMENT: Final = re.compile(
    f"(?:(?P<weekday>{'|'.join(_WEEKDAYS)}),?{WS_CLASS})?(?P<day>[0-9]{{1,2}}){WS_CLASS}(?P<month>{'|'.join(_MONTHS)})"
    f"{WS_CLASS}(?P<year>[0-9]{{2,4}}){WS_CLASS}(?P<hour>[0-9]{{2}}):(?P<minute>[0-9]{{2}})(?::(?P<second>[0-9]{{2}}))?"
    f"{WS_CLASS}(?P<zone>{'|'.join(_HOURS)}|[+-][0-9]{{4}})"
)
_COMMENT_OR_FOLD: Final = re.compile(r"\([^()]*\)|[\n\t]")
_BLANKS: Final = re.compile(f"{WS_CLASS}{{2,}}")


def rfc2822(text: str) -> float | None:
    """Milliseconds since the epoch, NaN for a moment that does not exist, None where the text has another shape."""
    found = _MOMENT.fullmatch(trim(_BLANKS.sub(" ", _COMMENT_OR_FOLD.sub(" ", text))))
    if not found:
        return None
    year, month, day = _year(int(found["year"])), _MONTHS.index(found["month"]) + 1, int(found["day"])
    hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"] or "0")
    if not is_day(year, month, day) or hour > 23 or minute > 59 or second > 59:
        return NAN
    days = day_number(year, month, day)
    if found["weekday"] and _WEEKDAYS[weekday(days) - 1] != found["weekday"]:
        return NAN
    minutes = hour * 60 + minute - _offset(found["zone"])
    return clip(days * MS_PER_DAY + minutes * MS_PER_MINUTE + second * 1000)


def _year(year: int) -> int:
    if year < 50:
        return 2000 + year
    return 1900 + year if year < 1000 else year


def _offset(zone: str) -> int:
    """Minutes that the clock is ahead of UTC. Quirk: any number of hours and minutes will do."""
    if zone in _HOURS:
        return _HOURS[zone] * 60
    minutes = int(zone[1:3]) * 60 + int(zone[3:])
    return minutes if zone[0] == "+" else -minutes

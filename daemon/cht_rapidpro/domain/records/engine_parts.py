"""What JavaScript's own date parser (V8) has read of a date, and what it makes of it.

Source: V8's `dateparser.h` and `dateparser.cc`. The parts raise NoDateError where there is one too many, or one that is
out of range.
"""

from dataclasses import dataclass, field
from typing import Final

from cht_rapidpro.domain.records.gregorian import MS_PER_DAY, day_number

_TIME_LIMITS: Final = (23, 59, 59, 999)


class NoDateError(ValueError):
    """JavaScript reads no date here. Never leaves this package."""


@dataclass(slots=True)
class Day:
    """Three numbers at most, and perhaps the name of the month."""

    numbers: list[int] = field(default_factory=list)
    named_month: int = 0
    is_exact: bool = False
    _starts_with_year: bool = False

    def add(self, number: int, *, is_year: bool = False) -> None:
        """`is_year`: it is written as a year."""
        if len(self.numbers) == 3:
            raise NoDateError
        self._starts_with_year |= is_year and not self.numbers
        self.numbers.append(number)

    @property
    def is_clear(self) -> bool:
        """Whether the text says which number is which."""
        return bool(self.named_month) or (self._starts_with_year and not 1 <= self.numbers[0] <= 31)

    def ms(self) -> int:
        """Midnight, ms since the epoch; a day past the end of the month is one of the next."""
        if not self.numbers:
            raise NoDateError
        first, second, third = (*self.numbers, 1, 1)[:3]
        starts_with_day = 1 <= first <= 31
        if self.named_month:
            month, day, year = self.named_month, *((first, second) if starts_with_day else (second, first))
        elif self.is_exact or not starts_with_day:
            year, month, day = first, second, third
        else:
            month, day, year = first, second, third
        if not self.is_exact and 0 <= year < 100:
            year += 2000 if year < 50 else 1900
        if not (1 <= month <= 12 and 1 <= day <= 31):
            raise NoDateError
        return day_number(year, month, day) * MS_PER_DAY


@dataclass(slots=True)
class Time:
    """Hour, minute, second and millisecond; `half`: 0 for AM, 12 for PM."""

    numbers: list[int] = field(default_factory=list)
    half: int | None = None

    def expects(self, number: int) -> bool:
        return 0 < len(self.numbers) < 4 and number <= _TIME_LIMITS[len(self.numbers)]

    def add(self, number: int) -> None:
        if len(self.numbers) == 4:
            raise NoDateError
        self.numbers.append(number)

    def add_last(self, number: int) -> None:
        """The others are 0; one that is too many is ignored here."""
        self.numbers = [*self.numbers, number, 0, 0, 0][:4]

    def ms(self) -> int:
        """Into the day; 24:00 is the next midnight."""
        hour, minute, second, ms = (*self.numbers, 0, 0, 0, 0)[:4]
        if self.half is not None:
            if hour > 12:
                raise NoDateError
            hour = hour % 12 + self.half
        in_range = all(part <= limit for part, limit in zip((hour, minute, second, ms), _TIME_LIMITS, strict=True))
        if not in_range and (hour, minute, second, ms) != (24, 0, 0, 0):
            raise NoDateError
        return ((hour * 60 + minute) * 60 + second) * 1000 + ms


@dataclass(slots=True)
class Zone:
    """How far the clock is ahead of UTC; without any it is UTC."""

    sign: int | None = None
    hour: int | None = None
    minute: int | None = None

    def set(self, hours: int) -> None:
        self.sign, self.hour, self.minute = -1 if hours < 0 else 1, abs(hours), 0

    @property
    def is_utc(self) -> bool:
        return self.hour == 0 and self.minute == 0

    def expects(self, number: int) -> bool:
        return self.hour is not None and self.minute is None and number <= 59

    def minutes(self) -> int:
        return 0 if self.sign is None else self.sign * ((self.hour or 0) * 60 + (self.minute or 0))

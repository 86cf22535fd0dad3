"""Dates as JavaScript's own parser reads them (V8), which is more lenient than ISO 8601.

It reads the dates of labelled texts, and elsewhere those that are neither ISO 8601 nor RFC 2822. Of all that it takes,
a date is read here where it says which of its numbers is which: the year comes first, or the month has a name.
The rest of its language is not to be copied: it reads "09/04/2021" as 4 September, and "5" as the first of May 2001.
Source: V8's `dateparser-inl.h`, compared with Node 20.
"""

import math
import re
from typing import Final

from cht_rapidpro.domain.records.characters import trim
from cht_rapidpro.domain.records.engine_parts import Day, NoDateError, Time, Zone
from cht_rapidpro.domain.records.engine_tokens import END, Kind, Token, tokens
from cht_rapidpro.domain.records.gregorian import MS_PER_MINUTE, clip
from cht_rapidpro.domain.records.javascript import NAN

_YEAR_FIRST: Final = re.compile("[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}")
_MAX_LENGTH: Final = 200  # longer texts are not dates


def engine_date(text: str) -> float | None:
    """Milliseconds since the epoch; NaN for what JavaScript does not read; None for what it reads and we do not.

    Quirks: 30 February is 2 March; unless it is written in the exact form, a first number that could be a month or day
    is one (0004/9/21 is 9 April 2021), and years below 100 are years of the last or this century.
    """
    if len(text) > _MAX_LENGTH:
        return None
    reader = _Reader(text)
    try:
        moment = reader.read()
    except NoDateError:
        return NAN
    is_clear = math.isnan(moment) or reader.day.is_clear or _YEAR_FIRST.fullmatch(trim(text))
    return moment if is_clear else None


class _Reader:
    """One text; a method for each rule of V8's parser, in its order."""

    def __init__(self, text: str) -> None:
        self._tokens = list(tokens(text))
        self._at = 0
        self.day, self._time, self._zone = Day(), Time(), Zone()
        self._has_number = False

    def read(self) -> float:
        """Milliseconds since the epoch. Raises NoDateError."""
        token = self._read_exact()
        self._has_number = bool(self.day.numbers)
        while token.kind is not Kind.END:
            self._read_leniently(token)
            token = self._next()
        return clip(self.day.ms() + self._time.ms() - self._zone.minutes() * MS_PER_MINUTE)

    def _peek(self) -> Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else END

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        return token

    def _skip(self, symbol: str) -> bool:
        found = self._peek().is_symbol(symbol)
        self._at += found
        return found

    def _read_exact(self) -> Token:
        """YYYY-MM-DDTHH:mm:ss.sssZ and its shorter forms; the first token that does not belong to it."""
        sign = 1
        if self._peek().is_symbol("+", "-"):
            token = self._next()
            sign = -1 if token.text == "-" else 1
            if not self._peek().is_number(6):
                return token
            if sign < 0 and not self._peek().value:  # there is no year -0
                self._next()
                return token
        elif not self._peek().is_number(4):
            return self._next()
        self.day.add(sign * self._next().value, is_year=True)
        for most in (12, 31):
            if not self._skip("-"):
                break
            if not self._peek().is_number(2) or not 1 <= self._peek().value <= most:
                return self._next()
            self.day.add(self._next().value)
        if self._peek().kind is Kind.T:
            self._next()
            self._read_exact_time()
        if self._peek().kind is not Kind.END:
            return self._next()
        self.day.is_exact = True
        return END

    def _read_exact_time(self) -> None:
        """From here on there is no other reading of the text."""
        self._time.add(self._two_digits(24))
        self._require(self._skip(":"))
        self._time.add(self._two_digits(59))
        if self._skip(":"):
            self._time.add(self._two_digits(59))
            if self._skip("."):
                self._require(self._peek().kind is Kind.NUMBER)
                self._time.add(_milliseconds(self._next()))
        if self._peek().text in ("z", "Z"):
            self._next()
            self._zone.set(0)
        elif self._peek().is_symbol("+", "-"):
            self._zone.sign = 1 if self._next().text == "+" else -1
            if self._peek().is_number(4):
                both = self._next().value
                self._zone.hour, self._zone.minute = divmod(both, 100)
                self._require(self._zone.hour <= 23 and self._zone.minute <= 59)
            else:
                self._zone.hour = self._two_digits(23)
                self._require(self._skip(":"))
                self._zone.minute = self._two_digits(59)
        self._require(self._peek().kind is Kind.END)

    def _two_digits(self, most: int) -> int:
        self._require(self._peek().is_number(2) and self._peek().value <= most)
        return self._next().value

    @staticmethod
    def _require(condition: bool) -> None:
        if not condition:
            raise NoDateError

    def _read_leniently(self, token: Token) -> None:
        match token.kind:
            case Kind.NUMBER:
                self._has_number = True
                self._read_number(token)
            case Kind.HALF if self._time.numbers:
                self._time.half = token.value
            case Kind.MONTH:
                self.day.named_month = token.value
                self._skip("-")
            case Kind.ZONE if self._has_number:
                self._zone.set(token.value)
            case Kind.MONTH | Kind.HALF | Kind.ZONE | Kind.T | Kind.WORD:
                # Words before the first number mean nothing, unless they stand right before it.
                self._require(not self._has_number and self._peek().kind is not Kind.NUMBER)
            case Kind.SYMBOL if token.text in "+-" and (self._zone.is_utc or self._time.numbers):
                self._read_offset(token)
            case Kind.SYMBOL if token.text in "+-)":
                self._require(not self._has_number)
            case _:
                pass

    def _read_number(self, token: Token) -> None:
        value = token.value
        if self._skip(":"):
            if self._skip(":"):
                self._require(not self._time.numbers)
                self._time.add(value)
                self._time.add(0)
            else:
                self._time.add(value)
                self._skip(".")
        elif self._skip(".") and self._time.expects(value):
            self._time.add(value)
            self._require(self._peek().kind is Kind.NUMBER)
            self._time.add_last(_milliseconds(self._next()))
        elif self._zone.expects(value):
            self._zone.minute = value
        elif self._time.expects(value):
            self._time.add_last(value)
            after = self._peek()
            self._require(after.kind in (Kind.END, Kind.BLANK) or after.text in ("z", "Z") or after.is_symbol("+", "-"))
        else:
            self.day.add(value, is_year=len(token.text) == 4)
            self._skip("-")

    def _read_offset(self, token: Token) -> None:
        self._zone.sign = 1 if token.text == "+" else -1
        self._has_number = True
        number = self._next() if self._peek().kind is Kind.NUMBER else END
        value, length = number.value, len(number.text)
        if self._peek().is_symbol(":"):
            self._zone.hour, self._zone.minute = value, None
        elif length in (1, 2):
            self._zone.hour, self._zone.minute = value, 0
        elif length in (3, 4):
            self._zone.hour, self._zone.minute = divmod(value, 100)
        else:
            raise NoDateError


def _milliseconds(token: Token) -> int:
    return int((token.text + "00")[:3])

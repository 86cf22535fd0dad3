"""The tokens that JavaScript's own date parser (V8) cuts a text into.

Source: V8's `dateparser.h` and `dateparser-inl.h`, compared with Node 20. A number keeps nine digits, a word is known
by its first three letters (U+2028 and U+2029 belong to words), and a NUL ends the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from cht_rapidpro.domain.records.characters import WS


class Kind(Enum):
    NUMBER = auto()
    SYMBOL = auto()  # one of `:-+.()`
    MONTH = auto()
    HALF = auto()  # of the day: AM or PM
    ZONE = auto()
    T = auto()
    WORD = auto()  # any other
    BLANK = auto()
    OTHER = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """`value`: of a number, a month (1 to 12), a zone (hours), or a half of the day (hours). `text`: as it stands."""

    kind: Kind
    text: str
    value: int = 0

    def is_symbol(self, *symbols: str) -> bool:
        return self.kind is Kind.SYMBOL and self.text in symbols

    def is_number(self, digits: int) -> bool:
        return self.kind is Kind.NUMBER and len(self.text) == digits


END: Final = Token(Kind.END, "")

_BLANKS: Final = WS.replace("\u2028", "").replace("\u2029", "")
_TOKEN: Final = re.compile(
    f"(?P<number>[0-9]+)|(?P<symbol>[-:+.)])|(?P<blank>[{_BLANKS}]+)|(?P<word>[^\0-@{_BLANKS}]+)|(?P<open>\\()|[\\s\\S]"
)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WORDS: Final = {
    "am": (Kind.HALF, 0),
    "pm": (Kind.HALF, 12),
    "ut": (Kind.ZONE, 0),
    "utc": (Kind.ZONE, 0),
    "z": (Kind.ZONE, 0),
    "gmt": (Kind.ZONE, 0),
    "cdt": (Kind.ZONE, -5),
    "cst": (Kind.ZONE, -6),
    "edt": (Kind.ZONE, -4),
    "est": (Kind.ZONE, -5),
    "mdt": (Kind.ZONE, -6),
    "mst": (Kind.ZONE, -7),
    "pdt": (Kind.ZONE, -7),
    "pst": (Kind.ZONE, -8),
    "t": (Kind.T, 0),
}
_DIGITS: Final = 9
_LOWER: Final = {upper: upper | 0x20 for upper in range(0x80)}


def tokens(text: str) -> Iterator[Token]:
    """All of them, without an end. What is in parentheses is one token, also where they are not closed."""
    text, at = text.split("\0", maxsplit=1)[0], 0
    while found := _TOKEN.match(text, at):
        at = _end_of_comment(text, at) if found["open"] else found.end()
        yield _token(found)


def _token(found: re.Match[str]) -> Token:
    text = found[0]
    if found["number"]:
        return Token(Kind.NUMBER, text, int(text.lstrip("0")[:_DIGITS] or "0"))
    if found["word"]:
        return _word(text)
    if found["symbol"]:
        return Token(Kind.SYMBOL, text)
    return Token(Kind.BLANK if found["blank"] else Kind.OTHER, text)


def _word(text: str) -> Token:
    """Quirk: a month may be longer than its three letters, as "Sept" or "Marvellous"; the others may not."""
    start = text[:4].translate(_LOWER)
    if start[:3] in _MONTHS:
        return Token(Kind.MONTH, text, _MONTHS.index(start[:3]) + 1)
    kind, value = _WORDS.get(start, (Kind.WORD, 0))
    return Token(kind, text, value)


def _end_of_comment(text: str, at: int) -> int:
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place + 1
    return len(text)

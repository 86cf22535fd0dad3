"""The character classes and case rules of CHT's SMS parsers, which are those of JavaScript's regular expressions.

Python's own `\\s`, `\\d`, `strip()` and IGNORECASE take other characters (U+001C is a blank, Devanagari digits are
digits, the Kelvin sign is a k), so every module of this package builds its patterns from the sets below. If Python's
classes were used by mistake, a text would be read differently than by CHT, which is noticed only when a report is
wrong.
"""

import re
import struct
from functools import lru_cache
from typing import Final

WS: Final = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
LT: Final = "\n\r\u2028\u2029"
ZW: Final = "\u200b\u200c\u200d\ufeff"
DIGITS: Final = "0123456789"
SEP: Final = WS + "!-,:#"  # between the form code and the body
VSEP: Final = WS + "-!"  # between a label and its value: no colon, no comma, no equals sign

# The same as pieces of a Python pattern.
WS_CLASS: Final = f"[{WS}]"
SEP_CLASS: Final = f"[{re.escape(SEP)}]"
NOT_LT_CLASS: Final = f"[^{LT}]"

_DEVANAGARI_DIGITS: Final = {0x0966 + digit: str(digit) for digit in range(10)}
_NO_ZERO_WIDTH: Final = dict.fromkeys(map(ord, ZW), "")
_NORMAL: Final = _DEVANAGARI_DIGITS | _NO_ZERO_WIDTH


def trim(text: str) -> str:
    return text.strip(WS)


def strip_zero_width(text: str) -> str:
    return text.translate(_NO_ZERO_WIDTH)


def norm(text: str) -> str:
    """Devanagari digits as ASCII ones, and no zero-width characters (NORM in
    docs/sms-records.md#7-field-type-conversion).
    """
    return text.translate(_NORMAL)


def fold(text: str) -> str:
    """The text as a case-insensitive expression of JavaScript compares it, character for character."""
    return text.upper() if text.isascii() else "".join(map(_fold_character, text))


@lru_cache(maxsize=1024)
def _fold_character(character: str) -> str:
    """Simple upper-casing: never to several characters, never outside the BMP, never onto an ASCII one."""
    upper = character.upper()
    if len(upper) != 1 or character > "\uffff" or (upper.isascii() and not character.isascii()):
        return character
    return upper


def utf16(text: str) -> str:
    """Each half of a surrogate pair as a character of its own, as an expression of JavaScript meets them."""
    if text.isascii() or max(text) <= "\uffff":
        return text
    encoded = text.encode("utf-16-le", "surrogatepass")
    return "".join(map(chr, struct.unpack(f"<{len(encoded) // 2}H", encoded)))

"""How JavaScript sees the JSON values that CHT's parsers work on: true or false, text, number, order of keys.

CHT's quirks are mostly JavaScript's: `"no"` is true, `[5, "x"]` as text is `5,x`, 2^64 loses digits, the fields of a
form whose keys look like integers come first. Without these rules in one place every parser would have its own. Nothing
here raises, however deep or large the value: a number beyond the doubles is infinite, and a very deeply nested value is
read as empty.
"""

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeGuard

from cht_rapidpro.domain.records.characters import trim


class Absent(Enum):
    """JavaScript's `undefined`: a value that was not given, as opposed to null."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT
NAN: Final = math.nan
MAX_DEPTH: Final = 50

_LITERAL: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RADIX_LITERAL: Final = re.compile(r"0(?:[xX][0-9a-fA-F]+|[oO][0-7]+|[bB][01]+)")
_INFINITY: Final = {"Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}
_INDEX: Final = re.compile("0|[1-9][0-9]{0,9}")
_FIRST_NON_INDEX: Final = 2**32 - 1
_EXPONENT_FROM: Final = 21  # 1e21 and more are written with an exponent
_EXPONENT_BELOW: Final = -6
_EXACT: Final = 2**53  # every whole number below is a double


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def truthy(value: object) -> bool:
    """False for false, 0, NaN, "", null and undefined; true for everything else, [] and {} too."""
    if isinstance(value, list | dict):  # the kinds of JSON first: asking for a Mapping takes four times as long
        return True
    if isinstance(value, float) and math.isnan(value):
        return False
    return value is not ABSENT and (bool(value) or isinstance(value, Mapping))


def text(value: object, depth: int = 0) -> str:
    """`String(value)`: a list is its elements joined by commas, an object is `[object Object]`."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number_text(value)
        case list():
            inner = value if depth < MAX_DEPTH else []
            return ",".join("" if item is None or item is ABSENT else text(item, depth + 1) for item in inner)
        case None:
            return "null"
        case _:
            return "undefined" if value is ABSENT else "[object Object]"


def _number_text(value: float) -> str:
    value = double(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if not value:
        return "0"
    digits, exponent = f"{Decimal(repr(abs(value))).normalize():e}".split("e")
    return ("-" if value < 0 else "") + _layout(digits.replace(".", ""), int(exponent) + 1)


def _layout(digits: str, point: int) -> str:
    """The shortest digits that tell a double from its neighbours, with the decimal point `point` places in."""
    if len(digits) <= point <= _EXPONENT_FROM:
        return digits + "0" * (point - len(digits))
    if 0 < point <= _EXPONENT_FROM:
        return f"{digits[:point]}.{digits[point:]}"
    if _EXPONENT_BELOW < point <= 0:
        return "0." + "0" * -point + digits
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"


def double(value: float) -> float:
    """The IEEE double that JSON.parse makes of a number."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def json_number(value: float) -> float:
    """A double as JSON.stringify prints it: without a point where it is whole, its digits no more than it has."""
    exact = double(value)
    if exact.is_integer() and abs(exact) < _EXACT:
        return int(exact)
    if exact.is_integer() and abs(exact) < 10**_EXPONENT_FROM:
        return int(Decimal(repr(exact)))
    return exact


def number(value: object) -> float:
    """`Number(value)`: NaN where the value is no number literal; blanks alone, "" and null are 0."""
    match value:
        case None:
            return 0.0
        case int() | float():
            return double(value)
        case str():
            return _parse_number(trim(value))
        case list():
            return _parse_number(trim(text(value)))
        case _:
            return NAN


def _parse_number(literal: str) -> float:
    if not literal:
        return 0.0
    if _LITERAL.fullmatch(literal):
        return float(literal)
    if _RADIX_LITERAL.fullmatch(literal):
        return double(int(literal, 0))
    return _INFINITY.get(literal, NAN)


def same(one: object, other: object) -> bool:
    """`one === other`, for values that are never the same object."""
    if isinstance(one, str):
        return isinstance(other, str) and one == other
    if is_number(one):
        return is_number(other) and one == other
    return isinstance(one, bool | None) and one is other


def items(value: object) -> Iterator[tuple[str, Any]]:
    """The entries of an object, or of a list under its indices, in JavaScript's order; of anything else none."""
    if isinstance(value, list):
        yield from ((str(index), item) for index, item in enumerate(value))
    elif isinstance(value, Mapping):
        indices = [key for key in value if _is_index(key)]
        yield from ((key, value[key]) for key in sorted(indices, key=int))
        yield from ((key, value[key]) for key in value if not _is_index(key))


def _is_index(key: str) -> bool:
    return _INDEX.fullmatch(key) is not None and int(key) < _FIRST_NON_INDEX


def as_object(value: object) -> dict[str, Any]:
    """The entries in JavaScript's order, empty where the value is no object."""
    return dict(items(value))


def jsonable(value: object, depth: int = 0) -> Any:
    """The value as JSON.stringify leaves it: NaN, the infinities and undefined in a list are null.

    So is what is nested too deep, lest the document cannot be encoded.
    """
    match value:
        case str():
            return value
        case float():
            return json_number(value) if math.isfinite(value) else None
        case list() | dict() if depth == MAX_DEPTH:
            return None
        case list():
            return [jsonable(item, depth + 1) for item in value]
        case dict():
            return {key: jsonable(item, depth + 1) for key, item in value.items()}
        case _:
            return None if value is ABSENT else value

"""From the text of an answer to the value of its field, by the field's type.

Nothing here refuses a value: what cannot be understood becomes null, which validation reports where the field is
required, or NaN, which it does not (quirk: a required date that is no date is stored as null without an error). A date
that CHT guesses and we do not, such as 09/04/2021, becomes null.
"""

import math
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.phone import Numbering
from cht_rapidpro.domain.records.bikram_sambat import to_gregorian
from cht_rapidpro.domain.records.characters import DIGITS, norm, strip_zero_width
from cht_rapidpro.domain.records.dates import read_date
from cht_rapidpro.domain.records.form import Field
from cht_rapidpro.domain.records.javascript import ABSENT, json_number, number, same, text
from cht_rapidpro.domain.records.translation import Translator

_IDS: Final = ("patient_id", "place_id")
_KNOWN: Final = frozenset(
    ("integer", "string", "date", "bsDate", "bsYear", "bsMonth", "bsDay", "boolean", "month", "phone_number")
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What converting depends on besides the field and its value."""

    numbering: Numbering
    translator: Translator

    def convert(self, field: Field, value: object) -> object:
        """The value to be stored, or ABSENT. Aggregated dates are set later (`components.py`)."""
        if field.type not in _KNOWN or value is ABSENT:
            return value
        return None if value == "" else self._convert(field, value)

    def _convert(self, field: Field, value: object) -> object:
        match field.type:
            case "integer":
                return self._integer(field, value)
            case "string":
                return self._string(field, value)
            case "date":
                return read_date(value)
            case "bsDate":
                return _bikram_sambat(value)
            case "boolean":
                return _boolean(value)
            case "month":  # quirk: any number; the list is ignored
                return _finite_number(value)
            case "phone_number":
                return self.numbering.normalize(_norm(value)) or _norm(value)
            case _:  # bsYear, bsMonth, bsDay
                return _norm(value)

    def _integer(self, field: Field, value: object) -> object:
        """Quirk: fractions, hexadecimal numbers and exponents will do. A list is searched for the value's text."""
        if not field.has_list:
            return _finite_number(value)
        wanted = strip_zero_width(text(value))
        for entry in field.choices:
            if text(_part(entry, 0)) == wanted:
                return self.translator.translate(_part(entry, 1))
        return None

    def _string(self, field: Field, value: object) -> object:
        """Quirk: a number, as labelled texts have them, is no text of a list, and is stored as a number."""
        if field.has_list:
            wanted = strip_zero_width(value) if isinstance(value, str) else value
            return next((_part(entry, 1) for entry in field.choices if same(_part(entry, 0), wanted)), value)
        return _norm(value) if field.key in _IDS else value


def _part(entry: object, place: int) -> object:
    return entry[place] if isinstance(entry, list) and len(entry) > place else ABSENT


def _norm(value: object) -> str:
    return norm(text(value))


def _finite_number(value: object) -> float | None:
    """Quirk: blanks alone are 0."""
    normal = _norm(value)
    found = number(normal)
    return json_number(found) if normal and math.isfinite(found) else None


def _boolean(value: object) -> bool | None:
    found = _finite_number(value)
    return bool(found) if found in (0, 1) else None


def _bikram_sambat(value: object) -> float | None:
    """Quirk: the first character that is not a digit separates all the parts."""
    normal = _norm(value)
    separator = normal.lstrip(DIGITS)[:1]
    parts: list[object] = [*(normal.split(separator) if separator else [normal]), ABSENT, ABSENT]
    return to_gregorian(*parts[:3])

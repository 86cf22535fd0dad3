"""Which form a text is for.

The code is the first word, or what stands between the first two exclamation marks. It is kept in the record even
where no form has it, as CHT's users search for it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.records.characters import SEP, WS, strip_zero_width
from cht_rapidpro.domain.records.form import Form
from cht_rapidpro.domain.records.javascript import ABSENT, Absent

_FIRST_WORD: Final = re.compile(f"[{WS}]*([^{re.escape(SEP)}]+)")


@dataclass(frozen=True, slots=True)
class Reading:
    """The code, its form (None: unknown), and the text that is to be parsed."""

    code: str | Absent
    form: Form | None
    text: str


def read_code(find_form: Callable[[str], Form | None], message: object) -> Reading:
    """`find_form`: the form whose key is exactly this code."""
    if not isinstance(message, str):
        return Reading(ABSENT, None, "")
    code = _extract(message)
    if code is None:
        return Reading(ABSENT, None, message)
    form = find_form(code)
    if form is None and code:
        return _read_cleaned(find_form, message, code)
    return Reading(code, form, message)


def _extract(message: str) -> str | None:
    """Quirk: any prose with two exclamation marks has its code between them, not trimmed and possibly empty."""
    parts = message.split("!", 2)
    if len(parts) > 2:
        return parts[1].upper()
    found = _FIRST_WORD.match(message)
    return found[1].upper() if found else None


def _read_cleaned(find_form: Callable[[str], Form | None], message: str, code: str) -> Reading:
    """Once more without zero-width characters, which phones put into texts that are pasted.

    Quirk: the code is taken out of the text in its upper-case spelling only, so a lower-case one stays in the body.
    """
    cleaned = strip_zero_width(code)
    form = find_form(cleaned)
    if form is None:
        return Reading(code, None, message)
    return Reading(cleaned, form, message.replace(code, cleaned, 1))

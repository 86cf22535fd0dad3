"""Choosing the parser for a text, by its shape.

`1!CODE!..` and `J1!CODE!..` are Muvuku's; everything else is a TextForms text, even one that has its form code between
exclamation marks. Taking the wrong one gives a record without values, or with values in the wrong fields.
"""

import re
from typing import Final

from cht_rapidpro.domain.records.answers import Answers
from cht_rapidpro.domain.records.characters import NOT_LT_CLASS, WS_CLASS
from cht_rapidpro.domain.records.form import Form
from cht_rapidpro.domain.records.j1 import parse_j1
from cht_rapidpro.domain.records.matching import Effort
from cht_rapidpro.domain.records.muvuku import parse_muvuku
from cht_rapidpro.domain.records.textforms import parse_textforms
from cht_rapidpro.domain.records.translation import Translator

_MUVUKU: Final = re.compile(f"{WS_CLASS}*([A-Za-z]?[0-9])!{NOT_LT_CLASS}+!{NOT_LT_CLASS}")


def parse(form: Form, text: str, translator: Translator, locale: object) -> Answers:
    """The answers that the text holds for the form. `locale` is the message's, ABSENT or falsy where it has none."""
    if not text or not form.has_fields:
        return Answers()
    header = _MUVUKU.match(text)
    if header is None:
        return parse_textforms(form, text, translator, locale)
    match header[1]:
        case "1":
            return parse_muvuku(form, text)
        case "J1" | "j1":
            return parse_j1(form, text, translator, Effort())
        case _:  # quirk: no parser takes it, and it is not a TextForms text either
            return Answers()

"""Labelled TextForms: `CODE label value # label value`, in any order of the labels.

CHT takes each component apart with one expression that backtracks for minutes on some texts of a thousand
characters. Here the same match is found going forward: a label is a run of letters, and the first run after which the
value can reach the end of the component is the one that the expression would have found.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.records.answers import Answers
from cht_rapidpro.domain.records.characters import LT, VSEP, trim
from cht_rapidpro.domain.records.engine_dates import engine_date
from cht_rapidpro.domain.records.form import Form
from cht_rapidpro.domain.records.javascript import ABSENT, truthy
from cht_rapidpro.domain.records.javascript import text as as_text
from cht_rapidpro.domain.records.translation import Translator

_LABEL: Final = re.compile("[A-Za-z_.*]+")
_LONG_DATE: Final = re.compile("[0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}")
_SHORT_DATE: Final = re.compile("[0-9]{4}[-/][0-9]{1,2}[-/][0-9]")  # what a number directly after it may leave
_NUMBER: Final = re.compile(r"[1-9][0-9]*(?:\.[0-9]*)?")
# A component without a line break, where nothing has to be given back.
_SIMPLE: Final = re.compile(
    f"[^A-Za-z_.*{LT}]*([A-Za-z_.*]+)[{re.escape(VSEP)}]*(?:([0-9]{{4}}[-/][0-9]{{1,2}}[-/][0-9]{{1,2}})[{re.escape(VSEP)}]*)?"
    rf"([1-9][0-9]*(?:\.[0-9]*)?)?[{re.escape(VSEP)}]*([^{LT}]*)\Z"
)
_LINE_BREAK: Final = re.compile(f"[{LT}]")
_VALUE_SEPARATORS: Final = re.compile(f"[{re.escape(VSEP)}]*")


@dataclass(frozen=True, slots=True)
class _Component:
    """A label, and the pieces of its value as written in the text ("": absent)."""

    label: str
    date: str
    number: str
    rest: str


def parse_labelled(form: Form, body: str, translator: Translator, locale: object) -> Answers:
    values: dict[str, object] = {}
    for part in filter(None, map(trim, body.split("#"))):
        if component := read_component(part):
            _collect(values, component)
    return Answers(dict(_by_field(form, values, translator, locale)))


def read_component(text: str) -> _Component | None:
    """The first label whose value reaches the end, and that value; None where there is none.

    Quirk: a value may begin with a line break but not hold one. Where it would, the label is looked for further on:
    it is the last word before the break, or one after it.
    """
    if simple := _SIMPLE.match(text):
        return _Component(simple[1].lower(), simple[2] or "", simple[3] or "", simple[4])
    breaks = [found.end() for found in _LINE_BREAK.finditer(text)]
    last_line = breaks[-1] if breaks else 0
    for label in _LABEL.finditer(text):
        for date, number, rest in _values(text, label.end()):
            if rest >= last_line:
                return _Component(label[0].lower(), date, number, text[rest:])
    return None


def _values(text: str, at: int) -> Iterator[tuple[str, str, int]]:
    """Each way to read date, number and the place of the rest, the greediest first."""
    at = _skip_separators(text, at)
    for pattern in (_LONG_DATE, _SHORT_DATE):
        if date := pattern.match(text, at):
            yield date[0], *_number(text, _skip_separators(text, date.end()))
    yield "", *_number(text, at)


def _number(text: str, at: int) -> tuple[str, int]:
    number = _NUMBER.match(text, at)
    return (number[0], _skip_separators(text, number.end())) if number else ("", at)


def _skip_separators(text: str, at: int) -> int:
    found = _VALUE_SEPARATORS.match(text, at)
    return found.end() if found else at


def _collect(values: dict[str, object], component: _Component) -> None:
    """Puts the component's value to the others of its label.

    Quirk: a label that was sent before without a value counts as not sent; a pair that is not the first value is an
    object.
    """
    label, earlier = component.label, values.get(component.label, ABSENT)
    if earlier is ABSENT:
        values[label] = _value(component)
        return
    collected = earlier if isinstance(earlier, list) else [earlier]
    if component.number and component.rest:
        collected.append({"type": "pair", "values": [component.number, component.rest]})
    else:
        collected.append(_value(component))
    values[label] = collected


def _value(component: _Component) -> object:
    """A text, a number (also of a date, in milliseconds), or ABSENT.

    Quirks: number and rest are joined without what stood between them; a date before either, or a rest after the
    date, is dropped; zero, negative numbers and such with a leading 0 are texts.
    """
    if component.number:
        return component.number + component.rest if component.rest else float(component.number)
    if component.date:
        return engine_date(component.date)
    return component.rest or ABSENT


def _by_field(
    form: Form, values: dict[str, object], translator: Translator, locale: object
) -> Iterator[tuple[str, object]]:
    """The values under the keys of the fields, falsy ones left out.

    Quirks: a label that is no text, such as the number of {"en": 7}, is never the same as the key. The value of a
    field's label replaces what was sent under its key, and is gone for other fields of the
    same label or key. Only tiny labels count.
    """
    for field in form.fields:
        translated = translator.translate(field.tiny, locale)
        label = translated.lower() if isinstance(translated, str) else as_text(translated)
        is_other = label != field.key or not isinstance(translated, str)
        if is_other and truthy(values.get(label, ABSENT)):
            value = values.pop(label)
            if label != field.key:
                values[field.key] = value
    for field in form.fields:
        value = values.get(field.key, ABSENT)
        if truthy(value):
            yield field.key, value

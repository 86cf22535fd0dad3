"""Puts the converted values together as the `fields` of the record."""

from typing import Any, Final

from cht_rapidpro.domain.records.answers import Answers
from cht_rapidpro.domain.records.bikram_sambat import to_gregorian
from cht_rapidpro.domain.records.characters import norm
from cht_rapidpro.domain.records.field_types import Conversion
from cht_rapidpro.domain.records.form import Form
from cht_rapidpro.domain.records.javascript import ABSENT, MAX_DEPTH, text, truthy

# Quirk: CHT tells itself of surplus values under this key, so a field of that name makes the error too.
SURPLUS: Final = "_extra_fields"


def assemble(form: Form, answers: Answers, conversion: Conversion) -> dict[str, Any]:
    """Values under their keys; absent ones have none. Surplus values leave their mark under `SURPLUS`.

    Quirk: the aggregated date stands under its whole key even where that is dotted, so validation finds it there, and
    `without_marks` leaves it out of the record.
    """
    fields: dict[str, Any] = {}
    for field in form.fields:
        if field.key in answers.values or answers.every_field:
            value = conversion.convert(field, answers.values.get(field.key, ABSENT))
            _store(fields, field.key.split("."), value)
    _aggregate(form, answers, fields)
    if answers.surplus:
        fields[SURPLUS] = True
    return fields


def without_marks(form: Form, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as the record has them: nothing under a dotted key, and no mark of surplus values."""
    is_field = any(field.key == SURPLUS for field in form.fields)
    return {key: value for key, value in fields.items() if "." not in key and (is_field or key != SURPLUS)}


def _store(fields: dict[str, Any], steps: list[str], value: object) -> None:
    """Stores under dotted keys as objects in objects, which are made even where there is nothing to store.

    Quirks: what is already there is replaced if it is falsy or the last step, and keeps the value out if it is not.
    A key of more steps than any JSON decoder would follow stores nothing.
    """
    if len(steps) > MAX_DEPTH:
        return
    *outer, last = steps
    for step in outer:
        inner = fields.get(step)
        if truthy(inner) and not isinstance(inner, dict):
            return
        # A copy: it may be an entry of a list in the settings.
        fields[step] = dict(inner) if isinstance(inner, dict) else {}
        fields = fields[step]
    if value is ABSENT:
        fields.pop(last, None)
    else:
        fields[last] = value


def _aggregate(form: Form, answers: Answers, fields: dict[str, Any]) -> None:
    """Sets the first `bsAggreDate` field from the last fields of year, month and day, if a year was sent.

    Uses the values as sent, by the whole key of each field, not the converted ones. Quirk: a month or day counts as the
    first only if the form has no field for it, not if none was sent.
    """
    target = next((field.key for field in form.fields if field.type == "bsAggreDate"), None)
    if target is None:
        return
    parts: dict[str, object] = {"bsYear": ABSENT, "bsMonth": 1, "bsDay": 1}
    for field in form.fields:
        if field.type in parts:
            sent = answers.values.get(field.key, ABSENT)
            parts[field.type] = norm(text(sent)) if truthy(sent) else sent
    if truthy(parts["bsYear"]):
        fields[target] = to_gregorian(parts["bsYear"], parts["bsMonth"], parts["bsDay"])

"""What is wrong with a record, in CHT's order and, translated, in its words.

The errors are what the sender is told in reply, and what a supervisor counts; a missing one hides a wrong report.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cht_rapidpro.domain.records.form import Field, Form
from cht_rapidpro.domain.records.javascript import Absent, is_number


@dataclass(frozen=True, slots=True)
class RecordError:
    """A code that is also the key of its message, and what the message's template may show."""

    code: str
    context: Mapping[str, object] = field(default_factory=dict)


def validate(form: Form, fields: Mapping[str, Any]) -> Iterator[RecordError]:
    """Errors of the converted values: incorrect types in the order of the fields, then one for all that is missing.

    Quirk: keys are looked up as they are, so a required field with a dot in its key is always missing.
    """
    missing = []
    for each in form.fields:
        value = fields.get(each.key)
        if each.required and value is None:
            missing.append(each.key)
        elif value is not None and not each.has_list and not _has_type(each, value):
            yield RecordError("sys.incorrect_type", {"expectedType": each.type, "key": each.key})
    if missing:
        yield RecordError("sys.missing_fields", {"fields": missing})


def _has_type(each: Field, value: object) -> bool:
    """Quirk: NaN is a value, and other types than these take any."""
    match each.type:
        case "integer":
            return is_number(value) and float(value).is_integer()
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "complex":
            return isinstance(value, dict | list)
        case _:
            return True


def form_not_found(code: str | Absent) -> RecordError:
    return RecordError("sys.form_not_found", {"form": code})

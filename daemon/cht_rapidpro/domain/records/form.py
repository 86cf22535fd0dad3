"""A form of CHT's app settings, read leniently.

People write the settings; CHT checks little of them and crashes on some. Here a part of the wrong type counts as
absent: a field without labels can still be filled by position, a form without fields still names its record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cht_rapidpro.domain.records.javascript import ABSENT, as_object, items, text, truthy


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `choices` is its `list`, of any JSON type; `type` is "" where it is no text."""

    key: str
    type: str
    required: bool
    choices: object
    tiny: object
    short: object


@dataclass(frozen=True, slots=True)
class Form:
    """A form definition; its fields are in JavaScript's order of keys, which is the order of everything here.

    `code` is its `meta.code`. A form that does not even have an empty `fields` has no text parsed for it.
    """

    code: str | None
    has_fields: bool
    fields: tuple[Field, ...]
    facility_reference: str | None


def find_form(settings: Mapping[str, Any], code: str) -> Form | None:
    """The form whose key is exactly this code."""
    definition = as_object(settings.get("forms")).get(code)
    return _read_form(definition) if truthy(definition) else None


def _read_form(definition: object) -> Form:
    values = as_object(definition)
    code = as_object(values.get("meta")).get("code")
    reference = values.get("facility_reference")
    return Form(
        code=code if isinstance(code, str) else None,
        has_fields=truthy(values.get("fields")),
        fields=tuple(_read_field(key, field) for key, field in items(values.get("fields"))),
        facility_reference=text(reference) if truthy(reference) else None,
    )


def _read_field(key: str, definition: object) -> Field:
    values = as_object(definition)
    labels = as_object(values.get("labels"))
    kind = values.get("type")
    return Field(
        key=key,
        type=kind if isinstance(kind, str) else "",
        required=truthy(values.get("required", ABSENT)),
        choices=values.get("list", ABSENT),
        tiny=labels.get("tiny", ABSENT),
        short=labels.get("short", ABSENT),
    )

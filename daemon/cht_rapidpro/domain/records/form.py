"""A form of CHT's app settings, read leniently and once for all the texts that are sent for it.

People write the settings; CHT checks little of them and crashes on some. Here a part of the wrong type counts as
absent: a field without labels can still be filled by position, a form without fields still names its record. What
depends on the settings alone (translated labels, patterns) is made here, once: it is most of the work of a text.
"""

import re
from dataclasses import dataclass

from cht_rapidpro.domain.records.characters import SEP_CLASS, WS_CLASS, fold
from cht_rapidpro.domain.records.javascript import ABSENT, as_object, items, text, truthy
from cht_rapidpro.domain.records.labels import Label, read_label
from cht_rapidpro.domain.records.translation import Translator


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `steps`: its key, split at the dots; `type` is "" where it is no text.

    `choices`: the entries of its `list`; `has_list`: whether there is a `list`, of any JSON type.
    """

    key: str
    steps: tuple[str, ...]
    type: str
    required: bool
    has_list: bool
    choices: tuple[object, ...]
    tiny: object
    short: object


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a form in one locale.

    `leading`: those that a text may begin with; `names`: the fields, each with what it is called in a labelled text,
    and whether that is another name than its key.
    """

    leading: tuple[Label, ...]
    names: tuple[tuple[Field, str, bool], ...]


@dataclass(frozen=True, slots=True)
class Form:
    """A form definition; its fields are in JavaScript's order of keys, which is the order of everything here.

    `code`: its `meta.code` as a text may begin with it, separators included. A form that does not even have an empty
    `fields` has no text parsed for it. `labels`: in the system's locale; `tiny`: those by which J1 names the fields.
    """

    code: re.Pattern[str] | None
    has_fields: bool
    fields: tuple[Field, ...]
    facility_reference: str | None
    labels: Labels
    tiny: tuple[tuple[Field, Label], ...]

    def labels_in(self, locale: object, translator: Translator) -> Labels:
        """Falsy: in the system's."""
        return read_labels(self.fields, translator, locale) if truthy(locale) else self.labels


def read_form(definition: object, translator: Translator) -> Form | None:
    """None where the definition is falsy, which to CHT is no form."""
    if not truthy(definition):
        return None
    values = as_object(definition)
    code = as_object(values.get("meta")).get("code")
    reference = values.get("facility_reference")
    fields = tuple(_read_field(key, field) for key, field in items(values.get("fields")))
    return Form(
        code=_code_pattern(code) if isinstance(code, str) else None,
        has_fields=truthy(values.get("fields")),
        fields=fields,
        facility_reference=text(reference) if truthy(reference) else None,
        labels=read_labels(fields, translator),
        tiny=tuple((each, read_label(text(translator.translate(each.tiny)))) for each in fields if truthy(each.tiny)),
    )


def _read_field(key: str, definition: object) -> Field:
    values = as_object(definition)
    labels = as_object(values.get("labels"))
    kind = values.get("type")
    choices = values.get("list", ABSENT)
    return Field(
        key=key,
        steps=tuple(key.split(".")),
        type=kind if isinstance(kind, str) else "",
        required=truthy(values.get("required", ABSENT)),
        has_list=truthy(choices),
        choices=tuple(entry for _, entry in items(choices)),
        tiny=labels.get("tiny", ABSENT),
        short=labels.get("short", ABSENT),
    )


def _code_pattern(code: str) -> re.Pattern[str]:
    return re.compile(f"{WS_CLASS}*{re.escape(fold(code))}{SEP_CLASS}*")


def read_labels(fields: tuple[Field, ...], translator: Translator, locale: object = ABSENT) -> Labels:
    translated = [translator.translate(label, locale) for each in fields for label in (each.tiny, each.short)]
    leading = tuple(read_label(label) for label in translated if truthy(label))
    return Labels(leading, tuple(_name(each, label) for each, label in zip(fields, translated[::2], strict=True)))


def _name(field: Field, label: object) -> tuple[Field, str, bool]:
    """Quirk: a label that is no text, such as the number of {"en": 7}, is never the same as the key."""
    name = label.lower() if isinstance(label, str) else text(label)
    return field, name, name != field.key or not isinstance(label, str)

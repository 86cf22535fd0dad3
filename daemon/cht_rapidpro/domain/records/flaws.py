"""Finds problems in the form definitions of CHT's app settings, described for their editors.

These problems do not prevent a message from being stored; they explain why fields would stay empty. The parser's own
modules read such definitions leniently.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cht_rapidpro.domain.records.javascript import as_object, items, truthy
from cht_rapidpro.domain.records.labels import leading
from cht_rapidpro.domain.records.matching import compile_expression

_META: Final = re.compile(r"[\^$\\.*+?()\[\]{}|]")
_SENDABLE: Final = re.compile(r"[A-Za-z_.*]+")  # characters with which a labelled text can name a field


def flaws(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of a form's key and what is wrong with it. `settings`: CHT's app settings."""
    forms = settings.get("forms")
    if forms is not None and not isinstance(forms, dict):
        yield "forms", "is no object: no form is found"
    for key, definition in items(forms):
        yield from ((key, flaw) for flaw in _of_form(key, as_object(definition)))


def _of_form(key: str, form: Mapping[str, Any]) -> Iterator[str]:
    if key != key.upper():
        yield "the key is not in capitals: no text ever finds it"
    if not truthy(form.get("fields")):
        yield "it has no fields: no text is parsed for it"
    code = as_object(form.get("meta")).get("code")
    if not isinstance(code, str) or code.upper() != key.upper():
        yield f"meta.code is {code!r}: the code word stays in the text and spoils the first field"
    seen: dict[str, str] = {}
    for name, field in items(form.get("fields")):
        yield from _of_field(name, field, seen)


def _of_field(name: str, field: object, seen: dict[str, str]) -> Iterator[str]:
    labels = as_object(field).get("labels")
    if not isinstance(labels, dict):
        yield f"field {name!r} has no labels: a labelled text reaches it by its key alone"
        return
    for label in _texts(labels.get("tiny")):
        first = seen.setdefault(label.lower(), name)
        if first != name:
            yield f"fields {first!r} and {name!r} have the same label {label!r}: only the first gets a value"
        if not _SENDABLE.fullmatch(label) and name.lower() != name:
            yield f"field {name!r}: neither its label {label!r} nor its key can be written in a labelled text"
    for label in (*_texts(labels.get("tiny")), *_texts(labels.get("short"))):
        if _META.search(label) and compile_expression(leading(label)) is None:
            yield f"field {name!r}: its label {label!r} is no expression that can be used: it is compared as plain text"


def _texts(label: object) -> list[str]:
    """The texts of a label, in all its languages; each once."""
    if isinstance(label, str):
        return [label] if label else []
    found = [text for _, text in items(label) if isinstance(text, str) and text]
    return list(dict.fromkeys(found))

"""The look-up tables of the translations, made of the `messages-*` documents of the database.

CHT reads these documents at its start and again whenever one changes; we read them as it does, quirks included,
since an administrator has written them for CHT. A document that is not what CHT expects is passed over in silence,
as CHT does: its locale then falls back to English, or to the key.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from cht_rapidpro.domain.records.javascript import as_object, is_number, text, truthy
from cht_rapidpro.domain.records.translation import Translations
from cht_rapidpro.domain.task import Doc

_REFERENCE: Final = re.compile(r"\$\{(.+?)\}")
_MAX_TEXT: Final = 100_000  # texts that refer to texts can double in length with every key; no SMS is that long


def read_translations(docs: Iterable[Doc]) -> Translations:
    """The tables of these documents, which are in the order of their ids: a later one replaces its whole locale."""
    return {text(doc["code"]): _expanded(_table(doc)) for doc in docs if _is_translation(doc)}


def _is_translation(doc: Doc) -> bool:
    """Quirk: neither `enabled` nor the languages of the settings matter."""
    has_texts = any(isinstance(doc.get(name), list | Mapping) for name in ("generic", "values"))
    return doc.get("type") == "translations" and truthy(doc.get("code")) and has_texts


def _table(doc: Doc) -> dict[str, Any]:
    """Quirk: `custom` goes over `generic` only; over the older `values` it counts for nothing."""
    if not truthy(doc.get("generic")):
        return as_object(doc.get("values"))
    return as_object({**as_object(doc["generic"]), **as_object(doc.get("custom"))})


def _expanded(table: dict[str, Any]) -> dict[str, Any]:
    """Every `${key}` replaced, once, in the order of the keys.

    Quirk: a text that refers to a later key gets what stands there unexpanded.
    """
    for key, value in table.items():
        if isinstance(value, str):
            replace = partial(_replacement, table)
            if sum(len(replace(reference)) for reference in _REFERENCE.finditer(value)) <= _MAX_TEXT:
                table[key] = _REFERENCE.sub(replace, value)
    return table


def _replacement(table: Mapping[str, Any], reference: re.Match[str]) -> str:
    value = table.get(reference[1])
    usable = truthy(value) and (isinstance(value, str) or is_number(value))
    return text(value) if usable else reference[0]

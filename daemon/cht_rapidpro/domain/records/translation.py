"""Translation of labels, list entries and error messages, as CHT's configuration does it.

What is translated is either a key of the tables (any text, a label such as "SIT" too, which then stands for itself)
or an object that holds its own translations. What comes out of the tables is a template. Everything that a sender can
read, and every label that decides which field a value belongs to, passes through here, so a wrong fallback moves
values to other fields. The tables are made by `translation_tables.py`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from cht_rapidpro.domain.records.characters import trim
from cht_rapidpro.domain.records.javascript import ABSENT, items, text, truthy

Translations = Mapping[str, Mapping[str, Any]]  # locale: {key: text}

ENGLISH: Final = "en"
_MARKED: Final = "test"
_NO_CONTEXT: Final[Mapping[str, object]] = MappingProxyType({})
_EXPRESSION: Final = re.compile(r"\{\{([^\n\r\u2028\u2029]+?)\}\}|<%[\s\S]+?%>")


@dataclass(frozen=True, slots=True)
class Translator:
    """The tables, and the locale that counts where no other is named (`settings.locale`)."""

    tables: Translations
    locale: object

    def translate(self, value: object, locale: object = ABSENT, context: Mapping[str, object] = _NO_CONTEXT) -> object:
        """A text, or what an object holds for the locale, which may be any JSON value. Locale falsy: the system's."""
        while isinstance(value, list):  # a list acts as its first element
            value = value[0] if value else ""
        if not truthy(value):
            return ""
        chosen = text(locale if truthy(locale) else self.system_locale)
        if isinstance(value, Mapping):
            return _localize(value, chosen)
        return fill_template(self._look_up(text(value), chosen), context)

    @property
    def system_locale(self) -> object:
        return self.locale if truthy(self.locale) else ENGLISH

    def _look_up(self, key: str, locale: str) -> str:
        found = (_entry(self.tables.get(name), key) for name in (locale, ENGLISH))
        return next((text(value) for value in found if truthy(value)), key)


def _entry(table: object, key: str) -> object:
    return table.get(key, ABSENT) if isinstance(table, Mapping) else ABSENT


def fill_template(template: str, context: Mapping[str, object]) -> str:
    """Every `{{name}}` replaced; the template itself where one of them cannot be evaluated.

    CHT evaluates JavaScript, also in `<% %>`; here only names of the context are known, which is all that occurs.
    """
    for expression in _EXPRESSION.finditer(template):
        if expression[1] is None or trim(expression[1]) not in context:
            return template
    return _EXPRESSION.sub(lambda expression: _shown(context[trim(expression[1])]), template)


def _shown(value: object) -> str:
    return "" if value is None or value is ABSENT else text(value)


def _localize(labels: Mapping[str, Any], locale: str) -> object:
    """What an object such as {en: .., fr: ..} holds for the locale, else the nearest to it.

    Quirks: an object without any text stands for itself (and is matched as `[object Object]`); the locale "test"
    is the English text with marks around it.
    """
    wanted = ENGLISH if locale == _MARKED else locale
    found: object = next((value for value in _candidates(labels, wanted) if truthy(value)), labels)
    return f"-{text(found)}-" if locale == _MARKED else found


def _candidates(labels: Mapping[str, Any], locale: str) -> Iterator[object]:
    listed = labels.get("translations")
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else None
    yield _for_locale(labels, entries, locale)
    yield labels.get("default")
    yield _for_locale(labels, entries, ENGLISH)
    if entries:
        yield entries[0].get("content")
    yield next((value for _, value in items(labels)), ABSENT)


def _for_locale(labels: Mapping[str, Any], entries: list[Mapping[str, Any]] | None, locale: str) -> object:
    """Quirk: where there is a `translations` list, the values beside it count for no locale."""
    if entries is None:
        return labels.get(locale)
    return next((entry.get("content") for entry in entries if entry.get("locale") == locale), ABSENT)

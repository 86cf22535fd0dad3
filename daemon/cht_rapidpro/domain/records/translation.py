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

from cht_rapidpro.domain.records.javascript import ABSENT, as_object, items, text, truthy
from cht_rapidpro.domain.records.template_expression import NotEvaluatedError, evaluate

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
        """A text, or what an object or a list holds for the locale, any JSON value. Locale falsy: the system's.

        Quirk: a locale that is an object, or a list (a field `locale` that was sent twice), is taken for the context.
        """
        if isinstance(locale, list | Mapping):
            locale, context = ABSENT, as_object(locale) if isinstance(locale, Mapping) else _NO_CONTEXT
        chosen = text(locale if truthy(locale) else self.system_locale)
        if isinstance(value, list | Mapping):
            return _localize(value, chosen)
        if value is None or value is ABSENT:
            return ""
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
    """Every `{{expression}}` replaced; the template itself where one of them cannot be evaluated.

    CHT evaluates any JavaScript, also in `<% %>`; `template_expression.py` says what is known here.
    """
    shown: list[str] = []
    end = 0
    for found in _EXPRESSION.finditer(template):
        try:
            value = evaluate(found[1] or "", context)
        except NotEvaluatedError:
            return template
        shown += [template[end : found.start()], _shown(value)]
        end = found.end()
    return "".join([*shown, template[end:]])


def _shown(value: object) -> str:
    return "" if value is None or value is ABSENT else text(value)


def _localize(value: list[Any] | Mapping[str, Any], locale: str) -> object:
    """What an object such as {en: .., fr: ..} holds for the locale, else the nearest to it; of a list its first entry.

    Quirks: what it holds is not looked up in the tables; an object without any text stands for itself (and is matched
    as `[object Object]`); the locale "test" is the English text with marks around it.
    """
    labels = as_object(value)
    wanted = ENGLISH if locale == _MARKED else locale
    found: object = next((each for each in _candidates(labels, wanted) if truthy(each)), ABSENT)
    if locale == _MARKED:
        return f"-{text(found)}-"
    return value if found is ABSENT else found


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

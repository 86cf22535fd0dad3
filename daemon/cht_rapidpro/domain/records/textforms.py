"""TextForms: what people type by hand, `CODE label value # label value` or just `CODE value value`.

First the form code is taken off, then the body is read as labelled (`labelled.py`) or compact (`compact.py`).
"""

import re

from cht_rapidpro.domain.records.answers import Answers
from cht_rapidpro.domain.records.characters import SEP_CLASS, WS_CLASS, fold
from cht_rapidpro.domain.records.compact import parse_compact
from cht_rapidpro.domain.records.form import Form
from cht_rapidpro.domain.records.javascript import truthy
from cht_rapidpro.domain.records.labelled import parse_labelled
from cht_rapidpro.domain.records.labels import comparable, leads
from cht_rapidpro.domain.records.matching import Effort
from cht_rapidpro.domain.records.translation import Translator


def parse_textforms(form: Form, text: str, translator: Translator, locale: object) -> Answers:
    body = _strip_code(form, text)
    if _is_compact(form, body, translator, locale):
        return parse_compact(form, body)
    return parse_labelled(form, body, translator, locale)


def _strip_code(form: Form, text: str) -> str:
    """What follows the form's code and its separators.

    Quirks: it is `meta.code` that is taken off, although the form was found by its key; where the text does not begin
    with it, nothing is. The separators take a minus along, so "HIVE -4" is 4.
    """
    if form.code is None:
        return text
    found = re.match(f"{WS_CLASS}*{re.escape(fold(form.code))}{SEP_CLASS}*", fold(text))
    return text[found.end() :] if found else text


def _is_compact(form: Form, body: str, translator: Translator, locale: object) -> bool:
    """Whether the body holds values only: no `#`, and no label at its beginning."""
    if not body or "#" in body:
        return False
    effort, start = Effort(), comparable(body)
    for field in form.fields:
        for label in (field.tiny, field.short):
            translated = translator.translate(label, locale)
            if truthy(translated) and leads(translated, start, effort):
                return False
    return True

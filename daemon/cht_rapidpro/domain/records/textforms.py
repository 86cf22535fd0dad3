"""TextForms: what people type by hand, `CODE label value # label value` or just `CODE value value`.

First the form code is taken off, then the body is read as labelled (`labelled.py`) or compact (`compact.py`).
"""

from cht_rapidpro.domain.records.answers import Answers
from cht_rapidpro.domain.records.characters import fold
from cht_rapidpro.domain.records.compact import parse_compact
from cht_rapidpro.domain.records.form import Form, Labels
from cht_rapidpro.domain.records.labelled import parse_labelled
from cht_rapidpro.domain.records.labels import comparable
from cht_rapidpro.domain.records.matching import Effort
from cht_rapidpro.domain.records.translation import Translator


def parse_textforms(form: Form, text: str, translator: Translator, locale: object) -> Answers:
    body, labels = _strip_code(form, text), form.labels_in(locale, translator)
    if _is_compact(labels, body):
        return parse_compact(form, body)
    return parse_labelled(form, body, labels)


def _strip_code(form: Form, text: str) -> str:
    """What follows the form's code and its separators.

    Quirks: it is `meta.code` that is taken off, although the form was found by its key; where the text does not begin
    with it, nothing is. The separators take a minus along, so "HIVE -4" is 4.
    """
    if form.code is None:
        return text
    found = form.code.match(fold(text))
    return text[found.end() :] if found else text


def _is_compact(labels: Labels, body: str) -> bool:
    """Whether the body holds values only: no `#`, and no label at its beginning."""
    if not body or "#" in body:
        return False
    effort, start = Effort(), comparable(body)
    return not any(label.leads(start, effort) for label in labels.leading)

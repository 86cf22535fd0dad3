"""What CHT's app settings and translations say about records, read once for each version of them.

Reading a form anew for every text was two thirds of the work of making a record. Invariant: the record of a text is
the same as with forms read anew. A form is read when the first text for it comes: thousands of forms delay no start.
"""

from collections.abc import Mapping
from typing import Any

from cht_rapidpro.domain.phone import read_numbering
from cht_rapidpro.domain.records.field_types import Conversion
from cht_rapidpro.domain.records.form import Form, read_form
from cht_rapidpro.domain.records.javascript import as_object, truthy
from cht_rapidpro.domain.records.senders import Senders
from cht_rapidpro.domain.records.translation import Translations, Translator


class Rules:
    """`settings`: CHT's app settings, any JSON object; neither they nor the translations may be changed afterwards."""

    def __init__(self, settings: Mapping[str, Any], translations: Translations) -> None:
        self.translator = Translator(translations, settings.get("locale"))
        numbering = read_numbering(settings)
        self.senders = Senders(numbering)
        self.conversion = Conversion(numbering, self.translator)
        self.forms_only = truthy(settings.get("forms_only_mode"))
        self._definitions = as_object(settings.get("forms"))
        self._forms: dict[str, Form | None] = {}

    def find_form(self, code: str) -> Form | None:
        """The form whose key is exactly this code."""
        if code not in self._definitions:
            return None  # not remembered: a text may begin with any word
        if code not in self._forms:
            self._forms[code] = read_form(self._definitions[code], self.translator)
        return self._forms[code]

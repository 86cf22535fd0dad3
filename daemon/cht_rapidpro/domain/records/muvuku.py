"""Muvuku: `1!CODE!value#value#value`, as simple phones' SIM applications write it.

Values go to the fields by position alone, so nothing here may drop or join one: a shifted value is a wrong report.
"""

from cht_rapidpro.domain.records.answers import Answers
from cht_rapidpro.domain.records.characters import trim
from cht_rapidpro.domain.records.form import Form


def parse_muvuku(form: Form, text: str) -> Answers:
    """Quirk: `\\#` is no escape here, and an empty value after a last `#` is one too many."""
    first, *others = text.split("#")
    # Header and code go; an exclamation mark of the first value stays.
    values = ["!".join(first.split("!")[2:]), *others]
    keys = [field.key for field in form.fields]
    return Answers(
        values={key: trim(value) for key, value in zip(keys, values, strict=False)},
        every_field=True,
        surplus=len(values) > len(keys),
    )

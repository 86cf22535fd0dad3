"""JavaROSA: `J1!CODE!label#value#label#value`, with `\\#` for a `#` inside a value.

Labels are matched as expressions (`labels.py`), in the system's locale. Unknown labels are ignored without an error.
"""

import re
from typing import Final

from cht_rapidpro.domain.records.answers import Answers
from cht_rapidpro.domain.records.characters import trim
from cht_rapidpro.domain.records.form import Form
from cht_rapidpro.domain.records.labels import comparable
from cht_rapidpro.domain.records.matching import Effort

# Quirks: what is before a split point is taken with it, so the first character of all, and the second of two adjacent
# `#`, split nothing; and CHT marks the split points with a vertical tab, so one that was sent splits, too.
_SPLIT: Final = re.compile(r"([^\\])#")
_MARK: Final = "\v"


def parse_j1(form: Form, text: str, effort: Effort) -> Answers:
    """Quirk: the message's own locale is not asked. One label that is sent may fill several fields."""
    pieces = _SPLIT.sub(rf"\1{_MARK}", text.split("!", 2)[2]).split(_MARK)
    sent = list(zip(map(trim, pieces[::2]), pieces[1::2], strict=False))
    last = {label: position for position, (label, _) in enumerate(sent)}
    by_comparable: dict[str, list[str]] = {}
    for label in last:
        by_comparable.setdefault(comparable(label), []).append(label)
    values: dict[str, object] = {}
    for field, tiny in form.tiny:
        position = max((last[found] for found in tiny.names(by_comparable, effort)), default=None)
        if position is not None:
            values[field.key] = sent[position][1].replace("\\#", "#")
    return Answers(values, every_field=True)

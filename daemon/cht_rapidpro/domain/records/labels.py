"""Whether a text begins with, or is, a label of the form definition.

Quirk: to CHT a label is a regular expression, case-insensitive and put between anchors *ungrouped*: `a.b` is found in
`aXb 5`, and `A|B` in anything that begins with A or ends with B. JavaScript's engine backtracks, so one such label
and one long text stop CHT for minutes; and Python's engine would differ in its classes and cases. So:

- a label without any of `^$\\.*+?()[]{}|`, as nearly all are, is compared as plain text, in one pass;
- any other is parsed with JavaScript's syntax and simulated (`expression.py`, `matching.py`) without backtracking, its
  work counted against an effort that all labels of one message share. When it is used up, labels do not match;
- one that is no valid expression (CHT crashes), or that looks around or back, is compared as plain text.

So no label and no text can hold up the event loop, and what is decided never depends on the speed of the machine.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from cht_rapidpro.domain.records.characters import DIGITS, WS, fold, utf16
from cht_rapidpro.domain.records.javascript import text
from cht_rapidpro.domain.records.matching import Effort, compile_expression, search

_PLAIN: Final = re.compile(r"[^\^$\\.*+?()\[\]{}|]*")
_AFTER_LABEL: Final = tuple(WS + DIGITS)


def comparable(value: str) -> str:
    """The text as labels are compared with it."""
    return utf16(fold(value))


def leads(label: object, body: str, effort: Effort) -> bool:
    """Whether the body, made comparable, is the label, or begins with it and a blank or digit follows.

    Quirk: only a label that is a text is the body; a number must be followed by something.
    """
    as_text = text(label)
    wanted = comparable(as_text)
    if isinstance(label, str) and body == wanted:
        return True
    program = None if _is_plain(as_text) else compile_expression(leading(as_text))
    if program is None:
        return body.startswith(wanted) and body.startswith(_AFTER_LABEL, len(wanted))
    return search(program, body, effort)


def leading(label: str) -> str:
    """The expression that CHT makes of a label, which a backslash or a bracket of the label spoils."""
    return f"^{utf16(label)}[\\s0-9]"


def named(label: str, sent: Mapping[str, Iterable[str]], effort: Effort) -> Iterator[str]:
    """Of the texts that were sent, under their comparable forms, those that the label matches as a whole."""
    program = None if _is_plain(label) else compile_expression(f"^{utf16(label)}$")
    if program is None:
        yield from sent.get(comparable(label), ())
        return
    for each, as_sent in sent.items():
        if search(program, each, effort):
            yield from as_sent
        elif effort.is_used_up:
            return


def _is_plain(label: str) -> bool:
    return _PLAIN.fullmatch(label) is not None

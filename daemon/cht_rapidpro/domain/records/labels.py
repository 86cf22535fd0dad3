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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.records.characters import DIGITS, WS, fold, utf16
from cht_rapidpro.domain.records.javascript import text
from cht_rapidpro.domain.records.matching import Effort, Program, compile_expression, search

_PLAIN: Final = re.compile(r"[^\^$\\.*+?()\[\]{}|]*")
_AFTER_LABEL: Final = tuple(WS + DIGITS)


def comparable(value: str) -> str:
    """The text as labels are compared with it."""
    return utf16(fold(value))


@dataclass(frozen=True, slots=True)
class Label:
    """A label, read for many texts. `wanted`: its comparable form; `is_text`: it is no number, list or object."""

    text: str
    wanted: str
    is_text: bool
    is_plain: bool

    def leads(self, body: str, effort: Effort) -> bool:
        """Whether the body, made comparable, is the label, or begins with it and a blank or digit follows.

        Quirk: only a label that is a text is the body; a number must be followed by something.
        """
        if self.is_text and body == self.wanted:
            return True
        program = self._program(leading)
        if program is None:
            return body.startswith(self.wanted) and body.startswith(_AFTER_LABEL, len(self.wanted))
        return search(program, body, effort)

    def names(self, sent: Mapping[str, Iterable[str]], effort: Effort) -> Iterator[str]:
        """Of the texts that were sent, under their comparable forms, those that the label matches as a whole."""
        program = self._program(whole)
        if program is None:
            yield from sent.get(self.wanted, ())
            return
        for each, as_sent in sent.items():
            if search(program, each, effort):
                yield from as_sent
            elif effort.is_used_up:
                return

    def _program(self, expression: Callable[[str], str]) -> Program | None:
        """Not made until a text needs it: a form may have thousands, and one takes milliseconds."""
        return None if self.is_plain else compile_expression(expression(self.text))


def read_label(label: object) -> Label:
    """Of a translated label, any JSON value."""
    as_text = text(label)
    return Label(as_text, comparable(as_text), isinstance(label, str), _PLAIN.fullmatch(as_text) is not None)


def leading(label: str) -> str:
    """The expression that CHT makes of a label, which a backslash or a bracket of the label spoils."""
    return f"^{utf16(label)}[\\s0-9]"


def whole(label: str) -> str:
    return f"^{utf16(label)}$"

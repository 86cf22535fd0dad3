"""The expressions that a translated text may have between `{{` and `}}`, as far as administrators write them.

CHT evaluates JavaScript there. Known here are a name of the context, a text or a whole number, each followed by any
number of `.property`, `[index]` and calls of the methods below: `fields.join(', ')`, `key.toUpperCase()`. Nothing is
ever executed, and every other expression is refused, which leaves the whole text as it is, as CHT leaves it where
an expression fails.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from cht_rapidpro.domain.records.characters import WS_CLASS, trim
from cht_rapidpro.domain.records.javascript import ABSENT, text

MAX_LENGTH: Final = 500

_TEXT: Final = r"'([^'\\\\\n\r]*)'|\"([^\"\\\\\n\r]*)\""
_START: Final = re.compile(rf"(?P<name>[A-Za-z_$][\w$]*)|{_TEXT}|(?P<number>0|[1-9][0-9]{{0,8}})(?!\.)", re.ASCII)
_STEP: Final = re.compile(
    rf"{WS_CLASS}*(?:\.{WS_CLASS}*(?P<property>[A-Za-z_$][\w$]*)(?P<call>{WS_CLASS}*\({WS_CLASS}*(?:{_TEXT})?{WS_CLASS}*\))?"
    rf"|\[{WS_CLASS}*(?P<index>0|[1-9][0-9]{{0,8}}){WS_CLASS}*\])",
    re.ASCII,
)
_TEXT_METHODS: Final[Mapping[str, Callable[[str], str]]] = {
    "toUpperCase": str.upper,
    "toLowerCase": str.lower,
    "trim": trim,
    "toString": str,
}


class NotEvaluatedError(ValueError):
    """The expression fails, or is more than is known here. Never leaves this package."""


def evaluate(expression: str, context: Mapping[str, object]) -> object:
    """The value of the expression; ABSENT for `undefined`."""
    source = trim(expression)
    start = _START.match(source)
    if start is None or len(source) > MAX_LENGTH:
        raise NotEvaluatedError("no name")
    value, at = _first(start, context), start.end()
    while at < len(source):
        step = _STEP.match(source, at)
        if step is None:
            raise NotEvaluatedError("no property")
        value, at = _next(value, step), step.end()
    return value


def _first(found: re.Match[str], context: Mapping[str, object]) -> object:
    if found["name"]:
        if found["name"] not in context:
            raise NotEvaluatedError("unknown name")
        return context[found["name"]]
    return int(found["number"]) if found["number"] else found[2] or found[3] or ""


def _next(value: object, step: re.Match[str]) -> object:
    if value is None or value is ABSENT:
        raise NotEvaluatedError("nothing has no properties")
    if step["index"]:
        return _at(value, int(step["index"]))
    name = step["property"]
    if step["call"]:
        return _call(value, name, step[3] if step[3] is not None else step[4])
    return _property(value, name)


def _at(value: object, index: int) -> object:
    if isinstance(value, list | str):
        return value[index] if index < len(value) else ABSENT
    return value.get(str(index), ABSENT) if isinstance(value, Mapping) else ABSENT


def _property(value: Any, name: str) -> object:
    if name == "length" and isinstance(value, list | str):
        return len(value)
    if isinstance(value, Mapping) and name in value:
        return value[name]
    raise NotEvaluatedError("a property that is not known here")


def _call(value: object, name: str, argument: str | None) -> object:
    if name == "join" and isinstance(value, list):
        items = ("" if item is None or item is ABSENT else text(item) for item in value)
        return ("," if argument is None else argument).join(items)
    if name in _TEXT_METHODS and isinstance(value, str) and argument is None:
        return _TEXT_METHODS[name](value)
    raise NotEvaluatedError("a method that is not known here")

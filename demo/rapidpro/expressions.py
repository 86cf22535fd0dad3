"""Evaluates the `@` expressions of a broadcast text, as RapidPro's engine does before a message goes out.

A text that is sent unescaped can lose words, show another's name or even a secret (`@globals.api_key`): the tests must
be able to see that on the simulated phone. An expression that fails vanishes silently. Known are paths, arithmetic and
text joined by `&`; the engine's functions count as errors.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, DecimalException
from typing import TypeAlias

Value: TypeAlias = "str | Decimal | Mapping[str, Value]"
DEFAULT = "__default__"  # what a mapping says when it is asked for as a whole

_START = re.compile(r"@@|@\(|@(\w+(?:\.\w+)*)")
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)|"(?P<text>[^"]*)"|(?P<path>[^\W\d]\w*(?:\.\w+)*)|(?P<sign>[-+*/&()]))\s*"""
)
_PRECEDENCE = {"&": 1, "+": 2, "-": 2, "*": 3, "/": 3}
_ARITHMETIC: Mapping[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class _ExpressionError(Exception):
    """The engine would log it and show nothing."""


def evaluate(template: str, context: Mapping[str, Value]) -> str:
    """The text as the phone shows it. `context`: contact, fields, globals and urns, keys in lower case."""
    pieces, position = [], 0
    while match := _START.search(template, position):
        piece, end = _expand(template, match, context)
        pieces += [template[position : match.start()], piece]
        position = end
    return "".join([*pieces, template[position:]])


def _expand(template: str, match: re.Match[str], context: Mapping[str, Value]) -> tuple[str, int]:
    """What stands for the expression that begins at `match`, and where it ends."""
    if match[0] == "@@":
        return "@", match.end()
    if match[0] == "@(":
        end = _closing(template, match.end())
        if end is None:  # never closed: the rest is plain text
            return template[match.start() :], len(template)
        return _shown(template[match.end() : end], context), end + 1
    known = match[1].partition(".")[0].lower() in context
    return (_shown(match[1], context) if known else match[0]), match.end()


def _closing(template: str, start: int) -> int | None:
    depth, quoted = 1, False
    for index in range(start, len(template)):
        char = template[index]
        if char == '"':
            quoted = not quoted
        elif not quoted:
            depth += (char == "(") - (char == ")")
            if depth == 0:
                return index
    return None


def _shown(expression: str, context: Mapping[str, Value]) -> str:
    try:
        return _as_text(_Parser(expression, context).value())
    except (_ExpressionError, DecimalException, RecursionError):
        return ""


class _Parser:
    """Precedence climbing over the tokens of one expression."""

    def __init__(self, expression: str, context: Mapping[str, Value]) -> None:
        self._tokens = list(_tokens(expression))
        self._context = context

    def value(self) -> Value:
        value = self._operation(1)
        if self._tokens:
            raise _ExpressionError(self._tokens)
        return value

    def _operation(self, lowest: int) -> Value:
        left = self._operand()
        while self._tokens and _PRECEDENCE.get(self._tokens[0][1], 0) >= lowest:
            _, sign = self._tokens.pop(0)
            right = self._operation(_PRECEDENCE[sign] + 1)
            left = _apply(sign, left, right)
        return left

    def _operand(self) -> Value:
        match self._tokens.pop(0) if self._tokens else ("", ""):
            case ("number", digits):
                return Decimal(digits)
            case ("text", text):
                return text
            case ("path", path):
                return _look_up(path, self._context)
            case ("sign", "-"):
                return -_as_number(self._operand())
            case ("sign", "("):
                value = self._operation(1)
                if not self._tokens or self._tokens.pop(0) != ("sign", ")"):
                    raise _ExpressionError("no closing parenthesis")
                return value
            case token:
                raise _ExpressionError(token)


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None or match.lastgroup is None:
            raise _ExpressionError(expression)
        yield match.lastgroup, match[match.lastgroup]
        position = match.end()


def _apply(sign: str, left: Value, right: Value) -> Value:
    if sign == "&":
        return _as_text(left) + _as_text(right)
    return _ARITHMETIC[sign](_as_number(left), _as_number(right))


def _look_up(path: str, context: Mapping[str, Value]) -> Value:
    value: Value = context
    for key in path.lower().split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise _ExpressionError(path)
        value = value[key]
    return value


def _as_number(value: Value) -> Decimal:
    if isinstance(value, Mapping):
        raise _ExpressionError(value)
    return Decimal(value)


def _as_text(value: Value) -> str:
    match value:
        case str():
            return value
        case Decimal():
            return format(value.normalize(), "f")
    if DEFAULT in value:
        return _as_text(value[DEFAULT])
    return "{" + ", ".join(f"{key}: {_as_text(item)}" for key, item in value.items()) + "}"

"""JavaScript's syntax of regular expressions, as far as labels may use it.

The parser makes a tree of what `new RegExp(label, "i")` means, after ECMAScript's annex B: `{` that begins no
quantifier is a brace, `\\q` is a q, `]` stands for itself. Texts are compared folded (`characters.fold`), so a
character here is a folded one. An expression that is invalid, looks ahead, behind or back, or is very large is refused
with `NotUnderstoodError`: every other expression can be matched in one pass, without backtracking.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.records.characters import DIGITS, LT, WS, fold

MAX_LENGTH: Final = 500
_MAX_DEPTH: Final = 20

Accepts = Callable[[str], bool]


class NotUnderstoodError(ValueError):
    """The expression is invalid, or more than a label may be. Never leaves this package."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One character, given folded. `weight`: what a look at one costs, in steps."""

    accepts: Accepts
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Edge:
    """A place between characters: `^`, `$`, `b` (the edge of a word) or `B` (no edge of a word)."""

    kind: str


@dataclass(frozen=True, slots=True)
class Sequence:
    nodes: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    nodes: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    node: "Node"
    least: int
    most: int | None  # None: any number


Node = Unit | Edge | Sequence | Choice | Repeat

_QUANTIFIER: Final = re.compile(r"(?:([*+?])|\{([0-9]+)(?:(,)([0-9]*))?\})\??")
_SIMPLE: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_CODE_POINT: Final = re.compile("x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})")
_CONTROLS: Final = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "0": "\0"}
_WORD: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_SETS: Final[dict[str, frozenset[str]]] = {"d": frozenset("0123456789"), "s": frozenset(WS), "w": _WORD}


def is_word(folded: str) -> bool:
    return folded in _WORD


def parse(source: str) -> Node:
    if len(source) > MAX_LENGTH:
        raise NotUnderstoodError("too long")
    parser = _Parser(source)
    node = parser.choice(0)
    if parser.peek():
        raise NotUnderstoodError("unmatched )")
    return node


class _Parser:
    """Recursive descent over one expression; a method for each rule of the grammar."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _take(self) -> str:
        character = self.peek()
        if not character:
            raise NotUnderstoodError("unexpected end")
        self._at += 1
        return character

    def _skip(self, text: str) -> bool:
        found = self._source.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def choice(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise NotUnderstoodError("too deep")
        nodes = [self._sequence(depth)]
        while self._skip("|"):
            nodes.append(self._sequence(depth))
        return nodes[0] if len(nodes) == 1 else Choice(tuple(nodes))

    def _sequence(self, depth: int) -> Node:
        nodes = []
        while self.peek() not in ("", "|", ")"):
            nodes.append(self._term(depth))
        return Sequence(tuple(nodes))

    def _term(self, depth: int) -> Node:
        for mark, kind in (("^", "^"), ("$", "$"), ("\\b", "b"), ("\\B", "B")):
            if self._skip(mark):
                return Edge(kind)
        return self._quantified(self._atom(depth))

    def _atom(self, depth: int) -> Node:
        match self._take():
            case "(":
                return self._group(depth)
            case "[":
                return self._set()
            case ".":
                return Unit(lambda folded: folded not in LT)
            case "\\":
                return Unit(self._escape())
            case "*" | "+" | "?":
                raise NotUnderstoodError("nothing to repeat")
            case "{" if _QUANTIFIER.match(self._source, self._at - 1):
                raise NotUnderstoodError("nothing to repeat")
            case character:
                return Unit(fold(character).__eq__)

    def _group(self, depth: int) -> Node:
        if not self._skip("?:") and self.peek() == "?":
            raise NotUnderstoodError("only plain groups")
        node = self.choice(depth + 1)
        if not self._skip(")"):
            raise NotUnderstoodError("unterminated group")
        return node

    def _quantified(self, node: Node) -> Node:
        found = _QUANTIFIER.match(self._source, self._at)
        if not found:
            return node
        self._at = found.end()
        simple, least, comma, most = found.groups()
        if simple:
            return Repeat(node, *_SIMPLE[simple])
        low = int(least)
        high = (int(most) if most else None) if comma else low
        if high is not None and low > high:
            raise NotUnderstoodError("numbers out of order")
        return Repeat(node, low, high)

    def _escape(self) -> Accepts:
        character = self._take()
        if character.lower() in _SETS:
            return _among(character)
        return fold(self._escaped(character)).__eq__

    def _escaped(self, character: str) -> str:
        """The character that an escape stands for; quirk: one that stands for nothing is itself."""
        found = _CODE_POINT.match(self._source, self._at - 1)
        if found:
            self._at = found.end()
            return chr(int(found[1] or found[2], 16))
        if character in "123456789ck" or (character == "0" and self.peek() in set(DIGITS)):
            raise NotUnderstoodError("no references")
        return _CONTROLS.get(character, character)

    def _set(self) -> Unit:
        inverted = self._skip("^")
        members: list[Accepts] = []
        while not self._skip("]"):
            members.append(self._member())
        return Unit(lambda folded: any(accepts(folded) for accepts in members) != inverted, 1 + len(members))

    def _member(self) -> Accepts:
        first = self._member_end()
        if not self._source.startswith("-", self._at) or self._source.startswith("-]", self._at):
            return first if callable(first) else fold(first).__eq__
        self._at += 1
        last = self._member_end()
        if callable(first) or callable(last):  # quirk: a set at either end makes the dash a member
            ends = [end if callable(end) else fold(end).__eq__ for end in (first, last, "-")]
            return lambda folded: any(accepts(folded) for accepts in ends)
        if first > last:
            raise NotUnderstoodError("range out of order")
        return lambda folded: first <= folded <= last or first <= _lower(folded) <= last

    def _member_end(self) -> str | Accepts:
        character = self._take()
        if character != "\\":
            return character
        character = self._take()
        if character.lower() in _SETS:
            return _among(character)
        return "\b" if character == "b" else self._escaped(character)


def _among(name: str) -> Accepts:
    """`\\d`, `\\s`, `\\w`, or with a capital everything else."""
    members, inverted = _SETS[name.lower()], name.isupper()
    return lambda folded: (folded in members) != inverted


def _lower(folded: str) -> str:
    """The other character that folds to this one, where there is just one."""
    lower = folded.lower()
    return lower if fold(lower) == folded else folded

"""Searching a text for an expression in one pass, with its work counted.

All the ways an expression can go on are followed at once (Thompson), so the work is at most the length of the text
times the size of the expression. An `Effort` bounds the work for one whole message, in steps and not in seconds, so
that the same message gives the same record on any machine.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, assert_never

from cht_rapidpro.domain.records.expression import (
    Choice,
    Edge,
    Node,
    NotUnderstoodError,
    Repeat,
    Sequence,
    Unit,
    is_word,
    parse,
)

MAX_STEPS: Final = 10_000  # about 10 ms, and twenty times what a form of a hundred such labels needs
_MAX_SIZE: Final = 1_000


@dataclass(slots=True)
class Effort:
    """The steps that are left for one message."""

    left: int = MAX_STEPS

    def spend(self, steps: int = 1) -> bool:
        self.left -= steps
        return self.left >= 0

    @property
    def is_used_up(self) -> bool:
        return self.left < 0


@dataclass(frozen=True, slots=True)
class _Fork:
    """Goes on at each of these places."""

    places: tuple[int, ...]


_Step = Unit | Edge | _Fork


@dataclass(frozen=True, slots=True)
class Program:
    """An expression as numbered steps; having got past the last one is a match."""

    steps: tuple[_Step, ...]
    anchored: bool


@lru_cache(maxsize=4096)
def compile_expression(source: str) -> Program | None:
    """None where the expression is not understood (`expression.py` says when)."""
    try:
        node = parse(source)
        steps: list[_Step] = []
        _write(node, steps)
    except NotUnderstoodError:
        return None
    return Program(tuple(steps), isinstance(node, Sequence) and node.nodes[:1] == (Edge("^"),))


def _write(node: Node, steps: list[_Step]) -> None:
    if len(steps) > _MAX_SIZE:
        raise NotUnderstoodError("too large")
    match node:
        case Unit() | Edge():
            steps.append(node)
        case Sequence(nodes):
            for inner in nodes:
                _write(inner, steps)
        case Choice(nodes):
            _write_choice(nodes, steps)
        case Repeat():
            _write_repeat(node, steps)
        case _:
            assert_never(node)


def _write_choice(nodes: tuple[Node, ...], steps: list[_Step]) -> None:
    fork, ends = len(steps), []
    steps.append(_Fork(()))
    starts = []
    for node in nodes:
        starts.append(len(steps))
        _write(node, steps)
        ends.append(len(steps))
        steps.append(_Fork(()))
    steps[fork] = _Fork(tuple(starts))
    for end in ends:
        steps[end] = _Fork((len(steps),))


def _write_repeat(repeat: Repeat, steps: list[_Step]) -> None:
    for _ in range(repeat.least):
        before = len(steps)
        _write(repeat.node, steps)
        if len(steps) == before:  # nothing, however often
            break
    if repeat.most is None:
        fork = len(steps)
        steps.append(_Fork(()))
        _write(repeat.node, steps)
        steps.append(_Fork((fork,)))
        steps[fork] = _Fork((fork + 1, len(steps)))
    else:
        for _ in range(repeat.most - repeat.least):
            fork = len(steps)
            steps.append(_Fork(()))
            _write(repeat.node, steps)
            steps[fork] = _Fork((fork + 1, len(steps)))


def search(program: Program, folded: str, effort: Effort) -> bool:
    """Whether the expression is found anywhere in the folded text; False once the effort is used up."""
    steps, end = program.steps, len(program.steps)
    places: set[int] = set()
    for at in range(len(folded) + 1):
        if not program.anchored or not at:
            places.add(0)
        reached = _reach(steps, folded, at, places, effort)
        if end in reached or not reached or effort.is_used_up:
            return end in reached and not effort.is_used_up
        character = folded[at : at + 1]
        places = _beyond(steps, character, reached, effort) if character else set()
    return False


def _beyond(steps: tuple[_Step, ...], character: str, reached: set[int], effort: Effort) -> set[int]:
    """Every place that is reached from these by taking the character."""
    places = set()
    for place in reached:
        step = steps[place]
        if isinstance(step, Unit) and effort.spend(step.weight) and step.accepts(character):
            places.add(place + 1)
    return places


def _reach(steps: tuple[_Step, ...], folded: str, at: int, places: set[int], effort: Effort) -> set[int]:
    """Every place that is reached from these without taking a character, and they themselves."""
    reached, waiting = set(places), list(places)
    while waiting and effort.spend():
        place = waiting.pop()
        step = steps[place] if place < len(steps) else None
        following: tuple[int, ...] = ()
        if isinstance(step, _Fork):
            following = step.places
        elif isinstance(step, Edge) and _is_edge(step.kind, folded, at):
            following = (place + 1,)
        waiting.extend(new for new in following if new not in reached)
        reached.update(following)
    return reached


def _is_edge(kind: str, folded: str, at: int) -> bool:
    match kind:
        case "^":
            return at == 0
        case "$":
            return at == len(folded)
        case _:
            before, after = folded[at - 1 : at] if at else "", folded[at : at + 1]
            return (is_word(before) != is_word(after)) == (kind == "b")

"""The log's vocabulary is closed: docs/operations/logs.md has every event of the code, with its level, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LEVELS: Final = {"debug", "info", "warning", "error", "critical"}
NAME: Final = re.compile(r"[a-z]+\.[a-z_]+")
ROW: Final = re.compile(r"^\| `([a-z]+\.[a-z_]+)` \| (.+?) \|", re.MULTILINE)


def written() -> set[tuple[str, str]]:
    return {pair for path in (ROOT / "daemon").rglob("*.py") for pair in _events(ast.parse(path.read_text()))}


def _events(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Event and level of every call of a logger; all names are texts in place, so that one grep finds them."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(name)), *_]) if level in LEVELS:
                yield name, level


def told() -> set[tuple[str, str]]:
    rows = ROW.findall((ROOT / "docs/operations/logs.md").read_text())
    return {(name, level) for name, levels in rows for level in levels.split(", ")}


def test_the_documented_table_has_every_event_of_the_code() -> None:
    assert told() == written()


def test_every_name_is_a_noun_and_what_happened_to_it() -> None:
    assert [name for name, _ in written() if not NAME.fullmatch(name)] == []

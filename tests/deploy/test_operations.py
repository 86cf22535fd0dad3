"""The documents for people who run it: links lead somewhere, and every command is one that there is."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cht_rapidpro.commands.main import parser as command_parser
from tests.test_vocabulary import written

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = sorted((ROOT / "docs/operations").glob("*.md"))
# Documents that describe what is not there yet mark each such line with this sign, and say so at their top.
NOT_YET: Final = "(†)"
ELSEWHERE: Final = {"migrate.md"}
NAMES: Final = {"task", "broadcast", "dependency", "rapidpro", "incoming", "spool", "stop", "daemon", "state", "config"}


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
def test_every_link_leads_somewhere(doc: Path) -> None:
    lost = []
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", doc.read_text()):
        name, _, place = target.partition("#")
        file = (doc.parent / name).resolve() if name else doc
        if name in ELSEWHERE:
            continue
        headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE) if file.suffix == ".md" else []
        if not file.exists() or (place and place not in map(anchor, headings)):
            lost.append(target)
    assert lost == []


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
def test_every_command_of_a_block_is_there_or_marked_as_not_tried(doc: Path) -> None:
    offered = set(commands(command_parser()))
    lines = [
        line for block in re.findall(r"^ *```\n(.*?)^ *```", doc.read_text(), re.M | re.S) for line in block.split("\n")
    ]
    asked = {
        (found[1], NOT_YET in line) for line in lines for found in [re.match(r" *cht-rapidpro ([a-z]+)", line)] if found
    }
    assert [name for name, is_marked in asked if name not in offered and not is_marked] == []


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
def test_every_event_that_is_named_is_one_of_the_log(doc: Path) -> None:
    events = {name for name, _ in written()}
    named = set(re.findall(r'(?:`|"event": ")([a-z]+\.[a-z_]+)[`"]', doc.read_text()))
    assert {name for name in named if name.partition(".")[0] in NAMES and not name.endswith((".toml", ".md"))} <= events

"""What the project says about itself: no vague words, and each cited document and section exists."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
DOCUMENTS: Final = sorted(
    [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "systemd").glob("*.md"), ROOT / "bench/README.md"]
)
CODE: Final = [
    path
    for folder in ("daemon", "tests", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__)
]
TEXTS: Final = [*DOCUMENTS, ROOT / "config.example.toml", ROOT / "Makefile", ROOT / "pyproject.toml"]
# What no reader can look up: a person without a name, and a word that leaves open which thing is meant.
VAGUE: Final = re.compile(
    r"\b(whoever|nobody|somebody|anybody|everybody|whatever|mend(s|ed|ing)?|gets? on|what is left|if it lasts"
    r"|answered well|all is well|is well|how it does|who has it|stands? in)\b",
    re.IGNORECASE,
)
# A name that begins so has no subject.
UNNAMED: Final = re.compile("test_(what|who|it|they)_")
LINK: Final = re.compile(r"\]\((?!https?:)([^)\s]*)\)")
CITATION: Final = re.compile(r"\b((?:docs|systemd|bench)/[\w./-]+\.md)(?:#([\w-]+))?")
OLD_NAME: Final = re.compile(r"\b(CHT|COUCHDB|DESIGN|RAPIDPRO|REDESIGN|SMS_RECORDS|STYLE)\.md\b")
HEADING: Final = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
CODE_BLOCK: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """As GitHub makes them: lower case, punctuation dropped, blanks as dashes."""
    headings = HEADING.findall(CODE_BLOCK.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem(target: Path, anchor: str) -> str:
    """Why a citation leads nowhere; empty where it leads to something."""
    if not target.exists():
        return "there is no such file"
    return f"there is no section #{anchor}" if anchor and anchor not in anchors(target) else ""


def read(path: Path) -> str:
    return path.read_text()


def names_of_tests(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(read(path)))
    functions = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [name for name in functions if name.startswith("test_")]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring and comment; of the daemon also of each message, which operators read."""
    source = read(path)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    is_shown = path.is_relative_to(ROOT / "daemon") and "demo" not in path.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and is_shown:
            yield node.lineno, node.value
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield getattr(node, "lineno", 1), ast.get_docstring(node) or ""


@pytest.mark.parametrize(
    "path", [path for path in CODE if path.is_relative_to(ROOT / "daemon")], ids=lambda path: path.name
)
def test_the_daemon_names_what_it_means(path: Path) -> None:
    assert [(line, found[0]) for line, text in prose(path) for found in VAGUE.finditer(text)] == []


def test_the_name_of_each_test_has_a_subject_and_says_its_rule() -> None:
    """`test_a_refused_message_fails_with_rapidpros_reason`, not `test_what_…`."""
    names = [(path.name, name) for path in (ROOT / "tests").rglob("test_*.py") for name in names_of_tests(path)]
    assert [found for found in names if UNNAMED.match(found[1]) or VAGUE.search(found[1].replace("_", " "))] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_what_it_means(path: Path) -> None:
    assert [found[0] for found in VAGUE.finditer(read(path))] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_of_a_document_leads_to_a_section(path: Path) -> None:
    links = [link.partition("#") for link in LINK.findall(CODE_BLOCK.sub("", read(path)))]
    broken = [
        (f"{place}#{anchor}", why)
        for place, _, anchor in links
        if (why := problem((path.parent / place).resolve() if place else path, anchor))
    ]
    assert broken == []


def test_each_citation_in_code_and_texts_leads_to_a_section() -> None:
    broken = [
        (str(path.relative_to(ROOT)), found[0], why)
        for path in [*CODE, *TEXTS]
        for found in CITATION.finditer(read(path))
        if (why := problem(ROOT / found[1], found[2] or ""))
    ]
    assert broken == []


def test_no_citation_of_a_document_that_is_not_in_the_repository() -> None:
    assert [(str(path), found[0]) for path in [*CODE, *TEXTS] for found in OLD_NAME.finditer(read(path))] == []


def test_the_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").split()) < 1500


def test_the_readme_names_each_runtime_dependency_with_its_reason() -> None:
    project = re.findall(
        r'^    "([a-z]+)>=', read(ROOT / "pyproject.toml").partition("[dependency-groups")[0], re.MULTILINE
    )
    assert project
    assert [
        name for name in project if not re.search(rf"^\| {name} \| \S", read(ROOT / "README.md"), re.MULTILINE)
    ] == []


def test_each_document_is_in_the_table_of_documents() -> None:
    listed = {
        (ROOT / "docs" / place.partition("#")[0]).resolve() for place in LINK.findall(read(ROOT / "docs/README.md"))
    }
    assert [path for path in (ROOT / "docs").rglob("*.md") if path not in listed and path.name != "README.md"] == []

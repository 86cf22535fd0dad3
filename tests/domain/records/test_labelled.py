"""Labelled texts are taken apart as CHT's expression does, and never slower than in one pass."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.records.characters import LT, VSEP, WS, trim
from cht_rapidpro.domain.records.labelled import read_component
from tests.domain.records.reports import field, values

FIELDS = {"site": field("", "SIT"), "b": field("", "DEP")}


@pytest.mark.parametrize(
    ("text", "site"),
    [
        # what comes before and after the label
        ("5 SIT 3", 3),
        ("SIT - a -", "a -"),
        ("SIT -4", 4),
        ("SIT!4", 4),
        ("SIT: 3", ": 3"),
        ("SIT=3", "=3"),
        ("SITé 3", "é 3"),
        ("\u00a0SIT\u00a0x\u00a0", "x"),
        # numbers and pairs
        ("SIT 3 weeks ago", "3weeks ago"),
        ("SIT 5 6", "56"),
        ("SIT 7.50 x", "7.50x"),
        ("SIT 12 - 12", "1212"),
        ("SIT 5.", 5),
        ("SIT 1.10", 1.1),
        ("SIT 12345678901234567890", 12345678901234567000),
        ("SIT 1.2.3", "1.2.3"),
        ("SIT 0", "0"),
        ("SIT 0.5", "0.5"),
        ("SIT 05", "05"),
        ("SIT 0712345678", "0712345678"),
        ("SIT 712345678", 712345678),
        ("SIT +5", "+5"),
        ("SIT .5", ".5"),
        ("SIT ५", "५"),
        # dates
        ("SIT 2021-04-09", 1617926400000),
        ("SIT 2021/4/9", 1617926400000),
        ("SIT 2021-02-30", 1614643200000),
        ("SIT 2021-04-09 evening", 1617926400000),
        ("SIT 2020-01-02 7", 7),
        ("SIT 2020-01-02 7 x", "7x"),
        # line breaks
        ("SIT\ntea", "tea"),
        ("SIT 5\ntea", "5tea"),
        ("SIT tea \n", "tea"),
    ],
)
def test_value(text: str, site: object) -> None:
    assert values(FIELDS, f"T {text}#DEP x") == {"site": site, "b": "x"}


@pytest.mark.parametrize(
    "text",
    [
        "SIT",
        "SIT -",
        "SIT 2021-13-01",
        "SIT 2021-04-32",
        "SIT 1970-01-01",
        "5",
        "",
        "SIT tea\nmilk",
        "SIT tea\u2028\u00e9",
    ],
)
def test_no_value(text: str) -> None:
    assert values(FIELDS, f"T {text}#DEP x") == {"b": "x"}


def test_an_inner_line_break_moves_the_label_on_to_the_last_word_before_it() -> None:
    fields = {"tea": field("", "TEA"), "site": field("", "SIT")}
    assert values(fields, "T SIT black tea\nand milk") == {"tea": "and milk"}
    assert values(fields, "T SIT black 5é\ntea hot") == {"tea": "hot"}


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("SIT#SIT#SIT 5", 5),
        ("SIT a#SIT b", ["a", "b"]),
        ("SIT a#SIT", ["a", None]),
        ("SIT x#SIT 5#SIT 6 7", ["x", 5, {"type": "pair", "values": ["6", "7"]}]),
        ("SIT 5 x#SIT 2021-04-09", ["5x", 1617926400000]),
        ("SIT 2021-99-09#SIT 5", [None, 5]),
        ("SIT#SIT 5 x", "5x"),
    ],
)
def test_repeated_label(text: str, site: object) -> None:
    assert values(FIELDS, f"T {text}#") == {"site": site}


@pytest.mark.parametrize(
    ("fields", "text", "expected"),
    [
        # by label, by key, and the label wins
        ({"site": field("", "SIT")}, "SITE 5#x", {"site": 5}),
        ({"site": field("", "SIT")}, "SITE 5#SIT 6", {"site": 6}),
        ({"Site": field("", "SIT")}, "SITE 5#x", {}),
        ({"Site": field("", "Site")}, "SITE 5#x", {"Site": 5}),
        # a key that is another field's label
        ({"a": field("", "B"), "b": field("", "C")}, "B 1#C 2", {"a": 1, "b": 2}),
        ({"b": field("", "A"), "a": field("", "B")}, "A 1#B 2", {"a": 1}),
        # the first of two with one label
        ({"a": field("", "X"), "b": field("", "x")}, "X 1#y", {"a": 1}),
        # labels that no text can hold
        ({"a": field("", "Q1")}, "Q1 5#y", {}),
        ({"a": field("", "É")}, "É 5#y", {}),
        # unknown ones
        ({"a": field("", "AA")}, "ZZ 5#AA 6", {"a": 6}),
        # a field without labels, where CHT crashes
        ({"a": {"type": ""}, "b": field("", "BB")}, "A 5#BB 6", {"a": 5, "b": 6}),
        ({"a": None, "b": field("", "BB")}, "BB 6#x", {"b": 6}),
    ],
)
def test_label_and_key(fields: dict[str, object], text: str, expected: dict[str, object]) -> None:
    assert values(fields, f"T {text}") == expected


# The specification's own grammar, for an engine that backtracks.
GRAMMAR = re.compile(
    f"[{WS}]*([A-Za-z_.*]+)[{re.escape(VSEP)}]*([0-9]{{4}}[-/][0-9]{{1,2}}[-/][0-9]{{1,2}})?[{re.escape(VSEP)}]*"
    rf"([1-9][0-9]*(?:\.[0-9]*)?)?[{re.escape(VSEP)}]*([^{LT}]+?)?[{WS}]*\Z"
)
PIECES = st.sampled_from(
    [
        *("SIT", "a", "2021-04-09", "2021-4-1", "2020-01-010", "2020/1/203", "2020-01-0150", "12", "5.", "1.10", "05"),
        *("\n", " ", " - ", "!", "é", "\u2028", "\r\n", ": 3", "\u200b", "/", "."),
    ]
)


@given(st.lists(PIECES, max_size=8).map("".join) | st.text(st.sampled_from("aB_.*90-/! \né\u2028"), max_size=12))
def test_components_are_what_a_backtracking_engine_finds(text: str) -> None:
    component, expected = read_component(trim(text)), GRAMMAR.search(trim(text))
    if expected is None:
        assert component is None
        return
    label, date, number, rest = (group or "" for group in expected.groups())
    assert component is not None
    assert (component.label, component.date, component.number) == (label.lower(), date, number)
    assert component.rest == (rest if trim(rest) else "")

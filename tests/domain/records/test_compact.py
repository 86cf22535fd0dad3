"""Compact texts go to the fields word by word, quoted ones as one."""

import pytest

from tests.domain.records.reports import app_settings, codes, field, report, values

FIELDS = {"a": field("", "AA"), "b": field("", "BB"), "c": field("string", "CC")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x y z", ["x", "y", "z"]),
        ("x", ["x"]),
        ("x  y\u00a0z\n", ["x", "y", "z"]),
        ("x\u001cy", ["x\u001cy"]),
        ("x y z and more", ["x", "y", "z and more"]),
        ('"x y" z', ["x y", "z"]),
        ('"x\ny" z', ["x\ny", "z"]),
        ('a"b"c', ["a", "b", "c"]),
        ('x"y', ["x", "y"]),
        ('x "y', ["x", "y"]),
        ('"" x', ["x"]),
        ("“x y”", ["“x", "y”"]),
        # more tokens than fields: once more, from the first quotation mark of a line to its last
        ('x "y "z" w" v u', ["x", 'y "z" w', "v u"]),
        ('1 2 "3" "4"', ["1", "2", '3" "4']),
        ('1 2 "3\n4" 5', ["1", "2", "3 4 5"]),
        # quotation marks around what is joined go too
        ('1 2 "3" 4 "5"', ["1", "2", '3" 4 "5']),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert list(values(FIELDS, f"T {text}").values()) == expected


def test_only_a_last_field_of_type_string_takes_the_rest() -> None:
    fields = {"a": field("string", "AA"), "b": field("", "BB")}
    record = report(app_settings(fields), "T 1 2 3")
    assert record["fields"] == {"a": "1", "b": "2"}
    assert codes(record) == []


@pytest.mark.parametrize("text", ['""', '"', '" "" "'])
def test_nothing_but_quotation_marks(text: str) -> None:
    """CHT crashes; we report what is missing."""
    record = report(app_settings({"a": field("", "AA", required=True)}), f"T {text.replace(' ', '')}")
    assert record["fields"] == {}
    assert codes(record) == ["sys.missing_fields"]


def test_a_form_without_fields_takes_any_text() -> None:
    assert values({}, "T a b c") == {}

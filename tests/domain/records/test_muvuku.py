"""Muvuku texts are told by their header and go to the fields by position."""

import pytest

from tests.domain.records.reports import app_settings, codes, field, report

FIELDS = {"a": field("", "AA", required=True), "b": field("", "BB")}


@pytest.mark.parametrize(
    ("text", "expected", "errors"),
    [
        ("1!T!x#y", {"a": "x", "b": "y"}, []),
        (" \n1!T! x # y ", {"a": "x", "b": "y"}, []),
        ("1!T!x", {"a": "x"}, []),
        ("1!T!x!y#z", {"a": "x!y", "b": "z"}, []),
        ("1!T!x\ny#z", {"a": "x\ny", "b": "z"}, []),
        (r"1!T!x\#y", {"a": "x\\", "b": "y"}, []),
        ("1!T!#y", {"a": "", "b": "y"}, []),
        ("1!T!x#y#", {"a": "x", "b": "y"}, ["extra_fields"]),
        ("1!T!x#y#z#w", {"a": "x", "b": "y"}, ["extra_fields"]),
        # headers that nobody parses
        ("2!T!x#y", {}, ["sys.missing_fields"]),
        ("J2!T!x#y", {}, ["sys.missing_fields"]),
        ("A1!T!x#y", {}, ["sys.missing_fields"]),
        # no header at all: the text is a TextForms one
        ("11!T!x", {"a": "11!T!x"}, []),
        ("JJ1!T!x y", {"a": "JJ1!T!x", "b": "y"}, []),
        ("1!T!\nx", {"a": "1!T!", "b": "x"}, []),
        ("1\n!T!x", {"a": "1", "b": "!T!x"}, []),
    ],
)
def test_text(text: str, expected: dict[str, object], errors: list[str]) -> None:
    record = report(app_settings(FIELDS), text)
    assert record["fields"] == expected
    assert codes(record) == errors


def test_an_answer_that_was_sent_empty_is_null_and_one_that_was_not_is_absent() -> None:
    fields = {"a": field("string"), "b": field("integer"), "c": field("colour"), "d": field("string")}
    assert report(app_settings(fields), "1!T!##")["fields"] == {"a": None, "b": None, "c": ""}


def test_a_field_with_the_name_of_the_mark_of_surplus_values() -> None:
    fields = {"_extra_fields": field("", "EX")}
    named = report(app_settings(fields), "1!T!yes")
    assert (named["fields"], codes(named)) == ({"_extra_fields": "yes"}, ["extra_fields"])
    surplus = report(app_settings(fields), "1!T!#")
    assert (surplus["fields"], codes(surplus)) == ({"_extra_fields": True}, ["extra_fields"])

"""Answers become values by the type of their field; what cannot be understood is null."""

import pytest

from tests.domain.records.reports import app_settings, codes, field, messages, report, values


def convert(kind: str, text: str, **more: object) -> object:
    """The value that a J1 text, which leaves an answer as it is, gives a field; "absent" where it has none."""
    return values({"x": field(kind, "XX", **more)}, f"J1!T!XX#{text}").get("x", "absent")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("5", 5), (" 5 ", 5), ("-5", -5), ("+5", 5), ("1.5", 1.5), (".5", 0.5), ("5.", 5), ("1e3", 1000)),
        *(("0x10", 16), ("0o17", 15), ("0B11", 3), ("५", 5), ("5\u200b", 5), ("\ufeff5", 5), (" ", 0), ("-0", 0)),
        *(("12345678901234567890", 12345678901234567000), ("1e21", 1e21)),
        *((text, None) for text in ("", "x", "1,000", "5kg", "٥", "５", "Infinity", "1e999", "-0x10", "1_0", "5 6")),
        *((text, None) for text in ("\u200b", "5\u0085", "NaN", "1e", ".", "9" * 400)),
    ],
)
def test_number(text: str, number: float | None) -> None:
    assert convert("integer", text) == number
    assert convert("month", text) == number
    assert convert("boolean", text) == (bool(number) if number in (0, 1) else None)


CHOICES = [[1, "opt.good"], ["2", {"en": "Two", "fr": "Deux"}], ["x", "X"], [4], "5", [7, None], ["", "Blank"]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1", "Good"), ("2", "Two"), ("x", "X"), ("x\u200b", "X"), ("4", ""), ("7", "")),
        *((text, None) for text in ("01", "१", " 1", "3", "5", "")),
    ],
)
def test_integer_of_a_list(text: str, value: object) -> None:
    assert convert("integer", text, list=CHOICES) == value


def test_a_list_is_translated_for_the_system_not_for_the_sender() -> None:
    fields = {"x": field("integer", "XX", list=CHOICES)}
    assert report(app_settings(fields), "J1!T!XX#1", locale="fr")["fields"] == {"x": "Good"}
    assert report(app_settings(fields) | {"locale": "fr"}, "J1!T!XX#2")["fields"] == {"x": "Deux"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("2", {"en": "Two", "fr": "Deux"}), ("x", "X"), ("\u200bx", "X")),
        *((text, text) for text in ("1", "3", "01", "a\u200bb", " ")),
    ],
)
def test_string_of_a_list(text: str, value: object) -> None:
    assert convert("string", text, list=CHOICES) == value


def test_a_labelled_number_is_no_text_of_a_list() -> None:
    fields = {"x": field("string", "XX", list=[[1, "One"], ["2", "Two"], [True, "Yes"]])}
    assert values(fields, "T XX 1") == {"x": "One"}
    assert values(fields, "T XX 2") == {"x": 2}
    assert codes(report(app_settings(fields), "T XX 2")) == []


@pytest.mark.parametrize("choices", [{}, "12", 5, True, [[]], [None]])
def test_a_list_that_is_none_holds_nothing(choices: object) -> None:
    assert convert("string", "1", list=choices) == "1"
    assert convert("integer", "1", list=choices) is None


@pytest.mark.parametrize("choices", [None, 0, "", False])
def test_a_falsy_list_is_no_list(choices: object) -> None:
    assert convert("integer", "1", list=choices) == 1


def test_string_is_left_as_it_is() -> None:
    assert convert("string", " a\u200bb५ ") == " a\u200bb५ "
    record = report(app_settings({"x": field("string", "XX")}), "T XX 712345678")
    assert record["fields"] == {"x": 712345678}
    assert messages(record) == ["x is no string"]


@pytest.mark.parametrize("key", ["patient_id", "place_id"])
def test_ids_are_texts(key: str) -> None:
    fields = {key: field("string", "ID")}
    assert values(fields, "T ID 12345678901234567890") == {key: "12345678901234567000"}
    assert values(fields, "T ID 1e3x") == {key: "1e3x"}
    assert values(fields, "1!T!१२\u200b३") == {key: "123"}
    assert values(fields, "T ID 5#ID 6 7#ID x") == {key: "5,[object Object],x"}
    assert values({f"a.{key}": field("string", "ID")}, "T ID 5") == {"a": {key: 5}}
    assert values({key: field("integer", "ID")}, "T ID 5") == {key: 5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, "+254712345678") for text in ("0712345678", "०७१२३४५६७८", "07123\u200b45678")),
        *(("x७", "x7"), ("12", "12"), ("", None)),
    ],
)
def test_phone_number(text: str, value: object) -> None:
    assert convert("phone_number", text) == value


def test_date() -> None:
    assert convert("date", "2021-04-09") == 1617926400000
    assert convert("date", "tomorrow") is None
    assert values({"d": field("date", "DD")}, "T DD 2021") == {"d": 2021}
    assert values({"d": field("date", "DD")}, "T DD 2021#DD 3#DD 9") == {"d": 1617926400000}


@pytest.mark.parametrize("kind", ["Integer", "text", "", None, 5, ["integer"]])
def test_other_types_leave_the_value_alone(kind: object) -> None:
    fields = {"x": {"type": kind, "labels": {"tiny": "XX"}}}
    assert values(fields, "1!T!५") == {"x": "५"}
    assert values(fields, "J1!T!YY#") == {}
    assert values(fields, "J1!T!XX#") == {"x": ""}


@pytest.mark.parametrize(
    ("kind", "text", "wrong"),
    [
        *(("integer", "1.5", True), ("integer", "1e2", False), ("integer", "1e999", False)),
        *(("string", "5", False), ("boolean", "2", False), ("complex", "x", True), ("date", "x", False)),
    ],
)
def test_values_of_the_wrong_type_are_stored_and_reported(kind: str, text: str, wrong: bool) -> None:
    record = report(app_settings({"x": field(kind, "XX")}), f"J1!T!XX#{text}")
    assert messages(record) == ([f"x is no {kind}"] if wrong else [])


@pytest.mark.parametrize(
    ("keys", "text", "expected"),
    [
        (["a.b", "a.c"], "1#2", {"a": {"b": "1", "c": "2"}}),
        (["a.b", "a.c"], "1", {"a": {"b": "1"}}),
        (["a", "a.b"], "1#2", {"a": "1"}),
        (["a.b", "a"], "1#2", {"a": "2"}),
        (["a.b", "a"], "1", {}),
        (["a.", ".b"], "1#2", {"a": {"": "1"}, "": {"b": "2"}}),
        (["b", "1", "0"], "1#2#3", {"0": "1", "1": "2", "b": "3"}),
        (["a" + ".b" * 1000, "c"], "1#2", {"c": "2"}),
    ],
)
def test_keys(keys: list[str], text: str, expected: dict[str, object]) -> None:
    assert values({key: field("") for key in keys}, f"1!T!{text}") == expected


@pytest.mark.parametrize(("kind", "answer"), [("integer", "0"), ("integer", "x"), ("date", "x"), ("boolean", "0")])
def test_a_falsy_value_makes_way_for_a_nested_one(kind: str, answer: str) -> None:
    assert values({"a": field(kind), "a.b": field("")}, f"1!T!{answer}#5") == {"a": {"b": "5"}}


def test_a_nested_value_never_gets_into_the_settings() -> None:
    choice = {"en": {"x": "y"}}
    fields = {"a": field("string", "AA", list=[["1", choice]]), "a.en.z": field("")}
    assert values(fields, "1!T!1#5") == {"a": {"en": {"x": "y", "z": "5"}}}
    assert choice == {"en": {"x": "y"}}

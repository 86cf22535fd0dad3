"""JSON values are seen as JavaScript sees them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.records.characters import fold, norm, trim
from cht_rapidpro.domain.records.javascript import (
    ABSENT,
    items,
    json_number,
    jsonable,
    number,
    same,
    text,
    truthy,
)

NO_NUMBERS: tuple[object, ...] = ("x", "1_0", "0x", "+0x1", "٥", "5\u0085", "infinity", ABSENT, {}, [1, 2])


@pytest.mark.parametrize("value", ["false", "no", "0", [], {}, 1, -1, 0.5, True, math.inf])
def test_true(value: object) -> None:
    assert truthy(value)


@pytest.mark.parametrize("value", [False, 0, 0.0, -0.0, math.nan, "", None, ABSENT])
def test_false(value: object) -> None:
    assert not truthy(value)


# The answers are those of Node.js 20.
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((5, "5"), (5.0, "5"), (-0.0, "0"), (-1.5, "-1.5"), (0.1, "0.1"), (1e21, "1e+21"), (1e20, "1" + "0" * 20)),
        *((1.5e300, "1.5e+300"), (1e-6, "0.000001"), (1e-7, "1e-7"), (-1.25e-9, "-1.25e-9"), (10**400, "Infinity")),
        *(
            (2**64, "18446744073709552000"),
            (math.nan, "NaN"),
            (-math.inf, "-Infinity"),
            (123456789.125, "123456789.125"),
        ),
        *((True, "true"), (False, "false"), (None, "null"), (ABSENT, "undefined"), ({}, "[object Object]")),
        *(([], ""), ([1, None, ABSENT, [2, ["x"]], {}], "1,,,2,x,[object Object]")),
    ],
)
def test_text(value: object, expected: str) -> None:
    assert text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(("", 0), (" \n", 0), (None, 0), ("5", 5), ("\ufeff5\u2029", 5), ("-.5e1", -5), ("0x" + "f" * 300, math.inf)),
        *(("-Infinity", -math.inf), (True, 1), ([], 0), (["7"], 7), (10**400, math.inf)),
        *((value, None) for value in NO_NUMBERS),
    ],
)
def test_number(value: object, expected: float | None) -> None:
    assert math.isnan(number(value)) if expected is None else number(value) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_being_written(value: float) -> None:
    assert number(text(value)) == value
    assert float(json.dumps(json_number(value))) == value


def test_whole_numbers_are_written_without_a_point() -> None:
    assert json.dumps(jsonable([5.0, -0.0, 1.5, 2.0**64])) == "[5, 0, 1.5, 18446744073709552000]"


def test_a_value_without_a_json_form_is_null() -> None:
    assert jsonable({"a": [math.nan, math.inf, ABSENT], "b": None}) == {"a": [None, None, None], "b": None}


def test_order_of_keys() -> None:
    keys = ["b", "10", "9", "01", "-1", "4294967295", "4294967294", "1.0", "0", "a"]
    ordered = ["0", "9", "10", "4294967294", "b", "01", "-1", "4294967295", "1.0", "a"]
    assert [key for key, _ in items(dict.fromkeys(keys))] == ordered
    assert list(items(["x", "y"])) == [("0", "x"), ("1", "y")]
    assert list(items("xy")) == []


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        *(("1", "1", True), (1, 1.0, True), ("1", 1, False), (1, True, False), (True, 1, False), (True, True, True)),
        *((None, None, True), (None, ABSENT, False), ([], [], False), (0, False, False), (math.nan, math.nan, False)),
    ],
)
def test_same(one: object, other: object, expected: bool) -> None:
    assert same(one, other) is expected


def test_nothing_is_too_deep() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert text(deep) == ""
    assert json.dumps(jsonable(deep)).count("[") < 100
    while deep:  # else its end would need as many calls
        deep = deep.pop()  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("é", "É"),
        ("ς", "Σ"),
        ("σ", "Σ"),
        ("k", "K"),
        ("ß", "ß"),
        ("\u212a", "\u212a"),
        ("µ", "Μ"),
        ("ﬁ", "ﬁ"),
        ("ı", "ı"),
    ],
)
def test_folded_alike(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@given(st.text())
def test_folding_keeps_places_and_never_makes_ascii(any_text: str) -> None:
    folded = fold(any_text)
    assert len(folded) == len(any_text)
    assert [a.isascii() for a in any_text] == [a.isascii() for a in folded]
    assert fold(folded) == folded


def test_blanks_and_digits() -> None:
    assert trim("\ufeff\u00a0\u3000x\u2028") == "x"
    assert trim("\u001cx\u0085") == "\u001cx\u0085"
    assert trim("\u200bx\u180e") == "\u200bx\u180e"
    assert norm("१\u200b२\ufeff٣\u2060") == "12٣\u2060"

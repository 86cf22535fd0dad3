"""What CHT makes of what few would think of; the answers are those of CHT 5.2.0's own code."""

import time
from typing import Any

import pytest

from cht_rapidpro.domain.records import ABSENT, Rules, Sms, build_record
from cht_rapidpro.domain.records.matching import MAX_STEPS, Effort, compile_expression, search
from tests.domain.records.reports import NOW, SENDER, TEXTS, app_settings, codes, field, report, values

DATE = {
    "lmp.year": field("bsYear", "y"),
    "lmp.month": field("bsMonth", "m"),
    "lmp.day": field("bsDay", "d"),
    "lmp_date": field("bsAggreDate", "x", required=True),
}
UNDER_A_DOT = {"year": field("bsYear", "y"), "lmp.date": field("bsAggreDate", "x", required=True)}


def test_a_date_is_aggregated_of_what_was_sent_under_dotted_keys() -> None:
    record = report(app_settings(DATE), "1!T!2080#3#2")
    assert record["fields"] == {"lmp": {"year": "2080", "month": "3", "day": "2"}, "lmp_date": 1686960000000}
    assert codes(record) == []
    assert values(DATE, "1!T!\u0968\u0966\u096e\u0966#3#2")["lmp_date"] == 1686960000000
    assert "lmp_date" not in values(DATE, "1!T!#3#2")


def test_a_date_that_is_aggregated_under_a_dotted_key_is_checked_and_not_stored() -> None:
    record = report(app_settings(UNDER_A_DOT), "1!T!2080")
    assert (record["fields"], codes(record)) == ({"year": "2080", "lmp": {}}, [])
    record = report(app_settings(UNDER_A_DOT), "1!T! ")
    assert (record["fields"], codes(record)) == ({"year": None, "lmp": {}}, ["sys.missing_fields"])
    record = report(app_settings(UNDER_A_DOT), "T y 2080")
    assert record["fields"] == {"year": "2080"}


@pytest.mark.parametrize(
    ("entry", "stored"),
    [
        (0, "0"),
        (False, "false"),
        (True, "true"),
        (7, "7"),
        (None, ""),
        ("", ""),
        ({"en": 0}, {"en": 0}),
        ({"en": 7}, 7),
    ],
)
def test_an_entry_of_a_list_that_is_no_text(entry: object, stored: object) -> None:
    assert values({"a": field("integer", "A", list=[[1, entry], [2, 1]])}, "1!T!1") == {"a": stored}


@pytest.mark.parametrize(
    ("label", "text", "expected"),
    [
        # a label is put before a character class, which a backslash or a bracket at its end spoils
        ("N\\", "T N\\ x", {"a": "N\\", "b": "x"}),
        ("[", "T 5 x", {}),
        ("N[", "T N5 x", {}),
        ("[^", "T b x", {"b": "x"}),
        # only a text can be the whole body
        ("7", "T 7", {}),
        ({"en": 7}, "T 7", {"a": "7"}),
        ({"en": 7}, "T 7 x", {}),
        (0, "T 0", {}),
        (0, "T 0 x", {}),
        (0, "J1!T!0#x", {}),
        ({"en": 0}, "J1!T!x#y", {}),
        ({"en": 7}, "J1!T!7#y", {"a": "y"}),
        # nothing of a list is looked up in the tables
        (["lbl.site"], "J1!T!lbl.site#y", {"a": "y"}),
        (["lbl.site"], "J1!T!SITE#y", {}),
        ("lbl.site", "J1!T!SITE#y", {"a": "y"}),
        (["lbl.site"], "T lbl.site y", {"a": "y"}),
    ],
)
def test_labels(label: object, text: str, expected: dict[str, Any]) -> None:
    assert values({"a": field("string", label), "b": field()}, text) == expected


def test_a_label_that_is_no_text_is_never_the_same_as_the_key() -> None:
    fields = {"true": field("string", {"en": True}), "b": field("string", "true")}
    assert values(fields, "T true x") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A#x\vy#B#z", {"a": "x"}),
        ("A#x\v\vB#z", {"a": "x"}),
        ("A\vx", {"a": "x"}),
        ("A#x\\#y\vB", {"a": "x#y"}),
    ],
)
def test_a_vertical_tab_splits_javarosa(text: str, expected: dict[str, str]) -> None:
    assert values({"a": field("string", "A"), "b": field("string", "B")}, f"J1!T!{text}") == expected


TEN = "abcdefghij"
SLOW = {
    "expressions": ({c: field("string", f"({c}+)+x|{c}.*b") for c in TEN}, "T " + "a" * 1600),
    "large classes": ({c: field("string", f"[{'bcdefghk' * 55}{c}]{{1,50}}x") for c in TEN}, "T " + "b" * 1600),
    "many ranges": ({c: field("string", "[" + "b-cd-e" * 70 + f"{c}]+x") for c in TEN}, "J1!T!" + "bbbb#1#" * 300),
    "many components": ({c: field("string", c) for c in TEN}, "T " + "a 1#" * 400),
    "many words": ({c: field("string", c) for c in TEN}, "T " + "a b\n" * 400 + "#"),
    "dates": ({c: field("date", c) for c in TEN}, "1!T!" + "#".join(["Apr (" * 40] * 10)),
    "long numbers": ({c: field("integer", c) for c in TEN}, "1!T!" + "#".join(["9" * 160] * 10)),
}


@pytest.mark.parametrize(("fields", "text"), SLOW.values(), ids=SLOW)
def test_no_record_takes_longer_than_50_ms(fields: dict[str, Any], text: str) -> None:
    """Of CPU time, the best of five: what the machine does besides does not count."""

    def once() -> float:
        start = time.process_time()
        build_record(Rules(settings, TEXTS), Sms(SENDER, text, "17", locale=ABSENT), NOW)
        return time.process_time() - start

    settings = app_settings(fields)
    assert min(once() for _ in range(5)) < 0.05


def test_a_look_into_a_class_costs_as_much_as_the_class_is_large() -> None:
    """Or ten thousand steps would be as many looks into classes of hundreds."""
    effort = Effort()
    program = compile_expression("^[" + "bc" * 200 + "]+x")
    assert program is not None
    search(program, "B" * 10, effort)
    assert MAX_STEPS - effort.left > 10 * 400

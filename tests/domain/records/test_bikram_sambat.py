"""Bikram Sambat dates become the Gregorian day that CHT's own converter names."""

import math
from datetime import date, timedelta

import pytest

from cht_rapidpro.domain.records import ABSENT
from cht_rapidpro.domain.records.bikram_sambat import MONTHS, to_gregorian
from tests.domain.records.reports import app_settings, codes, field, report, values


def gregorian(year: object, month: object, day: object) -> date | None:
    ms = to_gregorian(year, month, day)
    assert ms is None or not math.isnan(ms)
    return None if ms is None else date(1970, 1, 1) + timedelta(milliseconds=ms)


# The answers are those of the npm package bikram-sambat 1.8.1.
@pytest.mark.parametrize(
    ("year", "month", "day", "expected"),
    [
        ("1970", "1", "1", date(1913, 4, 13)),
        ("2075", "3", "2", date(2018, 6, 16)),
        ("2075", "03", "32", date(2018, 7, 16)),
        ("2078", "12", "30", date(2022, 4, 13)),
        ("2079", "1", "1", date(2022, 4, 14)),
        ("2090", "12", "30", date(2034, 4, 13)),
        ("2.075e3", " 3 ", "0x2", date(2018, 6, 16)),
        ("2075", ABSENT, "5", date(2018, 4, 18)),
        ("2075", "x", "5", date(2018, 4, 18)),
        ("2075", "1", "1.47", date(2018, 4, 14)),
        ("2075", "1", "1.48", date(2018, 4, 15)),
        *(
            (*nothing, None)
            for nothing in [("1969", "12", "30"), ("2091", "1", "1"), ("75", "1", "1"), ("x", "1", "1")]
        ),
        *((*nothing, None) for nothing in [("2075.5", "1", "1"), ("2075", "0", "1"), ("2075", "13", "1")]),
        *((*nothing, None) for nothing in [("2075", "1.5", "1"), ("2075", "", "1"), ("2075", None, "1")]),
        *((*nothing, None) for nothing in [("2075", "1", "0"), ("2075", "1", "32"), ("2075", "1", None)]),
        *((*nothing, None) for nothing in [(None, "1", "1"), (ABSENT, "1", "1"), ("2075", "1", "Infinity")]),
    ],
)
def test_day(year: object, month: object, day: object, expected: date | None) -> None:
    assert gregorian(year, month, day) == expected


@pytest.mark.parametrize("day", [ABSENT, "x"])
def test_a_day_that_is_no_number(day: object) -> None:
    moment = to_gregorian("2075", "1", day)
    assert moment is not None
    assert math.isnan(moment)
    assert to_gregorian("x", "1", day) is None


def test_every_day_follows_the_one_before() -> None:
    day = date(1913, 4, 13)
    for year, lengths in enumerate(MONTHS, start=1970):
        assert sum(lengths) in (365, 366)
        for month, length in enumerate(lengths, start=1):
            assert gregorian(year, month, 1) == day
            assert gregorian(year, month, length + 1) is None
            day += timedelta(days=length)
    assert len(MONTHS) == 121


@pytest.mark.parametrize(
    "text", ["2075-03-02", "2075/3/2", "2075.3.2", "2075x3x2", "२०७५-३-२", "2075-3-2-9", "2075 3 2"]
)
def test_any_separator(text: str) -> None:
    assert values({"d": field("bsDate")}, f"1!T!{text}") == {"d": 1529107200000}


@pytest.mark.parametrize(("text", "errors"), [("2075", []), ("2075-3", []), ("a-b-c", ["sys.missing_fields"])])
def test_a_date_without_a_day_is_null_but_not_missing(text: str, errors: list[str]) -> None:
    record = report(app_settings({"d": field("bsDate", required=True)}), f"1!T!{text}")
    assert record["fields"] == {"d": None}
    assert codes(record) == errors


def test_a_labelled_date_was_read_as_a_gregorian_one_before() -> None:
    fields = {"d": field("bsDate", "DD")}
    assert values(fields, "T DD 2075-03-02") == {"d": None}
    assert values(fields, "T DD 2075.3.2") == {"d": 1529107200000}


AGGREGATE = {
    "year": field("bsYear", "YR"),
    "month": field("bsMonth", "MO"),
    "day": field("bsDay", "DY"),
    "sum": field("bsAggreDate", "SM"),
}
YEAR_ONLY = {key: AGGREGATE[key] for key in ("year", "sum")}


@pytest.mark.parametrize(
    ("fields", "text", "expected"),
    [
        (AGGREGATE, "1!T!2075#3#2", 1529107200000),
        (AGGREGATE, "1!T!2075#3#2#2020-01-01", 1529107200000),
        (AGGREGATE, "1!T!२०७५#३#२", 1529107200000),
        (AGGREGATE, "1!T!2075#3#", None),
        (AGGREGATE, "T YR 2075#MO 3", None),
        (AGGREGATE, "T YR 2075#DY 5", 1524009600000),
        (AGGREGATE, "1!T!1969#3#2", None),
        (YEAR_ONLY, "1!T!2075", 1523664000000),
        (YEAR_ONLY, "1!T!0", None),
    ],
)
def test_aggregate(fields: dict[str, object], text: str, expected: int | None) -> None:
    found = values(fields, text)
    assert found["sum"] == expected
    assert "sum" in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1!T!#3#2", {"year": None, "month": "3", "day": "2"}),
        ("1!T!#3#2#", {"year": None, "month": "3", "day": "2", "sum": ""}),
        ("1!T!#3#2#sent", {"year": None, "month": "3", "day": "2", "sum": "sent"}),
        ("T MO 3#DY 2", {"month": "3", "day": "2"}),
    ],
)
def test_without_a_year_the_aggregate_is_what_was_sent(text: str, expected: dict[str, object]) -> None:
    assert values(AGGREGATE, text) == expected


def test_only_the_first_aggregate_and_the_last_year_count() -> None:
    fields = {"y1": field("bsYear"), "y2": field("bsYear"), "a": field("bsAggreDate"), "b": field("bsAggreDate")}
    assert values(fields, "1!T!2078#2075") == {"y1": "2078", "y2": "2075", "a": 1523664000000}

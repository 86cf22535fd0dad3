"""Dates are the moments that moment.js and JavaScript's own parser make of them."""

import math
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.records.dates import parse_date, read_date
from cht_rapidpro.domain.records.engine_dates import engine_date
from cht_rapidpro.domain.records.gregorian import day_number, week_number, weekday
from cht_rapidpro.domain.records.javascript import ABSENT

APRIL_9 = 1617926400000
HOUR = 3_600_000


# Beyond the vectors; the answers are those of moment 2.29.4 in Node.js 20.
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        # ISO 8601
        ("2021-04-09", APRIL_9),
        (" \n2021-04-09", APRIL_9),
        ("20210409", APRIL_9),
        ("2021-099", APRIL_9),
        ("2021099", APRIL_9),
        ("2021-W14-5", APRIL_9),
        ("2021W145", APRIL_9),
        ("2021-W14", APRIL_9 - 96 * HOUR),
        ("2021W14", APRIL_9 - 96 * HOUR),
        ("2021-04", APRIL_9 - 192 * HOUR),
        ("202104", APRIL_9 - 192 * HOUR),
        ("2021", 1609459200000),
        ("2020-W53-7", 1609632000000),
        ("2020-366", 1609372800000),
        ("0000-W01", -62167046400000),
        ("+002021-04-09", APRIL_9),
        ("+0020210409", APRIL_9),
        ("-000001-04-09", -62190288000000),
        ("+275760-09-13", 8640000000000000),
        ("2021-04-09T10", APRIL_9 + 10 * HOUR),
        ("2021-04-09 10:30", APRIL_9 + 10.5 * HOUR),
        ("2021-04-09T10:00:01.23456", APRIL_9 + 10 * HOUR + 1234),
        ("2021-04-09T10:00:01,5", APRIL_9 + 10 * HOUR + 1500),
        ("20210409T103000.5Z", APRIL_9 + 10.5 * HOUR + 500),
        ("2021099T1030", APRIL_9 + 10.5 * HOUR),
        ("2021-W14-5T10:30", APRIL_9 + 10.5 * HOUR),
        ("2021-04-09T24:00", APRIL_9 + 24 * HOUR),
        ("2021-04-09T10 Z", APRIL_9 + 10 * HOUR),
        ("2021-04-09T10+03", APRIL_9 + 7 * HOUR),
        ("2021-04-09T10:00-0330", APRIL_9 + 13.5 * HOUR),
        ("2021-04-09T10:00+24:00", APRIL_9 - 14 * HOUR),
        # RFC 2822
        ("Fri, 09 Apr 2021 08:00:00 +0300", APRIL_9 + 5 * HOUR),
        ("Fri 9 Apr 21 08:00 EST", APRIL_9 + 13 * HOUR),
        ("9 Apr 2021 (Easter) 08:00 UT", APRIL_9 + 8 * HOUR),
        ("9  Apr\n2021 08:00 z", APRIL_9 + 8 * HOUR),
        ("9 Apr 2021 08:00 +9999", APRIL_9 + 8 * HOUR - (99 * 60 + 99) * 60_000),
        ("9 Apr 49 00:00 GMT", 2501539200000),
        ("9 Apr 50 00:00 GMT", -622684800000),
        ("9 Apr 999 00:00 GMT", 29324937600000),
        # ASP.NET
        ("/Date(1617926400000)/", APRIL_9),
        ("date(-5", -5),
        # year, month and day for the engine
        ("2021-4-9", APRIL_9),
        (" 2021/04/09 ", APRIL_9),
        ("2021.4.09", APRIL_9),
        ("2021-2-30", 1614643200000),
    ],
)
def test_moment(text: str, moment: float) -> None:
    assert parse_date(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        *("2021-02-30", "2021-13-01", "2021-00-10", "2021-04-00", "2021-366", "2021-000", "2021-W53", "2021-W00"),
        *("2021-W15-0", "2021-W15-8", "2021-04-09T24:01", "2021-04-09T25", "2021-04-09T10:60", "2021-04-09T10:00:60"),
        *("+275760-09-14", "20210409T10:11", "2021-04-09T1011", "2021-W15T10", "2021-04-09+03:00"),
        *("Thu, 09 Apr 2021 08:00:00 GMT", "30 Feb 2021 08:00 GMT", "9 Apr 2021 24:00 GMT", "0 Apr 2021 08:00 GMT"),
        *("Date(9999999999999999", "", " ", "hello", "2021-4-32", "2021/13/1", "٢٠٢١-٠٤-٠٩"),
    ],
)
def test_no_moment(text: str) -> None:
    assert _is_nan(parse_date(text))


@pytest.mark.parametrize(
    "text", ["now", "2021-04-09 evening", "31/12/2021", "April", "9th April 2021", "9 Apr 2021 Fri"]
)
def test_a_text_that_no_parser_takes_is_no_date(text: str) -> None:
    assert _is_nan(parse_date(text))


@pytest.mark.parametrize("text", ["5", "hello 5", "09/04/2021", "9-4-21", "1.2", "9/4/2021 10:00", "4 (x)", "x" * 201])
def test_a_date_that_only_javascripts_engine_would_guess_is_none(text: str) -> None:
    """CHT reads the month first; where the field is required, the record says that the date is missing."""
    assert parse_date(text) is None


# The answers are those of Node.js 20, with TZ=UTC.
@pytest.mark.parametrize(
    ("text", "ms"),
    [
        *(
            (text, 0)
            for text in (
                "09-Apr-2021",
                "9APR2021",
                "9 April 2021",
                "Apr 9, 2021",
                "april 9 2021",
                "9.Apr.21",
                "2021 Apr 9",
                "2021-Apr-09",
                "Fri, 9 Apr 2021",
                "on 9 Aprilis 2021",
                "9/Apr/2021",
                "9 Apr (a Friday) 2021",
                "Apr-9-2021",
                "(x) Apr 9 2021",
                "9 APR 2021 00:00",
                "9 Apr 2021 12:00 AM",
                "9 Apr 2021 3:00 GMT+3",
                "9 Apr 2021 00:00:00 UTC",
                "2021/04/09",
                "2021.4.9",
                "2021/4/09 00:00",
                "2021-4-9 03:00 +0300",
            )
        ),
        ("9 Apr 2021 8:30 pm", 20 * HOUR + HOUR // 2),
        ("9 Apr 2021 24:00", 24 * HOUR),
        ("9 Apr 2021 08:30:15.5", 8 * HOUR + HOUR // 2 + 15_500),
        ("9 Apr 2021 08:00 EST", 13 * HOUR),
        ("9 Apr 2021 08:00 -0330", 11 * HOUR + HOUR // 2),
    ],
)
def test_dates_with_a_month_by_name_or_the_year_first(text: str, ms: int) -> None:
    assert parse_date(text) == APRIL_9 + ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Apr 2021", date(2021, 4, 1)),
        ("May 5", date(2001, 5, 5)),
        ("31 Feb 2021", date(2021, 3, 3)),
        ("9 Sept 99", date(1999, 9, 9)),
        ("32 May 9", date(2032, 5, 9)),
        ("9 Apr May 2021", date(2021, 5, 9)),
    ],
)
def test_named_months_with_less_or_more(text: str, expected: date) -> None:
    assert parse_date(text) == (expected - date(1970, 1, 1)).days * 24 * HOUR


# The answers are those of Node.js 20, with TZ=UTC.
@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("+002021-04-09", 1617926400000),
        ("+002021", 1609459200000),
        ("-000001-04-09", -62190288000000),
        ("+2021-04-09", 1617926400000),
        ("-2021-04-09", 1617926400000),
        ("-5 Apr 2021", 1617580800000),
        ("2021-04-09T10:00Z", 1617962400000),
        ("2021-04-09T10:00:01Z", 1617962401000),
        ("2021-04-09T10:00:01.5Z", 1617962401500),
        ("2021-04-09T10:00:01.23456+03:00", 1617951601234),
        ("2021-04-09T10:00+0330", 1617949800000),
        ("2021-04-09T10:00-0330", 1617975000000),
        ("2021-04-09T10:00-03:30", 1617975000000),
        ("2021-04-09T10:00", 1617962400000),
        ("2021-04-09T24:00Z", 1618012800000),
        ("2021T10:00Z", 1609495200000),
        ("2021-04T10:00z", 1617271200000),
        ("9 Apr 2021 10::5", 1617962405000),
        ("9 Apr 2021 10:30:15.25", 1617964215250),
        ("9 Apr 2021 10:30:15.25.5", 1617964215250),
        ("9 Apr 2021 10:30 +3", 1617953400000),
        ("9 Apr 2021 10:30 +3:30", 1617951600000),
        ("9 Apr 2021 10:30 +330", 1617951600000),
        ("9 Apr 2021 10:30 +0330", 1617951600000),
        ("9 Apr 2021 10:30 UTC+3", 1617953400000),
        ("9 Apr 2021 1:2:3:4:5", 1617930123004),
    ],
)
def test_the_engine_reads_signed_years_times_and_offsets(text: str, ms: int) -> None:
    assert engine_date(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2021-04-09T10:00:01.Z",
            "2021-04-09T10:00+24:00",
            "2021-04-09T10:00+2400",
            "2021-04-09T10:00+2360",
        ),
        *(
            "2021-04-09T10:00+03",
            "2021-04-09T24:01Z",
            "2021-04-09T25:00Z",
            "2021-04-09T10",
        ),
        *(
            "2021-04-09T10:60",
            "2021-04-09T10:00 Z",
            "2021-04-09T10:00Zx",
            "T10:00",
        ),
        *(
            "2021-13-01",
            "2021-04-32",
            "2021-04-x",
            "9 Apr 2021 10:30.5",
        ),
        *(
            "9 Apr 2021 10:30:15.x",
            "9 Apr 2021 10:30 +12345",
            "9 Apr 2021 10:30 +",
            "1 2 3 4 Apr 2021",
        ),
        *(
            "Apr",
            "April 9 2021 13:00 PM",
            "9 Apr 2021 10:5::6",
        ),
    ],
)
def test_the_engine_reads_no_time_or_offset_out_of_range(text: str) -> None:
    assert _is_nan(engine_date(text))


@pytest.mark.parametrize("text", ["-000000-04-09", "+12"])
def test_a_signed_number_that_is_no_year_is_left_to_the_engines_guess(text: str) -> None:
    assert engine_date(text) is None


@given(st.text(st.sampled_from("0123456789 -/.,:+()TZaprmayAMPM\0\u2028é")))
def test_the_engines_parser_never_raises(text: str) -> None:
    moment = engine_date(text)
    assert moment is None or math.isnan(moment) or moment == int(moment)


def _is_nan(moment: float | None) -> bool:
    return moment is not None and math.isnan(moment)


# The answers are those of Node.js 20.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-02-31", date(2021, 3, 3)),
        ("2021-04/9", date(2021, 4, 9)),
        ("0012-01-05", date(12, 1, 5)),
        ("0012-1-5", date(2005, 12, 1)),
        ("0001-13-32", date(2032, 1, 13)),
        ("0032-1-5", date(2032, 1, 5)),
        ("0049/1/1", date(2049, 1, 1)),
        ("0050/1/1", date(1950, 1, 1)),
        ("0100/1/1", date(100, 1, 1)),
        ("0000-1-1", date(2000, 1, 1)),
        ("0031-1-5", None),
        ("2021-1-0", None),
        ("2021-00-01", None),
        ("2021-04-32", None),
    ],
)
def test_the_engines_own_dates(text: str, expected: date | None) -> None:
    moment = engine_date(text)
    if expected is None:
        assert _is_nan(moment)
    else:
        assert moment == (expected - date(1970, 1, 1)).days * 24 * HOUR


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (2021, 2021),
        (5.9, 5),
        (-5.9, -5),
        ("2021\u200b-04-09", APRIL_9),
        # the values of a repeated label are year, month from 0, day and so on
        ([2021, 3, 9], APRIL_9),
        ([2021, 3], APRIL_9 - 192 * HOUR),
        (["2021x", " 3", 9.9, 10], APRIL_9 + 10 * HOUR),
        ([2021, 3, 9, 24], APRIL_9 + 24 * HOUR),
        ([2021, 3, 9, 10, 0, 0, 5, 99, "x"], APRIL_9 + 10 * HOUR + 5),
        ([5, 6], -61993728000000),
        ([-5, 1], -62322307200000),
        (["0x10", 1], -62164540800000),
        ([1e21, 3], -62127820800000),
    ],
)
def test_value(value: object, moment: float) -> None:
    assert read_date(value) == moment


@pytest.mark.parametrize(
    "value",
    [
        *([2021, 12], [2021, 3, 31], [2021, 3, 9, 24, 1], [2021, "x"], [2021, ABSENT], [1617926400000, 3]),
        *(10**16, math.inf, math.nan, 10**400, ["9" * 5000, 1], {}, True, None),
    ],
)
def test_value_that_is_no_moment(value: object) -> None:
    assert _is_nan(read_date(value))


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001
def test_written_dates_are_read_back(moment: datetime) -> None:
    expected = (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert parse_date(moment.isoformat(timespec="microseconds")) == expected
    assert parse_date(moment.strftime("%Y%m%dT%H%M%S").zfill(15)) == expected // 1000 * 1000


@given(st.dates())
def test_calendar(day: date) -> None:
    number = day_number(day.year, day.month, day.day)
    assert number == (day - date(1970, 1, 1)).days
    assert weekday(number) == day.isoweekday()
    year, week, weekday_ = day.isocalendar()
    assert week_number(year, week, weekday_) == number

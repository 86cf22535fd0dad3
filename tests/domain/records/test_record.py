"""The record has CHT's shape, errors in CHT's order, and the texts of the right locale."""

import pytest

from cht_rapidpro.domain.records import ABSENT, Rules, Sms, build_record, refusal
from tests.domain.records.reports import NOW, SENDER, TEXTS, app_settings, codes, field, messages, report

NO_TIME: tuple[object, ...] = (0, "", "0000000000000", "1970-01-01", "2021-02-30", "now", None, True, [], {})
FIELDS = {
    "a": field("integer", "AA"),
    "b": field("string", "BB", required=True),
    "c": field("string", "CC", required="false"),
}


def test_everything_in_its_place() -> None:
    settings = app_settings({"a": field("string", "AA")}, forms_only_mode=True)
    settings["forms"]["T"]["facility_reference"] = "a"
    sms = Sms("0712345678", "t x", "17", "2021-04-09", "fr")
    assert build_record(Rules(settings, TEXTS), sms, NOW) == {
        "type": "data_record",
        "from": SENDER,
        "form": "T",
        "errors": [],
        "tasks": [],
        "fields": {"a": "x"},
        "reported_date": 1617926400000,
        "sms_message": {
            "type": "sms_message",
            "message": "t x",
            "form": "T",
            "reported_date": "2021-04-09",
            "locale": "fr",
            "from": "0712345678",
            "gateway_ref": "17",
        },
        "refid": "X",
    }


def test_a_record_has_no_field_for_a_value_that_was_not_given() -> None:
    assert build_record(Rules({}, {}), Sms("KBC", "habari yako"), NOW) == {
        "type": "data_record",
        "from": "KBC",
        "errors": [],
        "tasks": [],
        "fields": {},
        "reported_date": NOW,
        "sms_message": {"type": "sms_message", "message": "habari yako", "form": "HABARI", "from": "KBC"},
    }


def test_null_is_given() -> None:
    record = build_record(Rules({}, {}), Sms(None, None, None, None, None), NOW)
    assert record["from"] is None
    assert record["sms_message"] == {
        "type": "sms_message",
        "message": None,
        "reported_date": None,
        "from": None,
        "gateway_ref": None,
    }


@pytest.mark.parametrize(
    ("sms", "expected"),
    [
        (Sms(ABSENT, ABSENT), "Missing required value: from"),
        (Sms(ABSENT, "x"), "Missing required value: from"),
        (Sms("x", ABSENT), "Missing required field: message"),
        (Sms("", ""), None),
        (Sms(None, 5), None),
    ],
)
def test_refusal(sms: Sms, expected: str | None) -> None:
    assert refusal(sms) == expected
    assert build_record(Rules({}, {}), sms, NOW)["type"] == "data_record"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1!T!1.5#x#y#z", ["a is no integer", "Too many"]),
        ("1!T!1.5##", ["a is no integer", "Please add b,c"]),
        ("1!T!1.5###", ["a is no integer", "Please add b,c", "Too many"]),
        ("T AA 5#CC x", ["Please add b"]),
        ("habari", ["Unknown: HABARI"]),
        (" ", ["Empty", "Unknown: "]),
        ("", ["Empty", "Unknown: "]),
        ("\ufeff", ["Empty", "Unknown: "]),
        ("\u200b", ["Unknown: \u200b"]),
        ("!", ["Unknown: "]),
        (None, ["Unknown: "]),
    ],
)
def test_errors(text: object, expected: list[str]) -> None:
    assert messages(report(app_settings(FIELDS, forms_only_mode=True), text)) == expected


def test_an_unknown_form_is_an_error_only_if_forms_are_all_that_is_wanted() -> None:
    assert messages(report(app_settings(FIELDS), "habari")) == []
    assert messages(report(app_settings(FIELDS), " ")) == ["Empty"]


def test_required_dates_and_dotted_keys() -> None:
    fields = {"d": field("date", "DD", required=True), "a.b": field("integer", "AB", required=True)}
    record = report(app_settings(fields), "1!T!x#1.5")
    assert record["fields"] == {"d": None, "a": {"b": 1.5}}
    assert messages(record) == ["Please add a.b"]


@pytest.mark.parametrize(
    ("text", "locale", "expected"),
    [
        ("1!T!fr", "en", "Ajoutez b"),
        ("1!T! ", "fr", "Ajoutez b"),
        ("1!T! ", ABSENT, "Please add b"),
        ("1!T!sw", "fr", "Please add b"),
        ("T LC 5#x", "fr", "Please add b"),
        # sent twice it is a list, which CHT takes for what the text may show
        ("T LC fr#LC fr", "fr", "Please add {{fields}}"),
    ],
)
def test_errors_are_in_the_records_locale(text: str, locale: object, expected: str) -> None:
    fields = {"locale": field("string", "LC", list=[["x", {}]]), "b": field("string", "BB", required=True)}
    assert messages(report(app_settings(fields), text, locale=locale)) == [expected]


@pytest.mark.parametrize(
    ("text", "sent", "error"),
    [
        ("09/04/2021", None, "Please add d"),
        ("5", None, "Please add d"),
        ("9 April 2021", 1617926400000, None),
        ("hello", None, None),
    ],
)
def test_a_date_that_cht_guesses_is_missing_where_it_is_required(text: str, sent: object, error: str | None) -> None:
    record = report(app_settings({"d": field("date", "DD", required=True)}), f"1!T!{text}")
    assert record["fields"] == {"d": sent}
    assert messages(record) == ([error] if error else [])


@pytest.mark.parametrize(
    ("kind", "text", "refid"),
    [
        ("string", "1!T!straße", "STRASSE"),
        ("string", "T BB x", ABSENT),
        ("string", "1!T!#", None),
        ("integer", "1!T!5", 5),
        ("date", "1!T!x", None),
        ("boolean", "1!T!1", True),
        ("string", "T AA a#AA b", ["a", "b"]),
    ],
)
def test_refid(kind: str, text: str, refid: object) -> None:
    settings = app_settings({"a": field(kind, "AA"), "b": field("string", "BB")})
    settings["forms"]["T"]["facility_reference"] = "a"
    assert report(settings, text).get("refid", ABSENT) == refid


@pytest.mark.parametrize("reference", ["", None, 0, "missing", "p.q", True, {}])
def test_no_refid(reference: object) -> None:
    settings = app_settings({"p.q": field("string", "PQ")})
    settings["forms"]["T"]["facility_reference"] = reference
    assert "refid" not in report(settings, "T PQ x")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        *((5, 5), (-1, -1), (1617926400.5, 1617926400.5), ("1617926400000", 1617926400000)),
        *(
            (" +1617926400000 ", 1617926400000),
            ("1617926400000.5", 1617926400000.5),
            ("0x1617926400000", 0x1617926400000),
        ),
        *(("2021-04-09T08:00:00Z", 1617955200000), ("Fri, 09 Apr 2021 08:00:00 GMT", 1617955200000)),
        *((sent, NOW) for sent in NO_TIME),
        *(
            (sent, NOW)
            for sent in ("1617926400000ms", "2021-04-09T08:00:00.1234567890123Z", "9" * 400, [1617926400000])
        ),
    ],
)
def test_sent_time(sent: object, expected: float) -> None:
    record = build_record(Rules({}, {}), Sms(SENDER, "x", "17", sent), NOW)
    assert record["reported_date"] == expected
    assert record["sms_message"]["reported_date"] is sent


@pytest.mark.parametrize("form", ["yes", True, 5, [], {}, {"fields": None}, {"fields": 0, "meta": None}])
def test_a_form_that_is_none_still_names_its_record(form: object) -> None:
    record = report({"forms": {"T": form}}, "1!T!x#y")
    assert (record["form"], record["fields"], codes(record)) == ("T", {}, [])


def test_a_list_of_fields_is_an_object_with_indices() -> None:
    assert report(app_settings([field("string", "AA"), field("integer", "BB")]), "T x 5")["fields"] == {
        "0": "x",
        "1": 5,
    }

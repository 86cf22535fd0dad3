"""TextForms texts lose their code and are labelled or compact, by what they begin with."""

import pytest

from tests.domain.records.reports import app_settings, field, report, values

FIELDS = {"site": field("string", "SIT"), "depth": field("integer", "DEP")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T Kilima 5", {"site": "Kilima", "depth": 5}),
        ("t:Kilima 5", {"site": "Kilima", "depth": 5}),
        ("  T - Kilima 5", {"site": "Kilima", "depth": 5}),
        ("T SIT Kilima#DEP 5", {"site": "Kilima", "depth": 5}),
        ("T sit Kilima", {"site": "Kilima"}),
        ("T SIT", {}),
        ("T SIT5", {"site": 5}),
        ("T SITE 5", {"site": "SITE", "depth": 5}),
        ("T Kilima 5#", {}),
        ("T", {}),
        ("T \n", {}),
    ],
)
def test_labelled_or_compact(text: str, expected: dict[str, object]) -> None:
    assert values(FIELDS, text) == expected


def test_a_leading_minus_is_lost_with_the_separators() -> None:
    assert values({"n": field("integer", "NN")}, "T -4") == {"n": 4}


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("WELL", "T Kilima 5", {"site": "T", "depth": None}),
        (None, "T 5", {"site": "T", "depth": 5}),
        (5, "T 5", {"site": "T", "depth": 5}),
        ("t", "T Kilima 5", {"site": "Kilima", "depth": 5}),
        ("T.", "T Kilima 5", {"site": "T", "depth": None}),
        ("", "T Kilima 5", {"site": "T", "depth": None}),
        ("", "-T 5", {}),
    ],
)
def test_the_code_in_the_forms_meta_is_taken_off_the_text(code: object, text: str, expected: dict[str, object]) -> None:
    assert report(app_settings(FIELDS, code=code), text)["fields"] == expected


def test_a_code_that_begins_with_blanks_is_taken_off() -> None:
    settings = app_settings(FIELDS, form=" WAIT", code=" WAIT")
    assert report(settings, "no! wait! please")["fields"] == {"site": "no!", "depth": None}


@pytest.mark.parametrize(
    ("text", "locale", "expected"),
    [
        ("T LIE 5", "fr", {"site": 5}),
        ("T LIE 5", "en", {"site": "LIE", "depth": 5}),
        ("T SIT 5", "fr", {"site": "SIT", "depth": 5}),
        ("T SIT 5", "sw", {"site": 5}),
        ("T SIT 5", "", {"site": 5}),
    ],
)
def test_labels_are_of_the_messages_locale(text: str, locale: str, expected: dict[str, object]) -> None:
    fields = {"site": field("", {"en": "SIT", "fr": "LIE"}), "depth": field("integer", "DEP")}
    assert values(fields, text, locale=locale) == expected


def test_a_short_label_makes_a_text_labelled_but_takes_no_value() -> None:
    fields = {"depth": {"type": "integer", "labels": {"tiny": "DEP", "short": "Deep"}}}
    assert values(fields, "T Deep 4") == {}
    assert values(fields, "T Deeper 4") == {"depth": None}


def test_the_code_between_exclamation_marks_stays_in_the_body() -> None:
    settings = app_settings(FIELDS)
    assert report(settings, "SIT a!T!b")["fields"] == {"site": "a!T!b"}
    assert report(settings, "1!T!")["fields"] == {"site": "1!T!"}

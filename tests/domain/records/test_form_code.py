"""The form code is the first word or what two exclamation marks enclose, and finds its form exactly."""

from collections.abc import Mapping
from typing import Any

import pytest

from cht_rapidpro.domain.records import Rules
from cht_rapidpro.domain.records.form_code import Reading, read_code
from cht_rapidpro.domain.records.javascript import ABSENT
from tests.domain.records.reports import app_settings, field, report

NO_FORMS: dict[str, Any] = {"forms": {}}


def read(settings: Mapping[str, Any], text: object) -> Reading:
    return read_code(Rules(settings, {}).find_form, text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("well a 5", "WELL"),
        ("  \t\u00a0well a", "WELL"),
        ("well-a", "WELL"),
        ("well,a", "WELL"),
        ("well:a", "WELL"),
        ("well#a", "WELL"),
        ("well!a", "WELL"),
        ("well.a b", "WELL.A"),
        ("straße 5", "STRASSE"),
        ("\u001cwell", "\u001cWELL"),
        ("1!well!x", "WELL"),
        ("no! wait! please", " WAIT"),
        ("1!!x", ""),
        ("", ABSENT),
        ("   ", ABSENT),
        ("-well", ABSENT),
        (" #well", ABSENT),
        (None, ABSENT),
        (5, ABSENT),
        (["well"], ABSENT),
    ],
)
def test_code(text: object, code: object) -> None:
    assert read(NO_FORMS, text).code == code


def test_a_form_is_found_by_its_exact_key() -> None:
    settings: dict[str, Any] = {"forms": {"WELL": {"fields": {}}, "hive": {"fields": {}}, "": {"fields": {}}}}
    assert read(settings, "well 5").form is not None
    assert read(settings, "1!!x").form is not None
    assert read(settings, "hive 5").form is None
    assert read(settings, "WELLS 5").form is None


@pytest.mark.parametrize(
    ("text", "code", "parsed"),
    [
        ("WE\u200bLL a 5", "WELL", "WELL a 5"),
        ("we\u200bll a 5", "WELL", "we\u200bll a 5"),
        ("1!WE\u200bLL!a", "WELL", "1!WELL!a"),
        ("\u200bWELL WELL", "WELL", "WELL WELL"),
    ],
)
def test_zero_width_characters_inside_the_code(text: str, code: str, parsed: str) -> None:
    reading = read({"forms": {"WELL": {"fields": {}}}}, text)
    assert (reading.code, reading.text) == (code, parsed)
    assert reading.form is not None


def test_an_unknown_code_keeps_its_zero_width_characters() -> None:
    assert read(NO_FORMS, "\u200bwell a") == Reading("\u200bWELL", None, "\u200bwell a")


@pytest.mark.parametrize("forms", [None, [], "WELL", 5, {"WELL": None}, {"WELL": 0}, {"WELL": ""}, {"WELL": False}])
def test_settings_without_the_form(forms: object) -> None:
    assert read({"forms": forms}, "WELL a").form is None


def test_the_message_keeps_the_sent_code_and_the_record_has_the_known_one() -> None:
    fields = {"a": field()}
    assert report(app_settings(fields), "t x")["form"] == "T"
    unknown = report(app_settings(fields), "habari yako")
    assert "form" not in unknown
    assert unknown["sms_message"]["form"] == "HABARI"
    strict = report(app_settings(fields, forms_only_mode=True), "habari yako")
    assert strict["form"] == "HABARI"
    nothing = report(app_settings(fields, forms_only_mode=True), "!")
    assert "form" not in nothing
    assert "form" not in nothing["sms_message"]

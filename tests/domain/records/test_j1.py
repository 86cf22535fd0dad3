"""J1 texts name their labels, which are matched as expressions in the system's locale."""

import pytest

from tests.domain.records.reports import app_settings, codes, field, report, values

FIELDS = {"site": field("", "SIT"), "depth": field("integer", "DEP")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SIT#Kilima#DEP#5", {"site": "Kilima", "depth": 5}),
        (" sit # Kilima #dep#5", {"site": " Kilima ", "depth": 5}),
        (r"SIT#a\#b#DEP#5", {"site": "a#b", "depth": 5}),
        ("SIT##DEP#5", {"site": "#DEP"}),
        ("#SIT#5", {}),
        ("SIT#a#SIT#b", {"site": "b"}),
        ("SIT#a#sit#b", {"site": "b"}),
        ("SIT#a#DEP", {"site": "a"}),
        ("SIT#", {"site": ""}),
        ("ZZ#a#DEP#5", {"depth": 5}),
        ("SIT5#a", {}),
        ("SIT#a!b", {"site": "a!b"}),
        ("DEP# ", {"depth": 0}),
    ],
)
def test_text(text: str, expected: dict[str, object]) -> None:
    record = report(app_settings(FIELDS), f"J1!T!{text}")
    assert record["fields"] == expected
    assert codes(record) == []


def test_the_header_may_be_small() -> None:
    assert values(FIELDS, "j1!T!SIT#a") == {"site": "a"}


def test_the_messages_locale_is_not_asked() -> None:
    fields = {"site": field("", {"en": "SIT", "fr": "LIE"})}
    assert values(fields, "J1!T!LIE#a", locale="fr") == {}
    assert values(fields, "J1!T!SIT#a", locale="fr") == {"site": "a"}


def test_one_label_may_fill_several_fields() -> None:
    fields = {"a": field("", "X"), "b": field("", "x"), "c": field("", "[xy]")}
    assert values(fields, "J1!T!X#1#Y#2") == {"a": "1", "b": "1", "c": "2"}


@pytest.mark.parametrize("tiny", ["", None, 0, {}])
def test_a_label_that_is_none(tiny: object) -> None:
    assert values({"a": field("", tiny)}, "J1!T!#5#x#6") == {}

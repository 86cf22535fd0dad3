"""What is wrong with form definitions is told, whatever they are; and a good one has nothing told of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.records.flaws import flaws
from demo.medic import SETTINGS


def form(**fields: object) -> dict[str, Any]:
    return {"forms": {"F": {"meta": {"code": "f"}, "fields": fields}}}


def field(tiny: object = "A", **more: object) -> dict[str, Any]:
    return {"labels": {"tiny": tiny, "short": "Apples"}, **more}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"forms": []}, "is no object"),
        ({"forms": {"f": {"meta": {"code": "F"}, "fields": {"a": field()}}}}, "not in capitals"),
        ({"forms": {"F": {"meta": {"code": "F"}}}}, "has no fields"),
        ({"forms": {"F": {"meta": {"code": "G"}, "fields": {"a": field()}}}}, "meta.code is 'G'"),
        ({"forms": {"F": {"fields": {"a": field()}}}}, "meta.code is None"),
        ({"forms": {"F": None}}, "has no fields"),
        (form(a=None), "field 'a' has no labels"),
        (form(a={"type": "string"}), "field 'a' has no labels"),
        (form(a=field("(")), "no expression"),
        (form(a=field(), b=field("a")), "fields 'a' and 'b' have the same label 'a'"),
        (form(aB=field("A1")), "can be written in a labelled text"),
    ],
)
def test_each_flaw_is_named(settings: dict[str, Any], says: str) -> None:
    assert any(says in what for _, what in flaws(settings)), list(flaws(settings))


@pytest.mark.parametrize(
    "settings",
    [{}, {"forms": None}, SETTINGS, form(a=field({"en": "A", "sw": "A"}), b=field("a.b")), form(a=field("A1"))],
)
def test_correct_settings_have_no_flaw(settings: dict[str, Any]) -> None:
    assert list(flaws(settings)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["fields", "meta", "code", "labels", "tiny", "short", "F", "a"]), inner, max_size=4
        )
    ),
    max_leaves=30,
)


@given(JSON)
def test_nothing_that_is_json_makes_it_raise(forms: object) -> None:
    assert all(what for _, what in flaws({"forms": forms}))

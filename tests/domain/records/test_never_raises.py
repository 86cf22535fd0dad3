"""Whatever the text, the form definition and the translations are: a record, soon, with the original text."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cht_rapidpro.domain.records import ABSENT, Rules, Sms, build_record, read_translations
from tests.domain.records.reports import NOW, app_settings, field

TYPES = (
    *("integer", "string", "date", "bsDate", "bsYear", "bsMonth", "bsDay", "bsAggreDate", "boolean", "month"),
    *("phone_number", "complex", "colour"),
)
LABELS = ("AA", "B", "a.b", "A|B", "(", "[a-", "A{2}", "lbl.site", "", "É", "(a+)+b", "x*", "{{AA}}", "\\", "[^]")
PIECES = (
    *(
        "T",
        "1!T!",
        "J1!T!",
        "2!T!",
        "#",
        "!",
        " ",
        "\n",
        "-",
        '"',
        "\\#",
        "AA",
        "BB",
        "a.b",
        "B",
        "5",
        "1.5",
        "0",
        "२०७५",
    ),
    *(
        "2021-04-09",
        "2075.3.2",
        "2021-02-30",
        "0712345678",
        "\u200b",
        "\ufeff",
        "\u2028",
        "é",
        "\ud83d",
        "1" * 400,
        "x",
    ),
)

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(LABELS + TYPES)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
keys = st.sampled_from(["a", "b", "a.b", "a.", "", "1", "0", "locale", "patient_id", "_extra_fields", "aa"]) | st.text(
    max_size=4
)
labels = (
    st.sampled_from(LABELS) | st.fixed_dictionaries({}, optional={"en": scalars, "translations": anything}) | anything
)
choices = st.lists(st.tuples(scalars, anything).map(list), max_size=4) | anything
definitions = (
    st.fixed_dictionaries(
        {"type": st.sampled_from(TYPES) | anything},
        optional={
            "labels": st.fixed_dictionaries({}, optional={"tiny": labels, "short": labels}) | anything,
            "list": choices,
            "required": scalars,
        },
    )
    | anything
)
forms = (
    st.fixed_dictionaries(
        {"fields": st.dictionaries(keys, definitions, max_size=6) | anything},
        optional={
            "meta": st.fixed_dictionaries({"code": st.sampled_from(["T", "t", "", " T"]) | anything}) | anything,
            "facility_reference": keys | anything,
        },
    )
    | anything
)
all_settings = st.fixed_dictionaries(
    {"forms": st.fixed_dictionaries({"T": forms, "": forms}) | anything},
    optional={
        "locale": scalars,
        "forms_only_mode": scalars,
        "default_country_code": scalars,
        "phone_validation": scalars,
    },
)
translations = st.dictionaries(
    st.sampled_from(["en", "fr", "T"]), st.dictionaries(st.sampled_from(LABELS), scalars) | scalars
)
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text()
given_values = anything | st.just(ABSENT)


def check(app: Any, tables: Any, sms: Sms) -> None:
    record = build_record(Rules(app, tables), sms, NOW)
    message = record["sms_message"]
    assert message.get("message", ABSENT) is sms.message
    assert message.get("from", ABSENT) is sms.sender
    assert record["type"] == "data_record"
    assert isinstance(record["fields"], dict)
    assert all(error.keys() == {"code", "message"} and isinstance(error["message"], str) for error in record["errors"])
    json.dumps({**record, "from": None, "reported_date": None, "sms_message": None}, allow_nan=False)


@settings(max_examples=400)
@given(app=all_settings, tables=translations, text=texts, locale=given_values)
def test_any_text_for_any_form(app: dict[str, Any], tables: Any, text: str, locale: object) -> None:
    check(app, tables, Sms("0712345678", text, "17", locale=locale))


@settings(max_examples=100)
@given(sender=given_values, message=given_values, ref=given_values, sent=given_values | texts, locale=given_values)
def test_any_sms(sender: object, message: object, ref: object, sent: object, locale: object) -> None:
    check(app_settings({"a": field("", "AA")}), {}, Sms(sender, message, ref, sent, locale))


@settings(max_examples=100)
@given(st.dictionaries(st.text(max_size=4), anything, max_size=3), texts)
def test_any_settings(app: dict[str, Any], text: str) -> None:
    check(app, {}, Sms("0712345678", text))


@settings(max_examples=100)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.just("translations"), "code": scalars},
            optional={
                name: st.dictionaries(keys, scalars | st.just("${a}${b}")) | anything for name in ("generic", "custom")
            },
        )
    )
)
def test_any_translation_documents(docs: list[dict[str, Any]]) -> None:
    check(app_settings({"a": field("", "AA")}), read_translations(docs), Sms("0712345678", "T a b"))


def nested(depth: int) -> Any:
    value: Any = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"en": value}
    return value


@pytest.mark.parametrize("text", ["T x", "T AA 5#a 6", "1!T!x", "1!T!1#2", "J1!T!AA#5"])
def test_deep_definitions(text: str) -> None:
    deep = nested(900)
    fields: dict[str, Any] = {"a": field("string", deep, short=deep, list=[["1", deep], [deep, "1"]]), "b": deep}
    check(
        app_settings(fields | {"c" + ".c" * 5000: field("", "AA")}),
        {"en": {"x": deep}},
        Sms(SENDER_DEEP, text, locale=deep),
    )


SENDER_DEEP = nested(100)

N = 64_000
LONG = [
    *(
        "a" * N,
        "T " + "a" * N,
        "T " + "a\n" * (N // 2),
        "T " + ".a" * (N // 2) + "\né",
        "T " + "a" * N + "\né",
        " " * N,
    ),
    *(
        "T " + "AA 1#" * (N // 5),
        "T AA " + "1" * N,
        "T AA" + "-" * N + "\nx",
        "T AA 2021-01-01" + " " * N + "\nx",
        "!" * N,
    ),
    *(
        "T " + '"' * N,
        "T " + '" ' * (N // 2),
        "T " + '"a' * (N // 2),
        "T " + "x " * N,
        "T " + "9" * N + "x",
        "\u200b" * N,
    ),
    *("1!T!" + "#" * N, "1!T!" + "9" * N, "1!T!0x" + "f" * N, "1!T!" + " " * N + "5", "1!T!#" + "(" * N, "é" * N),
    *("1!T!" + "#".join(["1" * (N // 13)] * 13), "1!T!" + "#".join(["2021-01-01T" + "1" * (N // 13)] * 13)),
    *("J1!T!" + "".join(f"L{number}#1#" for number in range(N // 7)), "1!T!" + "#".join([" \n" * (N // 26)] * 13)),
]


@pytest.mark.parametrize("text", LONG, ids=lambda text: f"{text[:12]!r}..{text[-4:]!r}")
def test_no_text_takes_long(text: str) -> None:
    """As long as a webhook may be. Some take years where an engine backtracks, and all a tenth of a second here."""
    fields = {kind: field(kind, "(a+)+b" if kind == "string" else f"L.{kind}") for kind in TYPES}
    started = time.process_time()
    check(app_settings(fields), {}, Sms("0712345678", text))
    assert time.process_time() - started < 5

"""One message id is one `_id`, whatever brings it; and what is no message is refused."""

import json
import math
import re
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.incoming import (
    Arrival,
    doc_id,
    id_text,
    is_legacy,
    is_of,
    is_repetition,
    legacy_keys,
    read_arrival,
    second_id,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
IDS = st.text(min_size=1) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
OURS = re.compile(r"rapidpro-sms:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
NO_IDS: list[object] = ["", 0, 0.0, None, True, False, [], {}, math.inf, -math.inf, math.nan]
NO_TEXTS: list[object] = ["", 1, None, True, ["x"]]
NO_BODIES: list[object] = [None, [], "text", 3, {}]
RUN = "0192AAAA-0000-7000-8000-00000000000f"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"id": "a", "from": "+254712345678", "content": "hi"}, Arrival("a", "+254712345678", "hi", 7)),
        ({"id": 41, "from": 254712345678, "content": " "}, Arrival(41, 254712345678, " ", 7)),
        ({"id": 0.5, "from": "x", "content": "\ud83d!", "more": 1}, Arrival(0.5, "x", "\ufffd!", 7)),
        ({"id": "\udc00", "from": "\udc00", "content": "😀"}, Arrival("\ufffd", "\ufffd", "😀", 7)),
        ({"id": 10**30, "from": -1, "content": "0"}, Arrival(10**30, -1, "0", 7)),
        *(({"id": bad, "from": "x", "content": "x"}, "id") for bad in NO_IDS),
        *(({"id": "x", "from": bad, "content": "x"}, "from") for bad in NO_IDS),
        *(({"id": "x", "from": "x", "content": bad}, "content") for bad in NO_TEXTS),
        ({"id": "x", "content": "x"}, "from"),
        *((bad, "id") for bad in NO_BODIES),
    ],
)
def test_a_body_is_a_message_or_names_what_is_wrong(body: object, expected: Arrival | str) -> None:
    assert read_arrival(body, 7) == expected


@given(JSON)
def test_reading_never_raises(body: Any) -> None:
    assert isinstance(read_arrival(body, 0), str)


@given(IDS, st.text(min_size=1))
def test_every_id_has_two_ids_that_couchdb_and_cht_take(given_id: str | int | float, content: str) -> None:
    first, second = doc_id(given_id), second_id(given_id, content)
    assert OURS.fullmatch(first)
    assert OURS.fullmatch(second)
    assert first != second
    assert not first.endswith("-info")


@given(st.text(st.characters()), st.text(st.characters()))
def test_two_texts_are_two_ids(one: str, other: str) -> None:
    assert (doc_id(one) == doc_id(other)) == (id_text(one) == id_text(other))
    assert second_id("x", one) != second_id("x" + one, "") or not one


@given(st.uuids())
def test_a_uuid_stays_readable_and_in_its_order(uuid: UUID) -> None:
    assert doc_id(str(uuid)) == doc_id(str(uuid).upper()) == f"rapidpro-sms:{uuid}"


@pytest.mark.parametrize(
    ("one", "other"),
    [(41, "41"), (41.0, 41), (-3, "-3"), ("\ud800", "\udfff"), (RUN, RUN.lower()), (10**30, "1" + "0" * 30)],
)
def test_one_id_in_two_spellings(one: str | int, other: str | int) -> None:
    assert doc_id(one) == doc_id(other)


@pytest.mark.parametrize(
    ("one", "other"), [("41", "041"), ("41", " 41"), (0.5, "5"), (f"{RUN} ", RUN), (f"{{{RUN}}}", RUN), ("٤١", "41")]
)
def test_two_ids_that_look_alike(one: str | float, other: str | float) -> None:
    assert doc_id(one) != doc_id(other)


def test_the_ids_never_change() -> None:
    """They are in databases: a new version that computed others would store everything again."""
    assert doc_id(41) == "rapidpro-sms:fc4ac38e-a88b-53ae-b0e8-51482bada6a7"
    assert second_id(41, "hi") == "rapidpro-sms:c600eb21-021e-516d-9558-02d305cafd86"


@pytest.mark.parametrize(
    ("given_id", "keys"),
    [
        ("41", ["41", 41]),
        (41, ["41", 41]),
        ("041", ["041"]),
        ("٤١", ["٤١"]),
        (RUN, [RUN]),
        (0.5, ["0.5", 0.5]),
        ("9" * 20, ["9" * 20]),
    ],
)
def test_the_keys_of_the_old_gateway(given_id: str | int | float, keys: list[object]) -> None:
    assert json.dumps(legacy_keys(given_id)) == json.dumps(keys)


def stored(content: object, sender: object, **more: object) -> dict[str, Any]:
    return {"_id": "x", "from": sender, "sms_message": {"message": content, "from": sender}, **more}


@pytest.mark.parametrize(
    ("doc", "same"),
    [
        (stored("hello", "+254712345678"), True),
        (stored("hello", 254712345678), True),
        (stored(" hello\n", "+254 712 345 678"), True),
        (stored("hello!", "+254712345678"), False),
        (stored("hello", "+254712345679"), False),
        (stored("hello", "SHORTCODE"), False),
        ({"_id": "x", "from": "+254712345678", "sms_message": {"message": "hello"}}, True),
        ({"_id": "x"}, True),
        ({"_id": "x", "sms_message": "made another thing of"}, True),
    ],
)
def test_whether_a_document_is_of_a_message(doc: dict[str, Any], same: bool) -> None:
    assert is_of(doc, Arrival("id", "+254712345678", "hello", 0)) == same


def test_whether_two_arrivals_are_one() -> None:
    first = Arrival("id", "+254712345678", "hello", 0)
    assert is_repetition(first, Arrival("id", 254712345678, "hello ", 9))
    assert not is_repetition(first, Arrival("id", 254712345678, "hullo", 0))
    assert not is_repetition(first, Arrival("id", "M-PESA", "hello", 0))
    assert is_repetition(Arrival("id", "M-PESA", "x", 0), Arrival("id", "M-PESA", "x", 0))


def test_what_the_view_of_refs_shows_of_the_old_gateway() -> None:
    assert is_legacy(stored("hello", "+254712345678"))
    assert not is_legacy(stored("hello", "+254712345678", _id=doc_id("41")))
    assert not is_legacy({"_id": "report", "tasks": [{"gateway_ref": "41"}]})

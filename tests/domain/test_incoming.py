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
    DAY,
    InboundMessage,
    days_around,
    doc_id,
    former_id,
    id_text,
    is_incoming,
    is_near_midnight,
    is_of,
    legacy_keys,
    read_arrival,
    second_id,
    shown_id,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
IDS = st.text(min_size=1) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
OURS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NO_IDS: list[object] = ["", 0, 0.0, None, True, False, [], {}, math.inf, -math.inf, math.nan]
NO_TEXTS: list[object] = ["", 0, None, True, ["x"], math.nan, {"x": "y"}]
NO_BODIES: list[object] = [None, [], "text", 3, {}]
AT = 1_795_334_400_000  # 08:00 UTC
TODAY = "01a20200-0000-7000-8000-00000000000f"
RUN = "0192AAAA-0000-7000-8000-00000000000f"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"id": "a", "from": "+254712345678", "content": "hi"}, InboundMessage("a", "+254712345678", "hi", 7)),
        ({"id": 41, "from": 254712345678, "content": " "}, InboundMessage(41, 254712345678, " ", 7)),
        ({"id": 0.5, "from": "x", "content": "\ud83d!", "more": 1}, InboundMessage(0.5, "x", "\ufffd!", 7)),
        ({"id": "\udc00", "from": "\udc00", "content": "😀"}, InboundMessage("\ufffd", "\ufffd", "😀", 7)),
        ({"id": "x", "from": "y", "content": 12.5}, InboundMessage("x", "y", 12.5, 7)),
        ({"id": 10**30, "from": -1, "content": "0"}, InboundMessage(10**30, -1, "0", 7)),
        *(({"id": bad, "from": "x", "content": "x"}, "id") for bad in NO_IDS),
        *(({"id": "x", "from": bad, "content": "x"}, "from") for bad in NO_IDS),
        *(({"id": "x", "from": "x", "content": bad}, "content") for bad in NO_TEXTS),
        ({"id": "x", "content": "x"}, "from"),
        *((bad, "id") for bad in NO_BODIES),
    ],
)
def test_a_body_is_a_message_or_names_what_is_wrong(body: object, expected: InboundMessage | str) -> None:
    assert read_arrival(body, 7) == expected


@given(JSON)
def test_reading_never_raises(body: Any) -> None:
    assert isinstance(read_arrival(body, 0), str)


@given(IDS, st.text(min_size=1), st.integers(0, 2**48))
def test_every_id_has_two_ids_that_couchdb_and_cht_take(given_id: str | int | float, content: str, at: int) -> None:
    first, second = doc_id(given_id, at), second_id(InboundMessage(given_id, "+1", content, at))
    assert OURS.fullmatch(first)
    assert OURS.fullmatch(second)
    assert first != second


@given(st.text(st.characters()), st.text(st.characters()))
def test_two_texts_are_two_ids(one: str, other: str) -> None:
    assert (doc_id(one, AT) == doc_id(other, AT)) == (id_text(one) == id_text(other))


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**48))
def test_a_time_ordered_uuid_is_the_id_whenever_it_comes(data: bytes, at: int) -> None:
    uuid = UUID(bytes=data, version=4).hex
    given_id = str(UUID(f"{uuid[:12]}7{uuid[13:]}"))
    assert doc_id(given_id, at) == doc_id(given_id.upper(), at) == given_id


@given(st.uuids(version=4) | st.uuids(version=1) | IDS, st.integers(0, 2**48), st.integers(0, 2**48))
def test_every_other_id_sorts_by_its_day(given_id: UUID | str | float, one: int, other: int) -> None:
    """CHT words its replies after the first registration in the order of the ids."""
    text = str(given_id) if isinstance(given_id, UUID) else given_id
    days = one // DAY, other // DAY
    ids = doc_id(text, one), doc_id(text, other)
    assert (ids[0] == ids[1], ids[0] < ids[1]) == (days[0] == days[1], days[0] < days[1])
    assert int(ids[0].replace("-", "")[:12], 16) == days[0] * DAY


def test_a_uuid_that_only_looks_like_version_7_is_hashed() -> None:
    for bad in (RUN.replace("-8", "-c"), RUN + "0", "{" + RUN + "}", RUN.replace("-", ""), RUN + "\n"):
        assert doc_id(bad, AT) != bad.lower()
        assert doc_id(bad, AT).startswith("01a2008d-7400-7"), "the day of arrival"


@pytest.mark.parametrize(
    ("one", "other"),
    [(41, "41"), (41.0, 41), (-3, "-3"), ("\ud800", "\udfff"), (RUN, RUN.lower()), (10**30, "1" + "0" * 30)],
)
def test_one_id_in_two_spellings(one: str | int, other: str | int) -> None:
    assert doc_id(one, AT) == doc_id(other, AT)


@pytest.mark.parametrize(
    ("one", "other"), [("41", "041"), ("41", " 41"), (0.5, "5"), (f"{RUN} ", RUN), (f"{{{RUN}}}", RUN), ("٤١", "41")]
)
def test_two_ids_that_look_alike(one: str | float, other: str | float) -> None:
    assert doc_id(one, AT) != doc_id(other, AT)


def test_the_ids_never_change() -> None:
    """They are in databases: a new version that computed others would store everything again."""
    assert doc_id(41, AT) == "01a2008d-7400-7d91-8f93-48c9cc0ff8a7"
    assert second_id(InboundMessage(41, "+254712345678", "hi", AT)) == "01a2008d-7400-7fcd-bd48-a2cbf3a57327"
    assert second_id(InboundMessage(RUN, "+254712345678", "hi", AT)) == "01a2008d-7400-775d-83e0-1306273754f3"
    assert former_id(41) == "rapidpro-sms:fc4ac38e-a88b-53ae-b0e8-51482bada6a7"
    assert former_id(RUN) == f"rapidpro-sms:{RUN.lower()}"


def test_the_second_id_knows_id_sender_and_content() -> None:
    arrivals = [
        InboundMessage(given_id, sender, content, AT)
        for given_id in ("a", "b")
        for sender in ("+254712345678", "+254712345679", "M-PESA")
        for content in ("YES", "NO")
    ]
    assert len(set(map(second_id, arrivals))) == len(arrivals)
    alike = [InboundMessage("a", "+254712345678", "YES", AT), InboundMessage("a", 254712345678, " YES\n", AT + 1)]
    assert second_id(alike[0]) == second_id(alike[1])


def test_the_second_id_sorts_with_the_first() -> None:
    """Not before what has the id itself, and by its own day on a later one."""
    second = second_id(InboundMessage(TODAY, "+1", "x", AT))
    assert TODAY[:14] < second < doc_id("a", AT + DAY)
    assert second_id(InboundMessage(TODAY, "+1", "x", AT + DAY)) > doc_id("a", AT + DAY)[:13]
    far = "ffffffff-ffff-7000-8000-00000000000f"
    assert second_id(InboundMessage(far, "+1", "x", AT)) < doc_id("a", AT + DAY), "a time of the future is not believed"


@given(IDS, st.integers(8 * DAY, 2**47), st.integers(0, 7))
def test_a_repetition_looks_where_the_first_one_is(given_id: str | int | float, at: int, days: int) -> None:
    first, again = InboundMessage(given_id, "+1", "x", at), InboundMessage(given_id, "+1", "x", at + days * DAY)
    assert doc_id(first.id, first.at) in {doc_id(each.id, each.at) for each in days_around(again, later=1)}
    assert doc_id(again.id, again.at) in {doc_id(each.id, each.at) for each in days_around(first, later=7)}
    assert days_around(first, later=1)[0] == first


@pytest.mark.parametrize(("minutes", "near"), [(0, True), (10, True), (11, False), (720, False), (1430, True)])
def test_a_message_within_ten_minutes_of_midnight_is_near_midnight(minutes: int, near: bool) -> None:
    assert is_near_midnight(InboundMessage("a", "+1", "x", 20_000 * DAY + minutes * 60_000)) == near


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
    assert is_of(doc, InboundMessage("id", "+254712345678", "hello", 0)) == same


@pytest.mark.parametrize(
    ("given_id", "shown"),
    [
        (RUN, RUN),
        (41, "41"),
        ("41", "41"),
        ("", "(0 characters)"),
        ("YES", "(3 characters)"),
        ("254712345678", "(12 characters)"),
        ("my child is ill " * 1000, "(16000 characters)"),
        (f"{RUN} and more", "(45 characters)"),
        ("٤١", "(2 characters)"),
        (0.5, "(3 characters)"),
    ],
)
def test_the_log_shows_an_id_or_only_its_length(given_id: str | float, shown: str) -> None:
    assert shown_id(given_id) == shown


def test_a_row_of_the_view_of_refs_is_incoming_if_it_holds_an_sms() -> None:
    assert is_incoming(stored("hello", "+254712345678"))
    assert not is_incoming({"_id": "report", "tasks": [{"gateway_ref": "41"}]})

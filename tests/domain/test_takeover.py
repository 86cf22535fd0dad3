"""When another gateway is taken over from, what it may have sent, and whose a gateway_ref is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.outgoing import BroadcastId, SmsIdentity, Urn, comparable, escape
from cht_rapidpro.domain.reconcile import Listed, read_listed
from cht_rapidpro.domain.takeover import FreeBroadcasts, Sender, foreign, is_takeover, read_sender, written

URN = Urn("tel:+254712345678")
CLAIM = {
    "state": "forwarded-to-gateway",
    "state_details": f"Claimed by cht-rapidpro {'0' * 32} on here",
    "timestamp": "2026-11-22T07:00:00.000Z",
}


@pytest.mark.parametrize(
    ("last", "revision", "expected"),
    [
        (None, 1, True),
        (Sender(False, 5), 6, True),
        (Sender(True, 5), 5, False),
        (Sender(True, 5), 6, False),
        (Sender(True, 5), 7, True),
        (Sender(True, 5), 4, True),
        (Sender(True, None), 40, False),
        (Sender(True, 5, is_open=True), 5, True),
    ],
    ids=["first start", "another one", "restart", "one edit", "two edits", "a backup", "unknown", "unfinished"],
)
def test_when_another_gateway_may_have_sent(last: Sender | None, revision: int, expected: bool) -> None:
    assert is_takeover(last, revision) is expected


@given(st.booleans(), st.none() | st.integers(0, 10**6), st.integers(0, 10**13), st.booleans())
def test_the_file_holds_what_was_written(ours: bool, revision: int | None, since: int, is_open: bool) -> None:
    sender = Sender(ours, revision, since, is_open)
    assert read_sender(written(sender)) == sender


@given(st.text() | st.sampled_from(["[]", "{}", "null", '{"sender": 1}', '{"settings_revision": "x", "since": 1}']))
def test_any_other_file_is_none(text: str) -> None:
    assert read_sender(text) is None


def listed(number: int, text: str, *urns: str, at: int = 1000, hides: bool = False) -> Listed:
    return Listed(BroadcastId(str(number)), None if hides else urns, text, at, "queued")


def test_a_message_may_have_been_sent_where_a_free_broadcast_is_like_it() -> None:
    free = FreeBroadcasts([listed(1, "a", URN), listed(2, "a", URN, at=5000)], frozenset({(BroadcastId("1"), URN)}))
    assert free.newest(SmsIdentity(URN, "a")) == 5000
    assert free.newest(SmsIdentity(Urn("tel:0712345678"), "a")) == 5000
    assert free.newest(SmsIdentity(URN, "b")) is None
    assert free.newest(SmsIdentity(Urn("tel:+254700000000"), "a")) is None


def test_one_that_a_task_has_is_no_sign() -> None:
    assert not FreeBroadcasts([listed(1, "a", URN)], frozenset({(BroadcastId("1"), URN)})).may_have("a")


def test_where_numbers_are_hidden_the_text_is_enough() -> None:
    free = FreeBroadcasts([listed(1, "a", hides=True)], frozenset())
    assert free.newest(SmsIdentity(URN, "a")) == 1000


@given(st.text(alphabet="a@ ", max_size=8))
def test_an_at_sign_is_found_however_it_was_posted(text: str) -> None:
    rows = [
        read_listed({"id": 1, "created_on": "2026-11-22T07:00:00Z", "text": posted})
        for posted in (text.strip(), escape(text).strip())
    ]
    texts = {row.text for row in rows if row}
    assert texts == {SmsIdentity(URN, escape(text).strip()).listed_text} == {comparable(text).strip()}
    free = FreeBroadcasts([row for row in rows if row], frozenset())
    assert free.may_have(text)


def task(ref: object, *entries: dict[str, Any], state: str = "received-by-gateway") -> dict[str, Any]:
    message = {"uuid": "u", "to": "+254712345678", "message": "hello"}
    return {"messages": [message], "state": state, "gateway_ref": ref, "state_history": list(entries)}


PENDING = {"state": "pending", "timestamp": "2026-11-22T06:00:00.000Z"}
QUEUED = {"state": "received-by-gateway", "state_details": "Queued", "timestamp": "2026-11-22T08:00:00.000Z"}
WIRED = {"state": "forwarded-by-gateway", "state_details": "Wired", "timestamp": "2026-11-22T09:00:00.000Z"}
AT_EIGHT = 1_795_334_400_000


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (task(17, PENDING, QUEUED), [("u", AT_EIGHT)]),
        (task(17, PENDING, CLAIM, QUEUED), [("u", AT_EIGHT)]),
        (task(17, PENDING, QUEUED, WIRED), [("u", AT_EIGHT)]),
        (task("ATXid_1", PENDING, QUEUED), [("u", AT_EIGHT)]),
        (task("17", PENDING, QUEUED), [("u", AT_EIGHT)]),
        (task("17", PENDING, CLAIM, QUEUED), []),
        (task(None, PENDING, QUEUED), []),
        (task("", PENDING, QUEUED), []),
        (task(True, PENDING, QUEUED), []),
        (task(17, PENDING, state="pending"), []),
    ],
)
def test_whose_a_gateway_ref_is(found: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    assert list(foreign({"_id": "doc", "tasks": [found]})) == expected

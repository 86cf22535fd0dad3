"""Which tasks wait for news, whose news a row is, and what it may change."""

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.delivery import (
    SETTLED,
    SKEW,
    MessageRow,
    SentTask,
    advance,
    match_broadcast,
    match_rows,
    may_follow,
    outstanding_in,
    read_message_row,
    read_ref,
)
from cht_rapidpro.domain.outgoing import BroadcastId, Urn
from cht_rapidpro.domain.statuses import State, StateChange, message_outcome
from cht_rapidpro.domain.task import Doc, DocId, MessageId, Task, timestamp
from demo.medic import message, task

NOW: Final = 1_800_000_000_000
DAY: Final = 86_400_000
ME: Final = Instance("f" * 32, "test")
RECEIVED, FORWARDED, SENT = "received-by-gateway", "forwarded-by-gateway", "sent"
STATUSES: Final = ("queued", "wired", "sent", "resent", "delivered", "read", "errored", "failed")
DEFAULT_SETTINGS: Final = {"default_country_code": 254}


def entry(state: str, at: int = NOW, details: str = "") -> dict[str, str]:
    return {"state": state, "state_details": details, "timestamp": timestamp(at)}


def claim(at: int = NOW) -> dict[str, str]:
    return entry("forwarded-to-gateway", at, ME.details)


def made(*entries: dict[str, str], ref: Any = "17", **fields: Any) -> Task:
    """A task that has been through these states."""
    last = entries[-1]
    return {
        **task(message("hello", uuid="m")),
        "state": last["state"],
        "state_details": last["state_details"],
        "state_history": list(entries),
        "gateway_ref": ref,
        **fields,
    }


def waiting(task: Task) -> list[SentTask]:
    return outstanding_in({"_id": "report", "tasks": [task]}, DEFAULT_SETTINGS)


def change(status: str) -> StateChange:
    outcome = message_outcome(status)
    assert outcome
    return outcome


# -- which tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*State, "invented", None, ["sent"]])
def test_a_task_that_is_on_its_way_or_has_failed_is_followed(state: Any) -> None:
    found = waiting({**made(entry("pending")), "state": state})
    assert bool(found) == (state in (RECEIVED, FORWARDED, SENT, "failed"))


NO_REFS: Final[list[object]] = [
    "", None, "0", 0, "017", "1" * 19, -5, 17.0, True, "17 ", "1٣", [17], {}, "ATXid_1", "a-1",
    "0192aaaa-0000-7000-8000-000000000001",
]  # fmt: skip
REFS: Final[list[tuple[object, str | None]]] = [
    ("17", "17"),
    (17, "17"),
    (123456789012345678, "123456789012345678"),
    *((ref, None) for ref in NO_REFS),
]


@pytest.mark.parametrize(("ref", "broadcast"), REFS)
def test_only_an_id_of_rapidpros_is_asked_for(ref: object, broadcast: str | None) -> None:
    assert read_ref({"gateway_ref": ref}) == broadcast
    assert [found.broadcast for found in waiting(made(entry(SENT), ref=ref))] == ([broadcast] if broadcast else [])


def test_without_a_ref_or_a_message_or_a_time_there_is_nothing_to_ask() -> None:
    assert not waiting({key: value for key, value in made(entry(SENT)).items() if key != "gateway_ref"})
    assert not waiting(made(entry(SENT), messages=[]))
    once = {"state": SENT, "state_details": "", "timestamp": "once"}
    for odd in ([once], [], ["x"], None):
        assert not waiting(made(entry(SENT), state_history=odd, timestamp=None))
        assert not waiting(made(entry(SENT), state_history=odd, timestamp="once"))


@pytest.mark.parametrize("entries", [[], None, ["x"]])
@pytest.mark.parametrize(
    ("timestamp_of_task", "reported", "changed"),
    [(timestamp(NOW), NOW - 5000, NOW), (None, NOW - 5000, NOW - 5000), ("", timestamp(NOW), NOW), (NOW, None, NOW)],
)
def test_without_a_history_the_tasks_time_or_the_documents_counts(
    entries: Any, timestamp_of_task: Any, reported: Any, changed: int
) -> None:
    """As in CHT's view `messages_by_last_updated_state`."""
    odd = made(entry(SENT), state_history=entries, timestamp=timestamp_of_task)
    doc = {"_id": "report", "reported_date": reported, "tasks": [odd]}
    assert [found.changed for found in outstanding_in(doc, DEFAULT_SETTINGS)] == [changed]


def test_whose_claim_it_was_and_whether_a_message_has_told_its_state() -> None:
    queued, sent = entry(RECEIVED, details="Queued"), entry(SENT, details="Sent")
    told = {
        "claimed": [claim(), queued],
        "sent": [claim(), queued, sent],
        "another gateway's": [entry("pending"), sent],
    }
    found = {name: waiting(made(*entries))[0] for name, entries in told.items()}
    assert {name: each.is_ours for name, each in found.items()} == {
        "claimed": True,
        "sent": True,
        "another gateway's": False,
    }
    assert [name for name, each in found.items() if each.has_message] == ["sent"]


def test_a_followed_task_has_its_broadcast_urns_and_last_state() -> None:
    (found,) = waiting(made(entry("pending", 0), claim(NOW - 9000), entry(RECEIVED, NOW - 5000), entry(SENT, NOW)))
    assert found == SentTask(
        DocId("report"),
        MessageId("m"),
        BroadcastId("17"),
        (Urn("tel:+254712345678"),),
        State.SENT,
        "",
        changed=NOW,
        created_after=NOW - 9000,
        created_before=NOW - 5000,
    )


@pytest.mark.parametrize(
    ("entries", "after", "before"),
    [
        ([claim(10), claim(20), entry(RECEIVED, 30)], 10, 30),
        ([claim(10), entry("pending", 20), claim(25), entry(RECEIVED, 30)], 25, 30),
        ([entry("pending", 10), entry(RECEIVED, 30), entry(SENT, 40)], 30 - SKEW, 30),
        ([entry(SENT, 30)], 30 - SKEW, 30),
        ([claim(40), entry(RECEIVED, 30)], 30, 30),
        ([entry(RECEIVED, 10), claim(20), entry(RECEIVED, 30), entry("failed", 50)], 20, 30),
    ],
    ids=["claim renewed", "released and claimed", "CHT's own gateway", "short history", "clock set back", "sent again"],
)
def test_when_the_broadcast_was_made(entries: list[dict[str, str]], after: int, before: int) -> None:
    (found,) = waiting(made(*entries))
    assert (found.created_after, found.created_before) == (after, before)


def test_a_task_of_several_messages_follows_its_first_but_not_out_of_failed() -> None:
    """Another of its messages may be what has failed."""
    several = [message("a", uuid="a"), message("b", uuid="b")]
    assert [found.uuid for found in waiting(made(entry(SENT), messages=several))] == ["a"]
    failed = made(entry("failed"), messages=several)
    assert not waiting(failed)
    assert not may_follow(failed, change("delivered"))


# -- rows and matching ----------------------------------------------------------------------------------------------

ROW: Final[dict[str, Any]] = {
    "broadcast": 17,
    "direction": "out",
    "status": "sent",
    "urn": "tel:+254712345678",
    "created_on": timestamp(NOW),
}


@pytest.mark.parametrize(
    ("row", "read"),
    [
        (ROW, MessageRow(BroadcastId("17"), "tel:+254712345678", "sent", NOW)),
        ({**ROW, "urn": None}, MessageRow(BroadcastId("17"), None, "sent", NOW)),
        ({**ROW, "status": None}, MessageRow(BroadcastId("17"), "tel:+254712345678", "", NOW)),
        ({**ROW, "status": ""}, MessageRow(BroadcastId("17"), "tel:+254712345678", "", NOW)),
        *(
            ({**ROW, **other}, None)
            for other in (
                {"broadcast": None},
                {"broadcast": True},
                {"broadcast": "17"},
                {"direction": "in"},
                {"created_on": None},
                {"created_on": "once"},
            )
        ),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_rows_that_are_no_message_of_a_broadcast_are_left_out(row: Any, read: MessageRow | None) -> None:
    assert read_message_row(row) == read


def held(uuid: str, number: str, created: int = NOW) -> SentTask:
    return SentTask(
        DocId("report"),
        MessageId(uuid),
        BroadcastId("17"),
        (Urn(f"tel:{number}"),),
        State.SENT,
        "",
        NOW,
        created,
        created,
    )


def row(urn: str | None, status: str = "delivered", created: int = NOW) -> MessageRow:
    return MessageRow(BroadcastId("17"), urn, status, created)


A, B = held("a", "+254712345001"), held("b", "0712345002")


def matched(tasks: list[SentTask], rows: list[MessageRow], *, is_whole: bool = True) -> dict[str, str]:
    return {task.uuid: row.status for task, row in match_rows(tasks, rows, is_whole=is_whole)}


def test_a_single_message_belongs_to_its_broadcast_with_any_urn() -> None:
    """RapidPro sends to the contact's preferred URN, and an anonymous workspace hides all."""
    for urn in ("tel:+254712345001", "whatsapp:254799999999", None):
        assert matched([A], [row(urn)]) == {"a": "delivered"}


def test_several_recipients_are_told_by_their_urns() -> None:
    rows = [row("tel:+254712345002", "failed"), row("tel:+254712345001", "sent"), row("tel:+254712345003", "queued")]
    assert matched([A, B], rows) == {"a": "sent", "b": "failed"}


def test_the_last_message_and_the_last_row_belong_together() -> None:
    assert matched([A, B], [row("tel:+254712345002", "failed"), row("viber:x", "sent")]) == {"a": "sent", "b": "failed"}
    assert matched([A, B], [row("viber:x"), row("viber:y")]) == {}
    assert matched([A, B], [row(None), row(None)]) == {}
    assert matched([A], [row("tel:+254712345002"), row("tel:+254712345003")]) == {}


def test_a_part_of_the_rows_tells_by_urn_alone() -> None:
    assert matched([A], [row("viber:x")], is_whole=False) == {}
    assert matched([A], [row("tel:+254712345001")], is_whole=False) == {"a": "delivered"}


@pytest.mark.parametrize(
    ("created", "ahead", "is_its"),
    [
        (NOW + DAY, 0, True),
        (NOW + DAY + 1, 0, False),
        (NOW - DAY - 1, 0, False),
        (NOW + 30 * DAY, 30 * DAY, True),
        (NOW + DAY, 30 * DAY, False),
    ],
)
def test_a_message_of_another_day_is_another_rapidpros(created: int, ahead: int, is_its: bool) -> None:
    """It may be made hours after the POST, and RapidPro's clock may be ahead of ours."""
    found = match_rows([A], [row("tel:+254712345001", created=created)], is_whole=True, ahead=ahead)
    assert bool(found) == is_its


@given(
    st.lists(st.sampled_from(["+254712345001", "0712345002", "+254712345003"]), max_size=4),
    st.lists(st.sampled_from(["tel:+254712345001", "tel:+254712345002", "viber:x", None]), max_size=4),
    st.booleans(),
)
def test_no_row_is_two_tasks_and_no_task_has_two_rows(
    numbers: list[str], urns: list[str | None], is_whole: bool
) -> None:
    tasks = [held(str(index), number) for index, number in enumerate(numbers)]
    rows = [row(urn, str(index)) for index, urn in enumerate(urns)]
    found = match_rows(tasks, rows, is_whole=is_whole)
    assert len({task.uuid for task, _ in found}) == len({row.status for _, row in found}) == len(found)


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[SentTask], list[MessageRow], list[str] | None, dict[str, str]]:
    """A broadcast: the tasks that still wait for it, the rows that a page shows, its recipients, and the truth.

    Contacts have other numbers that they prefer, two recipients may be one contact, older versions make no message for
    some, and a page may show a part or hide the numbers.
    """
    numbers = [f"+25471234{index:04}" for index in range(draw(st.integers(1, 5)))]
    contacts = draw(st.lists(st.integers(0, len(numbers)), min_size=len(numbers), max_size=len(numbers)))
    statuses = draw(st.lists(st.sampled_from(["sent", "delivered", "failed"]), min_size=6, max_size=6))
    preferred: dict[int, str] = {}
    for number, contact in zip(numbers, contacts, strict=True):
        preferred.setdefault(contact, draw(st.sampled_from([number, f"+25579999{contact:04}"])))
    without = draw(st.sets(st.sampled_from(contacts)))
    is_anonymous = draw(st.booleans())
    rows = [
        row(None if is_anonymous else f"tel:{preferred[contact]}", statuses[contact])
        for contact in dict.fromkeys(contacts)
        if contact not in without
    ]
    cut = draw(st.lists(st.sampled_from(rows), unique_by=id)) if rows else []
    truth = {
        str(index): statuses[contact] if contact not in without else "no message"
        for index, contact in enumerate(contacts)
    }
    waiting_ones = draw(st.sets(st.integers(0, len(numbers) - 1)))
    tasks = [held(str(index), numbers[index]) for index in sorted(waiting_ones)]
    known = [f"tel:{number}" for number in numbers] if not is_anonymous and draw(st.booleans()) else None
    return tasks, cut, known, truth


@given(groups())
@settings(max_examples=2000)
def test_a_state_is_never_one_that_the_message_did_not_have(
    group: tuple[list[SentTask], list[MessageRow], list[str] | None, dict[str, str]],
) -> None:
    tasks, rows, recipients, truth = group
    for its_task, found in match_broadcast(tasks, rows, recipients):
        assert found.status == truth[its_task.uuid]


def test_where_all_recipients_and_all_rows_are_known_the_last_two_belong_together() -> None:
    """Also where the other tasks have been delivered, and do not wait any more."""
    recipients = ["tel:+254712345001", "tel:+254712345002", "tel:+254712345003"]
    rows = [row("tel:+254712345002", "sent"), row("tel:+254712345003", "sent"), row("viber:x", "failed")]
    found = {
        count: [each.status for _, each in match_broadcast([A], rows[-count:], recipients)] for count in range(1, 4)
    }
    assert found == {1: [], 2: [], 3: ["failed"]}
    assert not match_broadcast([A], rows, None)
    assert not match_broadcast([A], [rows[0], row("viber:y"), row("viber:x")], recipients)


def test_a_national_part_that_two_have_tells_nothing() -> None:
    both = [held("a", "12345678"), held("b", "0012345678")]
    assert matched(both, [row("tel:+254712345678")], is_whole=False) == {}
    assert matched(both[:1], [row("tel:+254712345678")], is_whole=False) == {"a": "delivered"}


# -- transitions ----------------------------------------------------------------------------------------------------

BY_MESSAGE: Final = {
    RECEIVED: [claim(), entry(RECEIVED, details="Queued")],
    FORWARDED: [claim(), entry(RECEIVED), entry(FORWARDED, details="Wired")],
    SENT: [claim(), entry(RECEIVED), entry(SENT, details="Sent")],
    "delivered": [claim(), entry(RECEIVED), entry("delivered", details="Delivered")],
    "failed": [claim(), entry(RECEIVED), entry("failed", details="Failed")],
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("state", BY_MESSAGE)
def test_transitions(state: str, status: str) -> None:
    """Whatever a message says counts, also backwards, but nothing leaves `delivered`, and `failed` only delivery."""
    allowed = {"delivered": set(), "failed": {"delivered", "read"}}.get(state, set(STATUSES))
    assert may_follow(made(*BY_MESSAGE[state]), change(status)) == (status in allowed)


@pytest.mark.parametrize("before", [claim(), entry("pending")])
@pytest.mark.parametrize("status", STATUSES)
def test_a_state_from_the_broadcasts_own_status_is_lowered_by_errors_alone(before: dict[str, str], status: str) -> None:
    assert may_follow(made(before, entry(SENT)), change(status)) == (status not in ("queued", "wired"))


@pytest.mark.parametrize("state", [state for state in State if state not in SETTLED])
def test_a_state_that_another_program_set_stays(state: str) -> None:
    assert not any(may_follow(made(claim(), entry(RECEIVED), entry(state)), change(status)) for status in STATUSES)


def test_a_change_is_one_entry_and_nothing_else() -> None:
    doc: Doc = {"_id": "report", "odd": 10**30, "tasks": [made(*BY_MESSAGE[RECEIVED]), made(entry("scheduled"))]}
    edit = advance(MessageId("m"), BroadcastId("17"), change("delivered"), NOW + 1)
    new = edit(doc)
    assert new["tasks"][1] is doc["tasks"][1]
    expected = entry("delivered", NOW + 1, "Delivered")
    assert new["tasks"][0] == {
        **doc["tasks"][0],
        "state": "delivered",
        "state_details": "Delivered",
        "state_history": [*doc["tasks"][0]["state_history"], expected],
    }
    assert edit(new) is new


@pytest.mark.parametrize(
    ("uuid", "ref", "status"),
    [("other", "17", "delivered"), ("m", "18", "delivered"), ("m", "17", "queued")],
    ids=["another message", "sent again under another broadcast", "the state that it has"],
)
def test_a_status_of_another_message_or_an_old_one_makes_no_revision(uuid: str, ref: str, status: str) -> None:
    doc = {"_id": "report", "tasks": [made(*BY_MESSAGE[RECEIVED])]}
    assert advance(MessageId(uuid), BroadcastId(ref), change(status), NOW)(doc) is doc


def test_a_number_as_ref_is_the_same_and_stays_a_number() -> None:
    doc = {"_id": "report", "tasks": [made(*BY_MESSAGE[RECEIVED], ref=17)]}
    new = advance(MessageId("m"), BroadcastId("17"), change("sent"), NOW)(doc)
    assert (new["tasks"][0]["state"], new["tasks"][0]["gateway_ref"]) == ("sent", 17)


@given(st.sampled_from(sorted(BY_MESSAGE)), st.lists(st.sampled_from(STATUSES), max_size=30))
def test_a_state_never_leaves_delivered(start: str, statuses: list[str]) -> None:
    doc: Doc = {"_id": "report", "tasks": [made(*BY_MESSAGE[start])]}
    for number, status in enumerate(statuses):
        before = doc["tasks"][0]
        doc = advance(MessageId("m"), BroadcastId("17"), change(status), NOW + number)(doc)
        after = doc["tasks"][0]
        if before["state"] == "delivered":
            assert after is before
        elif before["state"] == "failed":
            assert after["state"] in ("failed", "delivered")
        assert len(after["state_history"]) - len(before["state_history"]) == (after is not before)

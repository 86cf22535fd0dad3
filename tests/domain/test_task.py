"""Documents hold anything: reading them never raises, and changing a task changes nothing else."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import (
    Change,
    Doc,
    Message,
    MessageId,
    Task,
    due,
    enter_state,
    is_sendable,
    map_tasks,
    messages,
    parse_timestamp,
    set_state,
    tasks,
    timestamp,
)

OWNED = {"state", "state_details", "state_history", "gateway_ref"}
NOON = 1795262400000
SENT = Change(State.SENT, "Sent")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**90), max_value=2**90)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def objects(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Objects with any of these fields, each of its own kind or of any other; seldom no objects at all."""
    any_kind = {name: value | json_values for name, value in fields.items()}
    return st.fixed_dictionaries({"extra": json_values}, optional=any_kind) | json_values


states = st.sampled_from([str(state) for state in State])
moments = st.sampled_from(["2026-11-22T07:37:45.550Z", "2026-11-22T07:37:45+03:00", "0001-01-01T00:00+14:00"])
message_values = objects(
    uuid=st.sampled_from(["m-1", "m-2", ""]),
    to=st.sampled_from(["+254712345678", 254712345678, ""]),
    message=st.sampled_from(["text", ""]),
)
entries = objects(state=states, state_details=st.just("Queued"), timestamp=moments)
task_values = objects(
    messages=st.lists(message_values, max_size=3),
    state=states,
    state_details=st.just("Sent"),
    state_history=st.lists(entries, max_size=3),
    gateway_ref=st.sampled_from(["17", 17, ""]),
    due=moments | st.integers(),
    timestamp=moments,
)
task_lists = st.lists(task_values, max_size=3) | json_values
documents: st.SearchStrategy[Doc] = st.fixed_dictionaries(
    {"_id": st.just("doc"), "extra": json_values},
    optional={"tasks": task_lists, "scheduled_tasks": task_lists, "reported_date": json_values},
)


NO_TEXTS: list[object] = ["", None, [], {}]


def text_message(**fields: object) -> dict[str, object]:
    return {"uuid": "m-1", "to": "+254712345678", "message": "text", **fields}


@given(doc=documents)
def test_reading_never_raises(doc: Doc) -> None:
    for task in tasks(doc):
        assert is_sendable(task) == (task.get("state") in ["pending", "forwarded-to-gateway"] and messages(task) != ())
        assert all(message.uuid and message.to and message.text for message in messages(task))
        assert due(task, doc) is None or isinstance(due(task, doc), int)


@pytest.mark.parametrize("state", [None, 0, [], {}, ["pending"], "Pending", "scheduled", "sent"])
def test_any_other_state_is_not_sendable(state: object) -> None:
    assert not is_sendable({"state": state, "messages": [text_message()]})


@pytest.mark.parametrize("state", ["pending", "forwarded-to-gateway"])
def test_is_sendable(state: str) -> None:
    assert is_sendable({"state": state, "messages": [text_message()]})


@pytest.mark.parametrize(
    ("value", "to"),
    [
        (text_message(), "+254712345678"),
        (text_message(to=254712345678), "254712345678"),
        (text_message(to=True), None),
        (text_message(to=0), None),
        *((text_message(**{name: value}), None) for name in ("uuid", "to", "message") for value in NO_TEXTS),
        ({"uuid": "m-1"}, None),
        ("m-1", None),
        (None, None),
    ],
)
def test_a_message_needs_uuid_and_number_and_text(value: object, to: str | None) -> None:
    assert messages({"messages": [value]}) == (() if to is None else (Message(MessageId("m-1"), to, "text"),))


def test_messages_keep_their_order_and_a_repeated_uuid_counts_once() -> None:
    values = [text_message(uuid="b", message="first"), text_message(uuid="a"), text_message(uuid="b")]
    assert [(message.uuid, message.text) for message in messages({"messages": values})] == [
        ("b", "first"),
        ("a", "text"),
    ]


@given(doc=documents)
def test_a_document_without_a_change_is_the_same_object(doc: Doc) -> None:
    before = copy.deepcopy(doc)
    assert map_tasks(doc, lambda task: task) is doc
    assert doc == before


@given(doc=documents, ref=st.sampled_from([None, "", "18"]))
def test_nothing_but_the_owned_fields_of_the_touched_task_changes(doc: Doc, ref: str | None) -> None:
    before = as_json(doc)
    touched = next(tasks(doc), None)
    change = Change(State.SENT, "Sent", ref)
    new = map_tasks(doc, lambda task: set_state(task, change, NOON) if task is touched else task)
    assert as_json(doc) == before, "the given document was changed in place"
    assert (new is doc) == (touched is None or set_state(touched, change, NOON) is touched)
    assert as_json(without_owned(new)) == as_json(without_owned(doc))
    assert [task for old, task in zip(tasks(doc), tasks(new), strict=True) if task is not old] == [
        set_state(task, change, NOON) for task in [touched] if task is not None and new is not doc
    ]


def without_owned(doc: Doc) -> Doc:
    """The document with the owned fields of its first task left out; the order of fields and lists stays."""
    first = next(tasks(doc), None)
    return map_tasks(
        doc, lambda task: {name: task[name] for name in task if name not in OWNED} if task is first else task
    )


def as_json(doc: Doc) -> str:
    """Tells 1 from 1.0 and from true, which == does not."""
    return json.dumps(doc)


def entry(state: object, **fields: object) -> dict[str, object]:
    return {"state": state, "state_details": "Sent", "timestamp": "2026-11-22T07:00:00.000Z", **fields}


IS_SENT: Task = {"state": "sent", "state_details": "Sent", "gateway_ref": 17, "state_history": [entry("sent")]}


@pytest.mark.parametrize(
    ("task", "ref"),
    [
        (IS_SENT, None),
        (IS_SENT, "17"),
        ({**IS_SENT, "gateway_ref": "17"}, "17"),
        ({**IS_SENT, "gateway_ref": None}, ""),
        ({name: IS_SENT[name] for name in IS_SENT if name != "gateway_ref"}, ""),
    ],
)
def test_setting_a_state_that_stands_already_returns_the_same_object(task: Task, ref: str | None) -> None:
    assert set_state(task, Change(State.SENT, "Sent", ref), NOON) is task


@pytest.mark.parametrize(
    ("task", "ref", "ref_after"),
    [
        ({**IS_SENT, "state": "pending"}, None, 17),
        ({**IS_SENT, "state_details": "Wired"}, None, 17),
        ({**IS_SENT, "state_history": [entry("sent"), entry("pending")]}, None, 17),
        ({**IS_SENT, "state_history": []}, None, 17),
        ({**IS_SENT, "state_history": "broken"}, None, 17),
        ({**IS_SENT, "state_history": [entry("sent"), "broken"]}, None, 17),
        (IS_SENT, "18", "18"),
        (IS_SENT, "", None),
        ({}, None, None),
        ({}, "17", "17"),
    ],
)
def test_setting_a_state_writes_it_with_one_history_entry_more(task: Task, ref: str | None, ref_after: object) -> None:
    new = set_state(task, Change(State.SENT, "Sent", ref), NOON)
    past = task.get("state_history")
    assert new["state_history"] == [*(past if isinstance(past, list) else []), SENT_AT_NOON]
    assert (new["state"], new["state_details"], new.get("gateway_ref")) == ("sent", "Sent", ref_after)
    assert ("gateway_ref" in new) == (ref_after is not None)


SENT_AT_NOON = {"state": "sent", "state_details": "Sent", "timestamp": "2026-11-21T12:00:00.000Z"}


def test_entering_a_state_again_is_a_history_entry_too() -> None:
    assert enter_state(IS_SENT, SENT, NOON) == {**IS_SENT, "state_history": [entry("sent"), SENT_AT_NOON]}


# What `Date.parse(task.due || task.timestamp || doc.reported_date)` gives; NaN stands as null in the view's key.
@pytest.mark.parametrize(
    ("task", "reported_date", "expected"),
    [
        ({"due": "2026-11-22T07:37:45.550Z", "timestamp": "2026-01-01"}, 1, 1795333065550),
        ({"due": "2026-11-22T10:37:45.550+03:00"}, 1, 1795333065550),
        ({"due": 1795333065550}, 1, 1795333065550),
        ({"due": "", "timestamp": "2026-11-22"}, 1, 1795305600000),
        ({"due": 0, "timestamp": "2026-11-22"}, 1, 1795305600000),
        ({"due": None}, 1795333065550, 1795333065550),
        ({}, "2026-11-22T07:37:45.550Z", 1795333065550),
        ({"due": "soon", "timestamp": "2026-11-22"}, 1, None),
        ({"due": "1700000000000"}, 1, None),
        ({"due": ["2026"]}, 1, None),
        ({}, None, None),
    ],
)
def test_due_is_what_the_view_computes(task: Task, reported_date: object, expected: int | None) -> None:
    assert due(task, {"reported_date": reported_date}) == expected


@given(ms=st.integers(min_value=-30_000_000_000_000, max_value=250_000_000_000_000))
def test_a_timestamp_is_read_as_it_was_written(ms: int) -> None:
    assert parse_timestamp(timestamp(ms)) == ms


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1795333065050, "2026-11-22T07:37:45.050Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
    ],
)
def test_timestamps_are_written_as_cht_does(ms: int, text: str) -> None:
    assert timestamp(ms) == text

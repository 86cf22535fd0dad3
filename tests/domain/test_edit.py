"""Edits of a document together: the same as one after the other."""

from functools import reduce
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.claim import ClaimTasks, Instance, give_back, release, renew, settle
from cht_rapidpro.domain.edit import Edit, each, edited, holding
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Change, Doc, MessageId, Task, tasks
from tests.domain.test_task import documents

ME = Instance("a" * 32, "here")
UUIDS = [MessageId(uuid) for uuid in ("m-1", "m-2", "m-3")]
NOW = 1795333065550


def task(*uuids: str, **fields: Any) -> Task:
    return {"messages": [{"uuid": uuid, "to": "+254712345678", "message": "text"} for uuid in uuids], **fields}


def edits() -> st.SearchStrategy[list[Edit]]:
    uuids, refs = st.sampled_from(UUIDS), st.sampled_from(["7", "8"])
    change = st.builds(Change, st.just(State.RECEIVED_BY_GATEWAY), st.just("Queued"), refs)
    now = st.integers(NOW, NOW + 2)
    return st.lists(
        st.one_of(
            st.builds(lambda uuid, now: ClaimTasks(ME, [uuid], now), uuids, now),
            st.builds(lambda uuid, now: renew(ME, uuid, now, now + 1, sends=True), uuids, now),
            st.builds(lambda uuid, now: release(ME, uuid, now), uuids, now),
            st.builds(lambda uuid, change, now: settle(ME, uuid, change, now), uuids, change, now),
            st.builds(lambda uuid, ref, now: give_back(ME, uuid, ref, now), uuids, refs, now),
        ),
        max_size=8,
    )


@given(
    st.lists(
        st.builds(
            lambda uuids, state: task(*uuids, state=state),
            st.lists(st.sampled_from(UUIDS), max_size=2),
            st.sampled_from(["pending", "muted"]),
        ),
        max_size=4,
    ),
    edits(),
)
def test_together_is_one_after_the_other(found: list[Task], several: list[Edit]) -> None:
    """Whatever holds what: two tasks with one message, one with two, none."""
    doc: Doc = {"_id": "doc", "tasks": found[:2], "scheduled_tasks": found[2:]}
    assert edited(doc, several) == reduce(lambda doc, edit: edit(doc), several, doc)


@given(documents, edits())
def test_edits_that_change_nothing_return_the_same_object(doc: Doc, several: list[Edit]) -> None:
    unchanging: list[Edit] = [each(uuid, lambda task: task) for uuid in UUIDS]
    assert edited(doc, unchanging) is doc
    after = edited(doc, several)
    assert edited(after, unchanging) is after


@given(documents)
def test_a_message_is_held_by_every_task_that_has_it(doc: Doc) -> None:
    found = holding(doc, UUIDS)
    for uuid in UUIDS:
        mine = [each for each in tasks(doc) if uuid in [one.get("uuid") for one in _messages(each)]]
        assert [id(each) for each in found.get(uuid, [])] == [id(each) for each in mine]


def _messages(task: Task) -> list[Doc]:
    found = task.get("messages")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def test_an_edit_sees_what_those_before_it_have_made() -> None:
    def count(task: Task) -> Task:
        return {**task, "count": task.get("count", 0) + 1}

    doc: Doc = {"_id": "doc", "tasks": [task("m-1", "m-2"), task("m-2"), task("m-3")]}
    both: list[Edit] = [each(UUIDS[0], count), each(UUIDS[1], count)]
    assert [one.get("count") for one in edited(doc, both)["tasks"]] == [2, 1, None]

"""The list of what waits for news never grows beyond its capacity, and loses nothing that it could not find again."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.adapters.couchdb.state_views import StateRow
from cht_rapidpro.domain.delivery import SentTask
from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import DocId, MessageId
from cht_rapidpro.jobs.delivery.tracker import DeliveryTracker

MINUTE: Final = 60_000
HOUR: Final = 3_600_000
DAY: Final = 86_400_000
NOW: Final = 1_800_000_000_000


def waiting(number: int, age: int = 0, state: State = State.SENT, doc: str = "") -> SentTask:
    changed = NOW - age
    doc_id = DocId(doc or f"doc-{number}")
    broadcast = BroadcastId(str(number))
    return SentTask(doc_id, MessageId(f"m-{number}"), broadcast, (), state, "", changed, changed, changed)


def tracker(*tasks: SentTask, capacity: int = 100) -> DeliveryTracker:
    made = DeliveryTracker(MINUTE, 7 * DAY, capacity)
    for task in tasks:
        made.hold(task, NOW, NOW)
    return made


def due(made: DeliveryTracker, now: int) -> list[str]:
    return [watched.task.broadcast for watched in made.due(now)]


def test_a_tracked_task_is_due_at_once_then_ever_more_rarely() -> None:
    made = tracker(waiting(1), waiting(2, age=10 * HOUR))
    assert due(made, NOW) == ["1", "2"]
    for watched in made:
        watched.answered(NOW)
    assert due(made, NOW) == []
    assert due(made, NOW + MINUTE) == ["1"]
    assert due(made, NOW + 60 * MINUTE) == ["1"]
    assert due(made, NOW + 70 * MINUTE) == ["1", "2"]


def test_a_task_that_has_waited_for_too_long_is_dropped() -> None:
    made = tracker(waiting(1, age=6 * DAY), waiting(2))
    assert due(made, NOW + DAY + 1) == ["2"]
    assert len(made) == 1
    assert tracker(waiting(1, age=8 * DAY)).due(NOW) == []


@pytest.mark.parametrize("step", [-DAY, 30 * DAY])
def test_a_tracked_task_ages_by_the_loops_clock_alone(step: int) -> None:
    """The wall clock, in the history and at the first sight, may be wrong by any step."""
    made = DeliveryTracker(MINUTE, 7 * DAY)
    made.hold(waiting(1, age=-step), 1000, NOW + step)
    made.hold(waiting(1, age=-step), 61_000, NOW)
    (watched,) = made
    watched.answered(61_000)
    assert due(made, 61_000 + MINUTE) == ["1"]
    assert due(made, 1000 + 7 * DAY) == ["1"]
    assert due(made, 1001 + 7 * DAY) == []


def test_a_stamp_in_the_future_is_of_now() -> None:
    made = tracker(waiting(1, age=-30 * DAY))
    (watched,) = made
    assert watched.entered == NOW


def test_failed_ones_are_matched_for_a_day_but_never_asked_for() -> None:
    made = tracker(waiting(1, state=State.FAILED))
    assert (due(made, NOW), len(made.of(BroadcastId("1")))) == ([], 1)
    made.due(NOW + DAY + 1)
    assert (len(made), made.of(BroadcastId("1"))) == (0, [])


def test_a_document_that_is_read_again_keeps_what_is_known_and_loses_what_is_gone() -> None:
    made = tracker(waiting(1, doc="report"), waiting(2, doc="report"))
    for watched in made:
        watched.answered(NOW)
    made.update(DocId("report"), [waiting(1, age=-5, doc="report"), waiting(3, doc="report")], NOW, NOW)
    assert [(each.task.broadcast, each.task.changed - NOW, each.asked) for each in made] == [
        ("1", 5, NOW),
        ("3", 0, None),
    ]
    assert made.of(BroadcastId("2")) == []


def test_a_task_that_is_told_twice_is_held_once() -> None:
    """By the relay that has settled it, and by the view, in whatever order."""
    made = tracker(waiting(1), waiting(1, age=-5))
    (watched,) = made
    assert watched.task.changed == NOW + 5


def test_rows_of_the_view_are_known_by_state_and_time() -> None:
    made = tracker(waiting(1))
    known = [StateRow(DocId("doc-1"), "sent", NOW), StateRow(DocId("doc-1"), "sent", None)]
    news = [
        StateRow(DocId("doc-1"), "sent", NOW + 1),
        StateRow(DocId("doc-1"), "failed", NOW),
        StateRow(DocId("doc-2"), "sent", NOW),
    ]
    assert made.news([*known, *news]) == news


def test_in_a_full_list_those_that_are_not_asked_for_soon_make_room() -> None:
    made = tracker(*(waiting(number, age=number * HOUR) for number in range(100)))
    made.hold(waiting(1000), NOW, NOW)
    assert (len(made), made.of(BroadcastId("1000"))) == (100, [])
    assert not made.make_room(1, NOW), "nobody has been asked for yet"
    for watched in made:
        watched.answered(NOW)
    assert made.make_room(5, NOW)
    assert len(made) == 90
    assert {watched.task.broadcast for watched in made} == {str(number) for number in range(90)}
    assert not made.make_room(95, NOW), "the young stay"


def test_a_failed_question_waits_ever_longer_until_all_is_forgiven() -> None:
    made = tracker(waiting(1))
    (watched,) = made
    waits = []
    for _ in range(10):
        watched.failed(NOW, MINUTE)
        waits.append(watched.next_ask(NOW, MINUTE) - NOW)
    assert waits[:4] == [MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE]
    assert waits[-1] == HOUR
    made.forgive()
    assert due(made, NOW) == ["1"]


@given(st.lists(st.tuples(st.sampled_from(["hold", "drop", "room", "clear"]), st.integers(0, 8)), max_size=60))
def test_the_tracker_never_exceeds_its_capacity_and_finds_each_held_task(steps: list[tuple[str, int]]) -> None:
    made = tracker(capacity=5)
    for what, number in steps:
        match what:
            case "hold":
                made.hold(waiting(number, age=number * DAY // 2), NOW, NOW)
            case "drop":
                for watched in list(made.of(BroadcastId(str(number)))):
                    made.drop(watched)
                    made.drop(watched)
            case "room":
                for watched in made:
                    watched.answered(NOW)
                made.make_room(number, NOW)
            case "clear":
                made.clear()
        held = list(made)
        assert len(held) == len(made) <= 5
        assert all(watched in made.of(watched.task.broadcast) for watched in held)
        assert sum(len(made.of(BroadcastId(str(each)))) for each in range(9)) == len(held)

"""The planner asks everything once, at no more than either pure way costs, and learns how busy the workspace is."""

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.planner import (
    SENT_FOLDER,
    Plan,
    Question,
    Ruler,
    Single,
    Window,
    pause,
    plan,
)

MINUTE: Final = 60_000
DAY: Final = 86_400_000
PAGE: Final = 5  # small, so that few rows make many pages


def ruler(rows: Sequence[int]) -> Ruler:
    """Positions among these rows, which are sorted."""
    return lambda moment: bisect_left(rows, moment)


def nothing_known(_: int) -> float:
    return 0.0


def ask(number: int, after: int, before: int | None = None, company: int = 1_000_000) -> Question:
    return Question(BroadcastId(str(number)), after, after if before is None else before, company)


def asked(made: Plan) -> list[Question]:
    return [question for each in made.asks for question in each.questions]


def pages(rows: Sequence[int], after: int, before: int, page: int) -> int:
    """What a listing really costs."""
    return max(1, ceil((bisect_left(rows, before + 1) - bisect_left(rows, after)) / page))


MOMENTS = st.integers(0, 400)
LATENESS = st.sampled_from([0, 0, 0, 1, 3, 20, 200])
ROWS = st.lists(MOMENTS, unique=True, min_size=1, max_size=120).map(sorted)


@st.composite
def workspaces(draw: st.DrawFn) -> tuple[list[int], list[Question]]:
    """The rows of a workspace, and questions about some of them, of which a few are known to the ms only roughly."""
    rows = draw(ROWS)
    ours = draw(st.lists(st.sampled_from(rows), unique=True, min_size=1))
    return rows, [ask(row, row - draw(LATENESS), row + draw(LATENESS)) for row in ours]


@given(workspaces())
@settings(max_examples=1000)
def test_it_never_costs_more_than_either_pure_way_and_one_more(workspace: tuple[list[int], list[Question]]) -> None:
    rows, questions = workspace
    made = plan(questions, ruler(rows), None, page=PAGE)
    oldest, newest = min(each.after for each in questions), max(each.before for each in questions)
    cost = sum(
        pages(rows, each.after, each.before, PAGE) if isinstance(each, Window) else each.cost for each in made.asks
    )
    assert cost <= min(len(questions), pages(rows, oldest, newest, PAGE)) + 1
    assert cost <= made.cost + 1, "and it costs what was planned"


@given(workspaces(), st.none() | st.integers(0, 40), st.floats(0, 1), st.data())
@settings(max_examples=1000)
def test_it_loses_and_duplicates_nothing(
    workspace: tuple[list[int], list[Question]], budget: int | None, share: float, data: st.DataObject
) -> None:
    rows, questions = workspace
    questions = [
        Question(
            each.broadcast,
            each.after,
            each.before,
            data.draw(st.sampled_from([1, 2, 3, 1000])),
            data.draw(st.booleans()),
        )
        for each in questions
    ]
    made = plan(questions, ruler(rows), budget, sent_share=share, page=PAGE)
    assert sorted([*asked(made), *made.postponed], key=lambda each: int(each.broadcast)) == sorted(
        questions, key=lambda each: int(each.broadcast)
    )
    assert budget is None or made.cost <= budget
    assert budget is not None or not made.postponed
    for each in made.asks:
        assert len(each.questions) <= min(question.company for question in each.questions)
        if isinstance(each, Window):
            assert all(each.after <= question.after <= question.before <= each.before for question in each.questions)
            assert each.folder == "" or all(question.is_sent for question in each.questions)


def test_a_hundred_scattered_over_a_busy_workspace_are_asked_for_one_by_one() -> None:
    """One of ours, then a thousand of others, and so on."""
    rows = list(range(100_000))
    made = plan([ask(row, row) for row in range(500, 100_000, 1000)], ruler(rows), None)
    assert (len(made.asks), {type(each) for each in made.asks}) == (100, {Single})


def test_ten_thousand_in_a_busy_workspace_are_listed() -> None:
    """One row in eleven is ours."""
    rows = list(range(110_000))
    questions = [ask(row, row) for row in range(0, 110_000, 11)]
    made = plan(questions, ruler(rows), None)
    assert {type(each) for each in made.asks} == {Window}
    assert made.cost <= 440
    assert sorted(asked(made), key=lambda each: each.after) == questions


def test_ten_thousand_that_stand_alone_are_one_listing() -> None:
    rows = list(range(10_000))
    (window,) = plan([ask(row, row) for row in rows], ruler(rows), None).asks
    assert (type(window), window.cost) == (Window, 40)


def test_what_is_not_known_yet_is_tried_in_one_page() -> None:
    (window,) = plan([ask(number, number * DAY) for number in range(7)], nothing_known, None).asks
    assert window.cost == 1


def test_what_a_listing_did_not_show_is_asked_for_alone() -> None:
    made = plan([ask(number, number, company=1) for number in range(10)], nothing_known, None)
    assert [type(each) for each in made.asks] == [Single] * 10


def test_what_answers_most_goes_first_then_the_newest() -> None:
    rows = list(range(10_000))
    questions = [ask(1, 9_000), *(ask(row, row) for row in range(100)), ask(2, 5_000)]
    made = plan(questions, ruler(rows), 2)
    assert [len(each.questions) for each in made.asks] == [100, 1]
    assert (asked(made)[-1].broadcast, [each.broadcast for each in made.postponed]) == ("1", ["2"])


def test_of_a_long_listing_the_newest_pages_are_asked_for_where_the_budget_is_short() -> None:
    rows = list(range(10_000))
    made = plan([ask(row, row) for row in rows], ruler(rows), 3)
    (window,) = made.asks
    assert (window.cost, len(window.questions), len(made.postponed)) == (3, 750, 9250)
    assert isinstance(window, Window)
    assert (window.after, window.before) == (9250, 9999)


def test_the_folder_of_sent_messages_is_listed_where_most_others_are_elsewhere() -> None:
    """One in ten rows is in the folder; those of ours that may not be in it are asked for otherwise."""
    rows = list(range(20_000))
    ours = range(0, 20_000, 20)
    in_folder = [Question(BroadcastId(str(row + 1)), row, row, is_sent=True) for row in ours]
    other = Question(BroadcastId("20001"), 20_000, 20_000)
    made = plan([*in_folder, other], ruler(rows), None, sent_share=0.1)
    windows = [each for each in made.asks if isinstance(each, Window)]
    assert {each.folder for each in windows} == {SENT_FOLDER}
    assert (made.cost, sum(len(each.questions) for each in windows)) == (9, 1000)
    assert plan([*in_folder, other], ruler(rows), None).cost == 77


@pytest.mark.parametrize(
    ("age", "expected"), [(0, MINUTE), (10 * MINUTE, MINUTE), (100 * MINUTE, 10 * MINUTE), (5 * DAY, DAY // 2)]
)
def test_older_messages_are_asked_for_ever_more_rarely(age: int, expected: int) -> None:
    assert pause(age, MINUTE) == expected

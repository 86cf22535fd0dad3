"""A round asks for everything that is due, in as few requests as pages can be laid over it, and loses nothing."""

from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.planner import UNLIMITED, Listing, Round, pause

MINUTE: Final = 60_000
DAY: Final = 86_400_000
PAGE: Final = 5  # small, so that few rows make many pages


@dataclass(eq=False)
class Question:
    """One of ours; `at`: when its message was created, None: RapidPro made none."""

    number: int
    at: int | None
    after: int
    before: int
    asked: int | None = None
    limit: int = UNLIMITED
    is_single: bool = False

    @property
    def broadcast(self) -> BroadcastId:
        return BroadcastId(str(self.number))


def known(number: int, at: int, asked: int | None = None) -> Question:
    return Question(number, at, at, at, asked)


@dataclass
class Workspace:
    """RapidPro with these rows, newest first in its listings; `log`: what each request has answered."""

    rows: list[tuple[int, Question | None]]
    log: list[list[Question]] = field(default_factory=list)
    pages: int = 0

    def answer(self, due: Round[Question], budget: int = 1_000_000) -> None:
        """What the job does, in short."""
        while len(self.log) < budget and (step := due.next(4)):
            if isinstance(step, Listing):
                self._list(due, step, budget)
                continue
            for question in step[: budget - len(self.log)]:
                self.log.append([question] if question.at is not None else [])
                del due.left[question]

    def _list(self, due: Round[Question], listing: Listing[Question], budget: int) -> None:
        shown = [each for each in sorted(self.rows, key=lambda row: -row[0]) if listing.after <= each[0]]
        shown = [each for each in shown if each[0] <= listing.before]
        for start in range(0, max(1, len(shown)), PAGE):
            page = shown[start : start + PAGE]
            answered = [question for _, question in page if question]
            self.log.append([each for each in answered if each in due.left])
            self.pages += 1
            newest, oldest = (page[0][0], page[-1][0]) if page else (0, 0)
            goes_on = listing.goes_on(answered, newest, oldest, is_last=start + PAGE >= len(shown))
            for question in listing.passed:
                question.is_single = True
            if not goes_on or len(self.log) >= budget:
                return


@st.composite
def workspaces(draw: st.DrawFn, lateness: int) -> tuple[Workspace, list[Question]]:
    """Some of the rows are ours; of a few it is known only roughly when they were made, or there is no row at all."""
    moments = draw(st.lists(st.integers(0, 400), min_size=1, max_size=120))
    rows: list[tuple[int, Question | None]] = []
    for number, moment in enumerate(moments):
        if not draw(st.booleans()):
            rows.append((moment, None))
            continue
        early, late = (draw(st.integers(0, lateness)) for _ in range(2))
        at = None if late and draw(st.integers(0, 9)) == 0 else moment
        asked = draw(st.none() | st.integers(0, 3))
        question = Question(number, at, moment - early, moment + late, asked)
        rows.append((moment, question))
    ours = [question for _, question in rows if question]
    there = [(moment, question if question and question.at is not None else None) for moment, question in rows]
    return Workspace(there), ours


@pytest.mark.parametrize("by_turn", [False, True])
@given(workspaces(lateness=100))
@settings(max_examples=500)
def test_everything_is_asked_for_once_and_at_most_one_page_a_question_is_in_vain(
    by_turn: bool, workspace: tuple[Workspace, list[Question]]
) -> None:
    rapidpro, questions = workspace
    due = Round(questions, by_turn=by_turn)
    rapidpro.answer(due)
    answered = [question for request in rapidpro.log for question in request]
    assert sorted(each.number for each in answered) == sorted(each.number for each in questions if each.at is not None)
    assert not due.left
    assert len(rapidpro.log) <= 3 * len(questions) + 1


@given(workspaces(lateness=0))
@settings(max_examples=500)
def test_where_the_moments_are_known_no_request_is_in_vain(workspace: tuple[Workspace, list[Question]]) -> None:
    rapidpro, questions = workspace
    rapidpro.answer(Round(questions, by_turn=False))
    near = sum(1 for request in rapidpro.log if not request)
    assert len(rapidpro.log) - near <= len(questions)
    assert near <= len(rapidpro.log) // 2


@given(workspaces(lateness=0), st.integers(1, 4))
@settings(max_examples=300)
def test_no_budget_starves_a_message(workspace: tuple[Workspace, list[Question]], budget: int) -> None:
    """Round after round, what was left over comes first."""
    rapidpro, questions = workspace
    for turn in range(10, 10 + 2 * len(questions)):
        rapidpro.log.clear()
        rapidpro.answer(Round(questions, by_turn=True), budget)
        for question in (each for request in rapidpro.log for each in request):
            question.asked = turn
    assert all(each.asked is not None and each.asked >= 10 for each in questions)


@pytest.mark.parametrize("count", [5, 250])
def test_a_burst_is_read_to_its_end_in_as_many_pages_as_hold_it(count: int) -> None:
    """All of them between the same two moments, and many in one ms."""
    questions = [Question(number, 1000 + number % 7, 0, 2000) for number in range(count)]
    rapidpro = Workspace([(each.at or 0, each) for each in questions])
    rapidpro.answer(Round(questions, by_turn=False))
    assert rapidpro.pages == len(rapidpro.log) == count // PAGE


def test_a_hundred_scattered_over_a_busy_workspace_cost_a_request_each() -> None:
    questions = [known(number, number * 1000) for number in range(100)]
    rapidpro = Workspace([(row, None) for row in range(0, 100_000, 10)] + [(each.at or 0, each) for each in questions])
    rapidpro.answer(Round(questions, by_turn=False))
    assert len(rapidpro.log) <= 101


def test_far_from_its_roughly_known_moment_a_message_is_not_searched_for_in_vain() -> None:
    rows: list[tuple[int, Question | None]] = [(moment, None) for moment in range(1000)]
    questions = [Question(1, 10, 0, 999), Question(2, 11, 0, 999)]
    rapidpro = Workspace([*rows, *((each.at or 0, each) for each in questions)])
    rapidpro.answer(Round(questions, by_turn=False))
    assert (rapidpro.pages, len(rapidpro.log)) == (3, 5)


def test_one_that_is_left_alone_is_asked_for_alone() -> None:
    assert Round([known(1, 5)], by_turn=False).next(4)
    due = Round([known(1, 5), known(1, 5)], by_turn=False)
    assert not isinstance(due.next(4), Listing), "two tasks of one broadcast"
    assert isinstance(Round([known(1, 5), known(2, 6)], by_turn=False).next(4), Listing)


def test_look_ups_go_together_up_to_a_number_one_a_broadcast() -> None:
    singles = [known(number // 2, number) for number in range(8)]
    for question in singles:
        question.is_single = True
    step = Round(singles, by_turn=False).next(3)
    assert isinstance(step, list)
    assert [each.number for each in step] == [3, 2, 1]


def test_questions_whose_page_failed_are_asked_in_ever_shorter_listings() -> None:
    questions = [known(number, number) for number in range(8)]
    for question in questions[:4]:
        question.limit = 2
    due = Round(questions, by_turn=False)
    first = due.next(4)
    assert isinstance(first, Listing)
    assert (first.after, first.before) == (4, 7), "not over those that failed"
    assert {each.number for each in first.blamed()} == {4, 5, 6, 7}
    for question in questions[4:]:
        del due.left[question]
    second = due.next(4)
    assert isinstance(second, Listing)
    assert (second.after, second.before) == (2, 3)


@pytest.mark.parametrize(
    ("age", "expected"), [(0, MINUTE), (10 * MINUTE, MINUTE), (100 * MINUTE, 10 * MINUTE), (5 * DAY, DAY // 2)]
)
def test_older_messages_are_asked_for_ever_more_rarely(age: int, expected: int) -> None:
    assert pause(age, MINUTE) == expected

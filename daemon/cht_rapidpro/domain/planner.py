"""What to ask RapidPro next: a message at a time, or a page of 250 that answers many questions at once.

Both cost one request out of a budget that sending needs, too. A page covers the rows that follow each other in time, so
the questions are laid on the line of all messages of the workspace and covered from the newest on by as few pages as
will do; where a page would answer one question it is asked for alone. Invariant: every question is in exactly one
request or is postponed. Without the covering, a workspace where others send a lot would cost a page a message, and one
where we do a request a message.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from cht_rapidpro.domain.outgoing import BroadcastId

PAGE: Final = 250
UNLIMITED: Final = 1_000_000
SENT_FOLDER: Final = "sent"  # wired, sent, delivered, read
_FOLDER_RISK: Final = 2  # who has left the folder is asked for once more: it must save half of the requests
_SLOWER: Final = 10
Ruler = Callable[[int], float]


def pause(age: int, interval: int) -> int:
    """Until a message is asked for again: every round at first, then a tenth of its age. All in ms."""
    return max(interval, age // _SLOWER)


@dataclass(frozen=True, slots=True)
class Question:
    """What has become of a broadcast? Its message was created between two moments, ms of RapidPro's clock.

    `company`: how many may be asked for together with it; 1 where a listing did not show it. `is_sent`: the folder
    `sent` should have it.
    """

    broadcast: BroadcastId
    after: int
    before: int
    company: int = UNLIMITED
    is_sent: bool = False


@dataclass(frozen=True, slots=True)
class Single:
    """Ask for one broadcast's messages."""

    question: Question

    @property
    def questions(self) -> tuple[Question, ...]:
        return (self.question,)

    @property
    def cost(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class Window:
    """List what was created from `after` to `before`, both inclusive; `folder` "": all. `cost`: pages to expect."""

    after: int
    before: int
    folder: str
    questions: tuple[Question, ...]
    cost: int


Ask = Single | Window


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask, the most worthwhile first, and what the budget has no room for."""

    asks: tuple[Ask, ...]
    postponed: tuple[Question, ...]

    @property
    def cost(self) -> int:
        return sum(ask.cost for ask in self.asks)


def plan(
    questions: Iterable[Question], position: Ruler, budget: int | None, *, sent_share: float = 1.0, page: int = PAGE
) -> Plan:
    """The cheapest way to ask them all, cut to the budget.

    `position`: how many rows the listing of all messages has before a moment; `sent_share`: which part of them is in
    the folder `sent`.
    """
    newest_first = sorted(questions, key=lambda question: (question.before, question.broadcast), reverse=True)
    groups = _cover(newest_first, position, page)
    if whole := _in_one(newest_first, position, page):
        groups = min(groups, whole, key=_total)
    if sent_share < 1:
        by_folder = _cover_by_folder(newest_first, position, sent_share, page)
        groups = by_folder if _total(by_folder) * _FOLDER_RISK <= _total(groups) else groups
    return _cut(sorted(groups, key=_Group.order), budget)


class _Group:
    """Questions for one request or one listing, newest first. `pages`: how many questions precede each of its pages."""

    def __init__(self, questions: list[Question], folder: str) -> None:
        self.questions = questions
        self.folder = folder
        self.pages = [0]
        self.cost = 1
        self.after = min(question.after for question in questions)
        self.company = min(question.company for question in questions)

    def order(self) -> tuple[float, int]:
        """Most answers a request first, then the newest."""
        return -len(self.questions) / self.cost, -self.questions[0].before

    def takes_in(self, other: "_Group", position: Ruler, page: int) -> bool:
        """Whether the listing goes on over another group's questions, which it does where that costs no more."""
        after = min(self.after, other.after)
        cost = max(self.cost, ceil(_rows(position, after, self.questions[0].before) / page))
        alone = min(len(self.questions), len(other.questions)) == 1
        company = min(self.company, other.company)
        if len(self.questions) + len(other.questions) > company or cost > self.cost + (0 if alone else other.cost):
            return False
        self.pages.append(len(self.questions))
        self.questions += other.questions
        self.after, self.company, self.cost = after, company, cost
        return True

    def asks(self, budget: int) -> Iterator[Ask]:
        """All of it, or what so many requests can ask of it."""
        is_whole = budget >= self.cost
        end = len(self.questions) if is_whole else self.pages[budget]
        asked = tuple(self.questions[:end])
        if len(asked) == 1:
            yield Single(asked[0])
        elif asked:
            after = min(question.after for question in asked)
            yield Window(after, asked[0].before, self.folder, asked, self.cost if is_whole else budget)


def _total(groups: Iterable[_Group]) -> int:
    return sum(group.cost for group in groups)


def _cover_by_folder(questions: Sequence[Question], position: Ruler, share: float, page: int) -> list[_Group]:
    elsewhere = _cover([each for each in questions if not each.is_sent], position, page)
    in_folder = [each for each in questions if each.is_sent]
    return elsewhere + _cover(in_folder, lambda moment: position(moment) * share, page, SENT_FOLDER)


def _in_one(questions: Sequence[Question], position: Ruler, page: int) -> list[_Group]:
    """One listing over all of them: the better way where each may be anywhere in a long time."""
    if not questions or len(questions) > min(question.company for question in questions):
        return []
    group = _Group(list(questions), "")
    group.cost = max(1, ceil(_rows(position, group.after, questions[0].before) / page))
    group.pages = [index * len(questions) // group.cost for index in range(group.cost)]
    return [group]


def _cover(questions: Sequence[Question], position: Ruler, page: int, folder: str = "") -> list[_Group]:
    groups: list[_Group] = []
    narrow = [each for each in questions if _rows(position, each.after, each.before) <= page]
    for questions_of_page in _pages(narrow, position, page):
        group = _Group(questions_of_page, folder)
        if not groups or not groups[-1].takes_in(group, position, page):
            groups.append(group)
    # No page is sure to show one that may be anywhere among more rows than that.
    wide = [each for each in questions if _rows(position, each.after, each.before) > page]
    return groups + [_Group([each], folder) for each in wide]


def _pages(questions: Sequence[Question], position: Ruler, page: int) -> Iterator[list[Question]]:
    """Each holds what one page that begins at its first question is sure to show."""
    held: list[Question] = []
    company = UNLIMITED
    for question in questions:
        company = min(company, question.company)
        if held and (len(held) >= company or _rows(position, question.after, held[0].before) > page):
            yield held
            held, company = [], question.company
        held.append(question)
    if held:
        yield held


def _rows(position: Ruler, after: int, before: int) -> float:
    """How many rows a listing from one moment to the other has, both inclusive."""
    return position(before) - position(after) + 1


def _cut(groups: Sequence[_Group], budget: int | None) -> Plan:
    asks: list[Ask] = []
    postponed: list[Question] = []
    left = UNLIMITED if budget is None else budget
    for group in groups:
        asked = list(group.asks(left)) if left > 0 else []
        left -= sum(ask.cost for ask in asked)
        asks += asked
        postponed += group.questions[sum(len(ask.questions) for ask in asked) :]
    return Plan(tuple(asks), tuple(postponed))

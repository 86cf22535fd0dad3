"""What a round asks RapidPro: the planner's plan, for the budget that sending leaves and the traffic seen so far."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from math import ceil
from typing import Final

from cht_rapidpro.adapters.rapidpro import RapidPro
from cht_rapidpro.domain.budget import HOUR, Scope
from cht_rapidpro.domain.planner import PAGE, Ask, Question, Window, plan
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.traffic import Traffic
from cht_rapidpro.jobs.backlog import Backlog
from cht_rapidpro.jobs.inquiry import Seen
from cht_rapidpro.jobs.watchlist import Watched

_REQUESTS: Final = 1000  # a round, where nothing else limits them
_MARGIN: Final = 60_000  # ms around the times in a history, for clocks that differ
_NARROW: Final = 0.5  # the folder `sent` is worth a thought below this share


class Questions:
    """`interval`: seconds between two rounds; `wall_clock`: ms since the epoch."""

    def __init__(self, rapidpro: RapidPro, backlog: Backlog, interval: float, wall_clock: Callable[[], int]) -> None:
        self._rapidpro = rapidpro
        self._backlog = backlog
        self._interval = interval
        self._wall_clock = wall_clock
        self._traffic = Traffic()

    def reset(self) -> None:
        """Forgets the traffic: it is another RapidPro now."""
        self._traffic = Traffic()

    def plan(self, due: Sequence[Watched]) -> tuple[Ask, ...]:
        """What to ask for these, as far as the budget goes."""
        if not due:
            return ()
        questions = self._questions(due)
        oldest = min(question.after for question in questions)
        newest = max(question.before for question in questions)
        self._traffic.forget(oldest)
        share = self._traffic.sent_share
        return plan(
            questions,
            self._traffic.ruler(oldest, newest),
            self._budget(),
            sent_share=share if share < _NARROW else 1.0,
        ).asks

    def _questions(self, due: Sequence[Watched]) -> list[Question]:
        """One for each broadcast, whoever holds it."""
        ahead = (self._rapidpro.clock() or self._wall_clock()) - self._wall_clock()
        found: dict[str, Question] = {}
        for watched in due:
            task = watched.task
            known = watched.created
            after = task.created_after - _MARGIN + ahead if known is None else known
            before = task.created_before + _MARGIN + ahead if watched.latest is None else watched.latest
            is_sent = task.state in (State.FORWARDED_BY_GATEWAY, State.SENT) and not watched.is_elsewhere
            found[task.broadcast] = Question(task.broadcast, after, before, watched.company, is_sent)
        return list(found.values())

    def _budget(self) -> int:
        """Requests that this round may make: its part of what is left in the hour, more where much is left."""
        spare = self.spare(Scope.MESSAGES)
        if spare is None:
            return _REQUESTS
        per_round = ceil(self._rapidpro.budget.per_hour * self._interval / HOUR)
        return min(spare, max(per_round, spare // 10))

    def spare(self, scope: Scope) -> int | None:
        """Requests that may be spent on questions now; None: no limit."""
        return self._rapidpro.sharing.spare(scope, _time(), len(self._backlog))

    def learn(self, seen: Seen, window: Window) -> None:
        """Takes note of how many messages a page has shown."""
        if window.folder or not (seen.moments or seen.is_last):
            return
        after = window.after if seen.is_last else seen.oldest
        before = window.before if seen.is_first else max(seen.moments, default=window.after)
        self._traffic.learn(after, before, seen.moments, seen.sent)

    def is_worthwhile(self, left: Collection[Question], seen: Seen, window: Window) -> bool:
        """Whether the next page may be expected to answer something, and all that follow no fewer than they cost."""
        if self.spare(Scope.MESSAGES) == 0 or not seen.moments:
            return False
        position = self._traffic.ruler(window.after, window.before)
        oldest, nearest = min(each.after for each in left), max(each.before for each in left)
        pages = ceil((position(seen.oldest) - position(oldest)) / PAGE)
        return pages <= len(left) and position(seen.oldest) - position(nearest) < PAGE


def _time() -> float:
    return asyncio.get_running_loop().time()

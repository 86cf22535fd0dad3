"""The input of a polling round: which messages are due, when they were created, and how many requests it may make."""

from collections.abc import Callable
from math import ceil
from typing import Final

from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.budget import HOUR, Scope
from cht_rapidpro.domain.planner import Round
from cht_rapidpro.jobs.delivery.tracker import DeliveryTracker, TrackedMessage

_REQUESTS: Final = 1000  # a round, if there is no other limit
_MARGIN: Final = 60_000  # ms around the times in a history, for clocks that differ


class PollPlan:
    """`waiting`: how many messages wait to be sent; `interval`: seconds between two rounds; `wall_clock`: ms."""

    def __init__(
        self,
        rapidpro: RapidPro,
        tracker: DeliveryTracker,
        waiting: Callable[[], int],
        interval: float,
        wall_clock: Callable[[], int],
    ) -> None:
        self._rapidpro = rapidpro
        self._tracker = tracker
        self._waiting = waiting
        self._interval = interval
        self._wall_clock = wall_clock

    def begin(self, now: int, *, ours_only: bool, is_late: bool) -> Round[TrackedMessage]:
        """Returns the due messages. `now`: loop time in ms; `ours_only`: without messages that other gateways have
        sent.

        `is_late`: the round before has left messages, which come first.
        """
        due = [each for each in self._tracker.due(now) if each.task.is_ours or not ours_only]
        present = self.ahead()
        for watched in due:
            task, known = watched.task, watched.created
            ahead = present if watched.ahead is None else watched.ahead
            watched.after = task.created_after - _MARGIN + ahead if known is None else known
            watched.before = task.created_before + _MARGIN + ahead if known is None else known
            if known is None and watched.latest is not None:
                watched.before = max(watched.after, min(watched.before, watched.latest))
        return Round(due, by_turn=is_late)

    def ahead(self) -> int:
        """Ms by which RapidPro's clock is ahead of this machine's, by its last answer."""
        ours = self._wall_clock()
        return (self._rapidpro.clock() or ours) - ours

    def horizon(self) -> int:
        """The present time, ms since the epoch, by the clock that is behind, so that more is read, not less."""
        ours = self._wall_clock()
        return min(self._rapidpro.clock() or ours, ours)

    def budget(self) -> int:
        """Returns how many requests this round may make: its part of the hour's rest, more if much is left."""
        spare, per_hour = self.spare(Scope.MESSAGES), self._rapidpro.budgets[Scope.MESSAGES].per_hour
        if spare is None or per_hour is None:
            return _REQUESTS if spare is None else spare
        per_round = ceil(per_hour * self._interval / HOUR)
        return min(spare, max(per_round, spare // 10))

    def spare(self, scope: Scope) -> int | None:
        """Returns how many requests polling may make now; None: no limit."""
        return self._rapidpro.sharing.spare(scope, loop_time(), self._waiting())

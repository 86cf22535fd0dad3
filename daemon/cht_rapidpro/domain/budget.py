"""Mirrors RapidPro's rate limit of one scope.

RapidPro allows a number of requests in a sliding hour (docs/rapidpro.md#throttling). With the same window here a burst
goes out at full speed while there is room, and stops before a 429 comes. A 429 (other programs share the workspace's
quota) closes the scope for as long as RapidPro says. Time is an argument, in seconds of any steady clock.
"""

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

HOUR: Final = 3600.0
_FIRST_PAUSE: Final = 1.0
_PROBING: Final = 30.0  # s after a pause in which only one request at a time is made, to test for room
_LONGEST_PAUSE: Final = 60.0
_SCARCE_FOR: Final = 24 * HOUR
_EXPLAINED: Final = 0.99  # of our own limit: a 429 is no surprise from here on
_TELLING: Final = 2  # a 429 before this part of our limit was spent tells of other programs' requests, not of the limit


class Scope(StrEnum):
    """RapidPro's throttle scopes, each with its own window in current versions (docs/rapidpro.md#throttling)."""

    GENERAL = "v2"  # broadcasts, workspace, flows: every request without its own scope
    MESSAGES = "v2.messages"
    RUNS = "v2.runs"


class Budget:
    """One scope. `open`: requests without an answer yet.

    `configured`: the configured limit an hour, None: none, only RapidPro's 429s; `learned`: a lower limit that a 429
    has shown.
    """

    def __init__(self, per_hour: int | None) -> None:
        self.configured = per_hour
        self.learned: int | None = None
        self._spent: deque[float] = deque()
        self.open = 0
        self._closed_until = 0.0
        self._unexplained = 0
        self._learned_until = 0.0

    @property
    def per_hour(self) -> int | None:
        """The limit in force; None: there is none."""
        if self.configured is None or self.learned is None:
            return self.configured
        return min(self.configured, self.learned)

    @per_hour.setter
    def per_hour(self, limit: int | None) -> None:
        self.configured = limit

    def begin(self) -> None:
        """A request starts: it takes its place in the window at once."""
        self.open += 1

    def end(self, now: float, *, counted: bool) -> None:
        """The request has ended. RapidPro counts it from when it was served; 403s and 429s are not counted."""
        self.open -= 1
        if counted:
            self._unexplained = 0
            if self.configured is not None:
                self._spent.append(now)

    def throttled(self, now: float, retry_after: float | None) -> None:
        """A 429 came; without a Retry-After the pause doubles from a second to a minute.

        If much of the configured limit was spent, RapidPro's limit is lower; this is remembered for a day.
        """
        spent, per_hour = self.spent(now) - self.open, self.per_hour
        if per_hour is not None and per_hour > spent >= max(1, (self.configured or 0) // _TELLING):
            self.learned, self._learned_until = spent, now + _SCARCE_FOR
        if retry_after is None:
            if now < self._closed_until:
                return  # one of several requests that were in flight together
            retry_after = min(_FIRST_PAUSE * 2**self._unexplained, _LONGEST_PAUSE)
            self._unexplained = min(self._unexplained + 1, 10)
        self._closed_until = max(self._closed_until, now + max(retry_after, _FIRST_PAUSE))

    def left(self, now: float) -> int | None:
        """How many requests may start now; None: no limit.

        Right after a 429 without a Retry-After only one request at a time is made, to test whether there is room.
        """
        if self.learned is not None and now >= self._learned_until:
            self.learned = None
        if now < self._closed_until:
            return 0
        left = None if (per_hour := self.per_hour) is None else max(0, per_hour - self.spent(now))
        if self.is_probing and now < self._closed_until + _PROBING:
            return 0 if self.open or left == 0 else 1
        return left

    @property
    def is_probing(self) -> bool:
        """Whether the last answer was a 429 without a Retry-After: then several requests at once are as many 429s."""
        return self._unexplained > 0

    def spent(self, now: float) -> int:
        """How many requests the window holds; without a configured limit only the open ones are known."""
        while self._spent and self._spent[0] + HOUR <= now:
            self._spent.popleft()
        return len(self._spent) + self.open

    def delay(self, now: float) -> float:
        """Seconds until a request may start; 0: now. Where only open requests fill the window: a second."""
        per_hour = self.per_hour
        if self.left(now) != 0:
            return 0.0
        if now < self._closed_until:
            return self._closed_until - now
        if per_hour is None or (self.is_probing and self.open and now < self._closed_until + _PROBING):
            return _FIRST_PAUSE
        over = len(self._spent) + self.open - per_hour
        return self._spent[over] + HOUR - now if over < len(self._spent) else 1.0


class Sharing:
    """How much of RapidPro's limit polling may use, so that sending never waits for it.

    Old and self-hosted versions count all requests in one scope, and other programs may share the workspace's limit.
    Both cause a 429 that the own count of its scope does not explain; for a day after such a 429, polling takes only
    what sending leaves.
    """

    def __init__(self, budgets: Mapping[Scope, Budget]) -> None:
        self._budgets = budgets
        self._scarce_until = 0.0

    def throttled(self, scope: Scope, now: float) -> None:
        """A 429 came, in this scope."""
        budget = self._budgets[scope]
        if (per_hour := budget.per_hour) is not None and budget.spent(now) >= per_hour * _EXPLAINED:
            return
        self._scarce_until = now + _SCARCE_FOR

    def spare(self, scope: Scope, now: float, waiting: int) -> int | None:
        """Requests of `scope` that polling may use now; None: no limit. `waiting`: messages to be sent.

        In the scope of the sends, and while requests are scarce, a request for each waiting message and a quarter of
        the hour are kept for sending; while sending is throttled there is no polling.
        """
        left = self._budgets[scope].left(now)
        if scope != Scope.GENERAL and now >= self._scarce_until:
            return left
        if left == 0 or self._budgets[Scope.GENERAL].left(now) == 0:
            return 0
        per_hour = self._budgets[scope].per_hour
        if per_hour is None:
            return 0 if waiting else None
        scopes = self._budgets if now < self._scarce_until else (scope,)
        spent = sum(self._budgets[each].spent(now) for each in scopes)
        return max(0, per_hour - spent - waiting - per_hour // 4)

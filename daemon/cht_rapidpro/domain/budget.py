"""What RapidPro's rate limit of one scope has left, mirrored on our side.

RapidPro allows so many requests in a sliding hour (RAPIDPRO.md, "Throttling"). With the same window here a burst goes
out at full speed while there is room and stops by itself before a 429 does it; a 429 (others share the workspace's
quota) closes the scope for as long as RapidPro says. Time is an argument, in seconds of any steady clock.
"""

from collections import deque
from enum import StrEnum
from typing import Final

HOUR: Final = 3600.0
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0


class Scope(StrEnum):
    """RapidPro's throttle scopes, each with a window of its own in current versions (RAPIDPRO.md, "Throttling")."""

    GENERAL = "v2"  # broadcasts, workspace, flows: whatever has no scope of its own
    MESSAGES = "v2.messages"
    RUNS = "v2.runs"


class Budget:
    """One scope. `per_hour` 0: no limit of our own, only RapidPro's 429s; `open`: requests without an answer yet."""

    def __init__(self, per_hour: int) -> None:
        self.per_hour = per_hour
        self._spent: deque[float] = deque()
        self.open = 0
        self._closed_until = 0.0
        self._unexplained = 0

    def begin(self) -> None:
        """A request starts: it takes its place in the window at once."""
        self.open += 1

    def end(self, now: float, *, counted: bool) -> None:
        """The request has ended. RapidPro counts it from when it was served; 403s and 429s are not counted."""
        self.open -= 1
        if counted:
            self._unexplained = 0
            if self.per_hour:
                self._spent.append(now)

    def throttled(self, now: float, retry_after: float | None) -> None:
        """A 429 came; without a Retry-After the pause doubles from a second to a minute."""
        if retry_after is None:
            if now < self._closed_until:
                return  # one of several that were in flight together
            retry_after = min(_FIRST_PAUSE * 2**self._unexplained, _LONGEST_PAUSE)
            self._unexplained = min(self._unexplained + 1, 10)
        self._closed_until = max(self._closed_until, now + max(retry_after, _FIRST_PAUSE))

    def left(self, now: float) -> int | None:
        """How many requests may start now; None: no limit."""
        if now < self._closed_until:
            return 0
        if not self.per_hour:
            return None
        while self._spent and self._spent[0] + HOUR <= now:
            self._spent.popleft()
        return max(0, self.per_hour - len(self._spent) - self.open)

    def delay(self, now: float) -> float:
        """Seconds until a request may start; 0: now. Where only open requests fill the window: a second."""
        if self.left(now) != 0:
            return 0.0
        if now < self._closed_until:
            return self._closed_until - now
        over = len(self._spent) + self.open - self.per_hour
        return self._spent[over] + HOUR - now if over < len(self._spent) else 1.0

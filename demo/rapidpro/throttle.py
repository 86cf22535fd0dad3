"""RapidPro's rate limit: a sliding window for each scope of the workspace, shared by all its tokens.

A request that is refused is not counted, so that only the oldest counted one decides when the next slot is
free, and then it is one slot, not the whole budget. A gateway that takes Retry-After for "all clear" runs
into the next 429.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable

from .answers import Answer, detail

WINDOW = 3600.0
SCOPES = {"messages": "v2.messages", "runs": "v2.runs"}  # everything else shares "v2"


class Throttle:
    """`requests_per_hour` for each scope, None for no limit; the attributes may be changed while running.

    `limits`: of single scopes, where they differ (the community's 9.0.0).
    """

    def __init__(self, clock: Callable[[], float], requests_per_hour: int | None, *, one_scope: bool) -> None:
        self.requests_per_hour = requests_per_hour
        self.limits: dict[str, int] = {}
        self.one_scope = one_scope
        self.retry_after = True  # False: 429 without Retry-After
        self._clock = clock
        self._counted: defaultdict[str, deque[float]] = defaultdict(deque)

    def scope(self, kind: str) -> str:
        return "v2" if self.one_scope else SCOPES.get(kind, "v2")

    def refuse(self, scope: str) -> Answer | None:
        """Count one request; a 429 if it is one too many."""
        limit = self.limits.get(scope, self.requests_per_hour)
        if limit is None:
            return None
        now, counted = self._clock(), self._counted[scope]
        while counted and counted[0] <= now - WINDOW:
            counted.popleft()
        if len(counted) >= limit:
            return self._throttled(math.ceil(counted[0] + WINDOW - now) if counted else int(WINDOW))
        counted.append(now)
        return None

    def _throttled(self, seconds: int) -> Answer:
        if not self.retry_after:
            return detail(429, "Request was throttled.")
        plural = "" if seconds == 1 else "s"
        reason = f"Request was throttled. Expected available in {seconds} second{plural}."
        return detail(429, reason, {"Retry-After": str(seconds)})

"""Whether the jobs get on: each marks the steps that it takes, and a step that does not end is a stall.

A job that waits for something to do, or for the end of a pause, is well. So is one that repeats a step while the
dependency it needs is away. What is left is a fault of ours, a lost wake-up or a wait that nothing limits: only a
restart ends it, and all state is durable.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cht_rapidpro.health import Health

LONGEST_STEP: Final = 600.0  # seconds; a request to CouchDB may take 60, its feed 300


class Pulse:
    """One job, which needs that dependency for its steps; `longest`: seconds that one may take."""

    def __init__(self, job: str, needs: Health, longest: float = LONGEST_STEP) -> None:
        self.job = job
        self.needs = needs
        self._longest = longest
        self._since: float | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step of the job, from its beginning to its end; the latest one counts."""
        mine = self._since = time.monotonic()
        try:
            yield
        finally:
            if self._since == mine:  # a follower that is replaced may end after the next one has begun
                self._since = None

    def stalled_for(self) -> float | None:
        """Seconds that the present step has taken while the dependency worked, if these are too many."""
        if self._since is None or self.needs.error is not None:
            return None
        seconds = time.monotonic() - max(self._since, self.needs.since)
        return seconds if seconds > self._longest else None

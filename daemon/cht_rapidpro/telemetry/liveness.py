"""Shows whether the jobs make progress: each job marks its steps, and a step that does not end is a stall.

A job that waits for work, or for the end of a pause, does not stall. A job that repeats a step while its dependency is
away does not stall either. Every other long step is a fault in this program, such as a lost wake-up or an unlimited
wait: only a restart ends it, and all state is durable.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cht_rapidpro.telemetry.dependency_health import Health

LONGEST_STEP: Final = 600.0  # seconds; a request to CouchDB may take 60, its feed 300


class Liveness:
    """The progress of one job. `needs`: the dependency that its steps need. `longest`: seconds that a step may take."""

    def __init__(self, job: str, needs: Health, longest: float = LONGEST_STEP) -> None:
        self.job = job
        self.needs = needs
        self._longest = longest
        self._since: float | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Marks a step of the job from its beginning to its end; the latest step counts."""
        mine = self._since = time.monotonic()
        try:
            yield
        finally:
            if self._since == mine:  # a follower that is replaced may end after the next one has begun
                self._since = None

    def stalled_for(self) -> float | None:
        """Returns the seconds that the present step has taken while the dependency worked, if they are too many, else
        None.
        """
        if self._since is None or self.needs.error is not None:
            return None
        seconds = time.monotonic() - max(self._since, self.needs.since)
        return seconds if seconds > self._longest else None

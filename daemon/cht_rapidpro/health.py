"""Whether a dependency works, told once on each edge instead of once a try.

Each adapter owns one and reports every call to it. WARNING: it is away and heals itself. ERROR: a human must act, the
message says how. Without this an outage of an hour would be thousands of lines, or none.
"""

import time
from enum import StrEnum

import structlog

from cht_rapidpro.errors import GatewayError, TroubleError

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Condition(StrEnum):
    WORKS = "works"
    LOST = "lost"
    REFUSED = "refused"


class Health:
    """The state of one dependency: `error` is None while it works (or was not tried yet).

    `since`: when it came into this state, in seconds of time.monotonic; `last_error`: also one that is over.
    """

    def __init__(self, dependency: str) -> None:
        self.dependency = dependency
        self.error: GatewayError | None = None
        self.last_error: GatewayError | None = None
        self.since = time.monotonic()
        self._told: set[str] = set()

    @property
    def condition(self) -> Condition:
        if self.error is None:
            return Condition.WORKS
        return Condition.REFUSED if isinstance(self.error, TroubleError) else Condition.LOST

    def works(self) -> None:
        if self.error is not None:
            now = time.monotonic()
            log.warning("dependency.recovered", dependency=self.dependency, seconds=round(now - self.since, 1))
            self.error = None
            self.since = now
            self._told.clear()

    def tell_again(self) -> None:
        """Something was changed that may be the remedy: if it is none, that is told even if it was told before."""
        self._told.clear()

    def fails(self, error: GatewayError) -> None:
        before, self.error = self.error, error
        self.last_error = error
        if before is None:
            self.since = time.monotonic()
        if isinstance(error, TroubleError):
            if error.about not in self._told:
                log.error("dependency.refused", dependency=self.dependency, error=str(error))
                self._told.add(error.about)
        elif before is None:
            log.warning("dependency.lost", dependency=self.dependency, error=str(error))

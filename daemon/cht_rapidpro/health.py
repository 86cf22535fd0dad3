"""Whether a dependency works, told once on each edge instead of once a try.

Each adapter owns one and reports every call to it. WARNING: it is away and heals itself. ERROR: a human must act, the
message says how. Without this an outage of an hour would be thousands of lines, or none.
"""

import time

import structlog

from cht_rapidpro.errors import GatewayError, TroubleError

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Health:
    """The state of one dependency: `error` is None while it works (or was not tried yet)."""

    def __init__(self, dependency: str) -> None:
        self.dependency = dependency
        self.error: GatewayError | None = None
        self.since = time.monotonic()
        self._told: set[str] = set()

    def works(self) -> None:
        if self.error is not None:
            seconds = round(time.monotonic() - self.since, 1)
            log.warning("dependency.recovered", dependency=self.dependency, seconds=seconds)
            self.error = None
            self._told.clear()

    def tell_again(self) -> None:
        """Something was changed that may be the remedy: if it is none, that is told even if it was told before."""
        self._told.clear()

    def fails(self, error: GatewayError) -> None:
        before, self.error = self.error, error
        if before is None:
            self.since = time.monotonic()
        if isinstance(error, TroubleError):
            if error.about not in self._told:
                log.error("dependency.refused", dependency=self.dependency, error=str(error))
                self._told.add(error.about)
        elif before is None:
            log.warning("dependency.lost", dependency=self.dependency, error=str(error))

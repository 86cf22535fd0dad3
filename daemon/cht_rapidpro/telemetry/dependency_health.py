"""Whether a dependency works, decided from every request to it and logged on each change instead of at each try.

Each adapter owns one and reports every call to it, independent of what the answer means for one message: a server that
answers 500 to everything is as lost as one that is switched off. WARNING: it is away and heals itself. ERROR: an
operator must act, and the message says how. Without this module an outage of an hour would be thousands of lines, or
none.

Each kind of call is decided separately: a server whose GET works while its POST fails is lost, and stays so until the
POST works; one verdict for both would change with every request. A failure without a kind ("") ends with the next
success of any kind.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.errors import GatewayError, OperatorActionRequiredError

log: structlog.stdlib.BoundLogger = structlog.get_logger()

IN_A_ROW: Final = 3  # failures in a row of one kind of call, each perhaps about one message, or
PATIENCE: Final = 30.0  # seconds without a success since the first of them: then it is lost
# Seconds without a call of a failed kind until its last failure is forgotten, because no job makes such calls any more.
# More than the longest pause between two tries of one message, an hour.
_FORGOTTEN: Final = 3900.0


class Condition(StrEnum):
    UNKNOWN = "unknown"  # no answer yet
    WORKS = "works"
    LOST = "lost"  # tried again, heals itself
    REFUSED = "refused"  # an operator must act


@dataclass(slots=True)
class _Failing:
    """A kind of call whose latest calls failed: how often in a row, and the times of the first and the last failure.

    `is_certain`: at least one of them is certainly about the dependency.
    """

    error: GatewayError
    first: float
    last: float
    times: int = 0
    is_certain: bool = False

    def condition(self, now: float) -> Condition | None:
        """None: too early to tell."""
        if isinstance(self.error, OperatorActionRequiredError):
            return Condition.REFUSED
        is_lost = self.is_certain or self.times >= IN_A_ROW or now - self.first >= PATIENCE
        return Condition.LOST if is_lost else None


class Health:
    """The state of one dependency. `last_error`: also one that is over; `heard`: when it last answered as it should.

    Times are seconds of `clock`. `kind` in the calls: a closed set of names, such as the endpoint.
    """

    def __init__(self, dependency: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.dependency = dependency
        self.last_error: GatewayError | None = None
        self.heard: float | None = None
        self._clock = clock
        self._known_since = clock()
        self._failing: dict[str, _Failing] = {}
        self._failed = Signal[()]()
        self.subscribe = self._failed.subscribe  # called at the first failure after a success, or of a kind
        self._reported: set[str] = set()
        self._is_reported = False

    @property
    def condition(self) -> Condition:
        verdicts = self._verdicts()
        for worst in (Condition.REFUSED, Condition.LOST):
            if worst in verdicts:
                return worst
        return Condition.UNKNOWN if self.heard is None else Condition.WORKS

    @property
    def error(self) -> GatewayError | None:
        """Why it is lost or refuses access; None while it is neither."""
        condition = self.condition
        now = self._clock()
        errors = [each.error for each in self._failing.values() if each.condition(now) is condition]
        return errors[-1] if errors else None

    @property
    def since(self) -> float:
        """When its condition began; for a lost one the time of the first failure."""
        condition, now = self.condition, self._clock()
        begun = [each.first for each in self._failing.values() if each.condition(now) is condition]
        return min(begun, default=self._known_since)

    def works(self, kind: str = "") -> None:
        """Records a successful call of this kind."""
        now = self._clock()
        if self.heard is None:
            self._known_since = now
        self.heard = now
        recovered = [each for name in {kind, ""} if (each := self._failing.pop(name, None))]
        for name, each in list(self._failing.items()):
            if now - each.last > _FORGOTTEN:
                del self._failing[name]
        if self.condition is not Condition.WORKS:
            return
        if recovered:
            self._known_since = now
        if self._is_reported:
            seconds = round(now - min(each.first for each in recovered), 1) if recovered else None
            log.warning("dependency.recovered", dependency=self.dependency, seconds=seconds)
            self._is_reported = False
            self._reported.clear()

    def fails(self, error: GatewayError, kind: str = "", *, is_certain: bool = True) -> None:
        """Records a failed call of this kind; a OperatorActionRequiredError needs an operator.

        `is_certain`: False if the failure may be about the one message of the call.
        """
        now = self._clock()
        is_first = kind not in self._failing
        failing = self._failing.setdefault(kind, _Failing(error, first=now, last=now))
        failing.error, failing.last, failing.times = error, now, failing.times + 1
        failing.is_certain = failing.is_certain or is_certain
        self.last_error = error
        self.tell()
        if is_first:
            self._failed.emit()

    def tell(self) -> None:
        """Logs a change that was not logged yet. Call it regularly, too, because a time limit can end without a
        call.
        """
        condition, error = self.condition, self.error
        if isinstance(error, OperatorActionRequiredError):
            if error.about not in self._reported:
                log.error("dependency.refused", dependency=self.dependency, error=str(error))
                self._reported.add(error.about)
            self._is_reported = True
        elif condition is Condition.LOST and not self._is_reported:
            log.warning("dependency.lost", dependency=self.dependency, error=str(error))
            self._is_reported = True

    def tell_again(self) -> None:
        """Forgets the condition after a change that may be the remedy; the next answer is logged."""
        self._reported.clear()
        self._failing.clear()
        self.heard = None
        self._known_since = self._clock()

    def _verdicts(self) -> set[Condition | None]:
        now = self._clock()
        return {each.condition(now) for each in self._failing.values()}

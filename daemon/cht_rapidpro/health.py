"""Whether a dependency works, judged from every request to it and told once on each edge instead of once a try.

Each adapter owns one and reports every call to it, independent of what the answer means for one message: a server that
answers 500 to everything is as lost as one that is switched off. WARNING: it is away and heals itself. ERROR: a human
must act, the message says how. Without this an outage of an hour would be thousands of lines, or none.

Calls of different kinds are judged apart: a server whose GET works while its POST fails is lost, and stays so until the
POST works; one verdict for both would flap with every request. What failed as no kind in particular ("") is over with
the next success of any kind.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from cht_rapidpro.errors import GatewayError, TroubleError

log: structlog.stdlib.BoundLogger = structlog.get_logger()

IN_A_ROW: Final = 3  # failures of one kind of call that may be about one message each, or
PATIENCE: Final = 30.0  # seconds from the first of them on without a success, until the dependency is lost
# Seconds without a call of a failed kind until it is no longer judged by its last one: nothing wants it any more. More
# than the longest pause between two tries of one message, an hour.
_FORGOTTEN: Final = 3900.0


class Condition(StrEnum):
    UNKNOWN = "unknown"  # no answer has told yet
    WORKS = "works"
    LOST = "lost"  # tried again, heals itself
    REFUSED = "refused"  # a human must act


@dataclass(slots=True)
class _Failing:
    """A kind of call whose latest ones failed: how often in a row, and the times of the first and the last of them.

    `is_certain`: one of them tells of the dependency for sure.
    """

    error: GatewayError
    first: float
    last: float
    times: int = 0
    is_certain: bool = False

    def condition(self, now: float) -> Condition | None:
        """None: too early to tell."""
        if isinstance(self.error, TroubleError):
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
        self._listeners: list[Callable[[], None]] = []
        self._told: set[str] = set()
        self._is_told = False

    def subscribe(self, listener: Callable[[], None]) -> None:
        """`listener` is called at the first failure after a success, or of a kind."""
        self._listeners.append(listener)

    @property
    def condition(self) -> Condition:
        verdicts = self._verdicts()
        for worst in (Condition.REFUSED, Condition.LOST):
            if worst in verdicts:
                return worst
        return Condition.UNKNOWN if self.heard is None else Condition.WORKS

    @property
    def error(self) -> GatewayError | None:
        """Why it is lost or refuses us; None while it is neither."""
        condition = self.condition
        now = self._clock()
        errors = [each.error for each in self._failing.values() if each.condition(now) is condition]
        return errors[-1] if errors else None

    @property
    def since(self) -> float:
        """When it came into its condition; of a lost one the first of the failures."""
        condition, now = self.condition, self._clock()
        begun = [each.first for each in self._failing.values() if each.condition(now) is condition]
        return min(begun, default=self._known_since)

    def works(self, kind: str = "") -> None:
        """A call of this kind was answered as it should be."""
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
        if self._is_told:
            seconds = round(now - min(each.first for each in recovered), 1) if recovered else None
            log.warning("dependency.recovered", dependency=self.dependency, seconds=seconds)
            self._is_told = False
            self._told.clear()

    def fails(self, error: GatewayError, kind: str = "", *, is_certain: bool = True) -> None:
        """A call of this kind failed: TroubleError where only a human can help.

        `is_certain`: False where it may be about the one message that it was made for.
        """
        now = self._clock()
        is_first = kind not in self._failing
        failing = self._failing.setdefault(kind, _Failing(error, first=now, last=now))
        failing.error, failing.last, failing.times = error, now, failing.times + 1
        failing.is_certain = failing.is_certain or is_certain
        self.last_error = error
        self.tell()
        if is_first:
            for listener in self._listeners:
                listener()

    def tell(self) -> None:
        """Logs what was not told yet. To be called from time to time, too: patience also ends without a call."""
        condition, error = self.condition, self.error
        if isinstance(error, TroubleError):
            if error.about not in self._told:
                log.error("dependency.refused", dependency=self.dependency, error=str(error))
                self._told.add(error.about)
            self._is_told = True
        elif condition is Condition.LOST and not self._is_told:
            log.warning("dependency.lost", dependency=self.dependency, error=str(error))
            self._is_told = True

    def tell_again(self) -> None:
        """Something was changed that may be the remedy: nothing is known until the next answer, which is told."""
        self._told.clear()
        self._failing.clear()
        self.heard = None
        self._known_since = self._clock()

    def _verdicts(self) -> set[Condition | None]:
        now = self._clock()
        return {each.condition(now) for each in self._failing.values()}

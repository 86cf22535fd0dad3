"""Limits when and how many broadcasts may be posted, by RapidPro's answers: a circuit breaker.

A failure of RapidPro as a whole (away, a bad token, every answer a 500) must neither spend the budget nor make many
messages ambiguous; and one bad message must not stop other messages. So a failure stops requests for a while
and allows one at a time after it; a definite answer doubles that limit, up to the configured one. Time is an
argument, in seconds of any steady clock.
"""

from typing import Final

from cht_rapidpro.domain.outgoing import Ambiguous, Answer, Created, NotSent, Refused, Throttled, Trouble

TROUBLE_PAUSE: Final = 60.0
AMBIGUOUS_IN_A_ROW: Final = 8
PROBE_AFTER: Final = 5.0  # seconds; after a longer pause a harmless request has to succeed first
_LONGEST_PAUSE: Final = 60.0


class CircuitBreaker:
    """`max_in_flight`: how many requests may be in flight; `needs_probe`: make a harmless request before the next
    send.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.max_in_flight = limit
        self.needs_probe = False
        self._stopped_until = 0.0
        self._faults = 0
        self._ambiguous = 0

    def delay(self, now: float) -> float:
        """Seconds until a request may start; 0: at once."""
        return max(0.0, self._stopped_until - now)

    def widen(self, limit: int) -> None:
        """Sets the largest `max_in_flight`; a smaller one takes effect at once."""
        if self.max_in_flight == self._limit:
            self.max_in_flight = limit
        self._limit = limit
        self.max_in_flight = min(self.max_in_flight, limit)

    def learn(self, answer: Answer, now: float) -> None:
        """Takes note of the answer to a broadcast."""
        match answer:
            case Created() | Refused():
                self._open()
            case Throttled():
                self.max_in_flight = 1
            case Trouble():
                self._close(now, TROUBLE_PAUSE)
            case NotSent():
                self._fault(now)
            case Ambiguous():
                self._ambiguous += 1
                if self._ambiguous >= AMBIGUOUS_IN_A_ROW:
                    self._fault(now)

    def probed(self, answer: Answer | None, now: float) -> None:
        """Takes note of the answer to the harmless request; None: success."""
        if answer is None:
            self.needs_probe = False
        elif isinstance(answer, Trouble):
            self._close(now, TROUBLE_PAUSE)
        elif not isinstance(answer, Throttled):
            self._fault(now)

    def reset(self) -> None:
        """Forgets what was learned, because RapidPro's address or the token has changed."""
        self._open()
        self.max_in_flight = self._limit

    def _open(self) -> None:
        self.max_in_flight = min(self._limit, self.max_in_flight * 2)
        self.needs_probe = False
        self._stopped_until = 0.0
        self._faults = self._ambiguous = 0

    def _fault(self, now: float) -> None:
        if now >= self._stopped_until:  # failures of requests that were in flight together count once
            self._faults = min(self._faults + 1, 10)
            self._close(now, min(2.0 ** (self._faults - 1), _LONGEST_PAUSE))

    def _close(self, now: float, pause: float) -> None:
        self.max_in_flight = 1
        self._stopped_until = max(self._stopped_until, now + pause)
        self.needs_probe = self.needs_probe or pause > PROBE_AFTER

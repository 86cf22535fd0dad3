"""Where each message of a claimed task is: ready, in flight, ambiguous, or done with a result.

The only place that decides whether a claim can be released. Each transition is one method; one that does not fit the
phase of its message is a fault of the program.

    READY ─post→ IN_FLIGHT           IN_FLIGHT ─not_sent→ READY
    READY ─suspect→ AMBIGUOUS        IN_FLIGHT ─ambiguous→ AMBIGUOUS
    AMBIGUOUS ─missing→ READY        IN_FLIGHT ─answered→ DONE
    AMBIGUOUS ─found→ DONE           DONE ─reopen→ AMBIGUOUS
"""

from collections.abc import Iterable
from enum import Enum, auto

from cht_rapidpro.domain.outgoing import Created, Refused
from cht_rapidpro.domain.task import MessageId

Result = Created | Refused


class SendPhase(Enum):
    READY = auto()  # certainly not sent under this claim
    IN_FLIGHT = auto()
    AMBIGUOUS = auto()  # perhaps sent: a look-up decides
    DONE = auto()


class SendState:
    """The phases of one task's messages. `is_suspect`: an earlier holder of the task may have sent them."""

    def __init__(self, messages: Iterable[MessageId], *, is_suspect: bool = False) -> None:
        self._phases = dict.fromkeys(messages, SendPhase.READY)
        self._results: dict[MessageId, Result] = {}
        self._was_ambiguous = is_suspect

    def phase(self, message: MessageId) -> SendPhase:
        return self._phases[message]

    def post(self, message: MessageId) -> None:
        """A POST of the message begins."""
        self._move(message, SendPhase.READY, SendPhase.IN_FLIGHT)

    def not_sent(self, message: MessageId) -> None:
        """Its POST has ended, and certainly nothing was created."""
        self._move(message, SendPhase.IN_FLIGHT, SendPhase.READY)

    def ambiguous(self, message: MessageId) -> None:
        """Its POST has ended, and it is not known whether RapidPro has created a broadcast."""
        self._move(message, SendPhase.IN_FLIGHT, SendPhase.AMBIGUOUS)

    def answered(self, message: MessageId, result: Result) -> None:
        """RapidPro has created a broadcast, or refuses the message."""
        self._move(message, SendPhase.IN_FLIGHT, SendPhase.DONE)
        self._results[message] = result

    def suspect(self, message: MessageId) -> None:
        """An earlier holder of the task may have sent it."""
        self._move(message, SendPhase.READY, SendPhase.AMBIGUOUS)

    def found(self, message: MessageId, result: Created) -> None:
        """The look-up has found its broadcast."""
        self._move(message, SendPhase.AMBIGUOUS, SendPhase.DONE)
        self._results[message] = result

    def missing(self, message: MessageId) -> None:
        """The look-up has shown that it was not sent."""
        self._move(message, SendPhase.AMBIGUOUS, SendPhase.READY)

    def reopen(self, message: MessageId) -> None:
        """Its broadcast belongs to another task, too."""
        self._move(message, SendPhase.DONE, SendPhase.AMBIGUOUS)
        del self._results[message]

    @property
    def is_complete(self) -> bool:
        """Whether every message has a result."""
        return len(self._results) == len(self._phases)

    @property
    def is_releasable(self) -> bool:
        """Whether certainly none of the messages was sent, under this claim or the one before."""
        return not self._was_ambiguous and self.is_unsent

    @property
    def is_unsent(self) -> bool:
        """Whether certainly none of the messages was sent, after look-ups if need be."""
        return all(phase is SendPhase.READY for phase in self._phases.values())

    @property
    def results(self) -> list[Result]:
        """The results in the order of the messages; complete when `is_complete`."""
        return [self._results[message] for message in self._phases if message in self._results]

    def _move(self, message: MessageId, before: SendPhase, after: SendPhase) -> None:
        """Raises ValueError where the message is in another phase."""
        if self._phases[message] is not before:
            raise ValueError(f"{before.name} to {after.name}, but the message is {self._phases[message].name}")
        self._phases[message] = after
        self._was_ambiguous |= after is SendPhase.AMBIGUOUS

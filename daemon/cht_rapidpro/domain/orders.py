"""The orders that an operator may give about one message, and what is known when one is decided about.

`domain/decisions.py` decides.
"""

from dataclasses import dataclass
from enum import StrEnum

from cht_rapidpro.domain.claim import Claim, claim_of
from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.reconcile import Listed
from cht_rapidpro.domain.task import Task, gateway_ref
from cht_rapidpro.domain.trace import Trace


class Phase(StrEnum):
    """Where the running daemon has a message."""

    NOWHERE = "nowhere"
    TAKEN_OVER = "from before the takeover"
    WAITING = "waiting"
    PASSED_OVER = "passed over"
    READY = "ready"
    IN_FLIGHT = "in flight"
    AMBIGUOUS = "ambiguous"
    UNDECIDABLE = "undecidable"


@dataclass(frozen=True, slots=True)
class Resend:
    """Send it, though it has an outcome."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Never send it."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """The operator says that RapidPro never got it."""


@dataclass(frozen=True, slots=True)
class SentAs:
    """The operator says that this broadcast is the message's.

    `broadcast`: as RapidPro shows it, None where it has none; `is_like`: whether its text and number are the message's;
    `is_taken`: whether another task holds it for this number.
    """

    ref: BroadcastId
    broadcast: Listed | None
    is_like: bool = False
    is_taken: bool = False


Order = Resend | Cancel | NotSent | SentAs


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known beside the task. Times: ms since the epoch, durations in ms.

    `me`: the instance id of this state directory, "" where it has none; `phase`: of the running daemon, None where none
    runs; `seen`: the task as it was when all this was asked.
    """

    now: int
    me: str
    phase: Phase | None
    trace: Trace
    seen: "Seen"
    claim_timeout: int
    settle_time: int


Seen = tuple[str, str, Claim | None]


def seen_in(task: Task) -> Seen:
    """What a decision rests on: a task of which it is another one has to be asked about anew.

    With the claim, because the running daemon renews it before it posts.
    """
    return str(task.get("state")), gateway_ref(task), claim_of(task)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, and what to do instead."""

    why: str

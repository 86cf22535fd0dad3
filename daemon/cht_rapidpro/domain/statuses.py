"""CHT's task states, and the state for each status of RapidPro (docs/cht.md#where-outgoing-messages-are).

Only this module knows both vocabularies. Invariant: every status of a broadcast has a state, also an unknown one: a
broadcast that exists has at least been received. Without this rule a new status would leave the task in its claim, and
a message that was sent would look as if it still had to be sent. A message's status comes later, when the task has a
state already: an unknown status changes nothing.
"""

from enum import StrEnum
from typing import Final, NamedTuple


class State(StrEnum):
    """The states of a task in CHT's documents (docs/cht.md#where-outgoing-messages-are)."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    FORWARDED_TO_GATEWAY = "forwarded-to-gateway"
    RECEIVED_BY_GATEWAY = "received-by-gateway"
    FORWARDED_BY_GATEWAY = "forwarded-by-gateway"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    MUTED = "muted"
    CLEARED = "cleared"
    DENIED = "denied"
    DUPLICATE = "duplicate"


class StateChange(NamedTuple):
    """The state a task is to be set to, and the `state_details` beside it."""

    state: State
    details: str


QUEUED: Final = StateChange(State.RECEIVED_BY_GATEWAY, "Queued")
_BROADCAST_OUTCOMES: Final = {
    "failed": StateChange(State.FAILED, "Failed"),
    "interrupted": StateChange(State.FAILED, "Interrupted"),
}
_ENDED: Final = ("sent", "completed")
NO_MESSAGE: Final = StateChange(State.FAILED, "No message")
ERRORED: Final = StateChange(State.RECEIVED_BY_GATEWAY, "Errored")
_MESSAGE_OUTCOMES: Final = {
    "initializing": QUEUED,
    "queued": QUEUED,
    "wired": StateChange(State.FORWARDED_BY_GATEWAY, "Wired"),
    "sent": StateChange(State.SENT, "Sent"),
    "resent": StateChange(State.SENT, "Resent"),
    "delivered": StateChange(State.DELIVERED, "Delivered"),
    "read": StateChange(State.DELIVERED, "Read"),
    "errored": ERRORED,
    "failed": StateChange(State.FAILED, "Failed"),
}


def message_outcome(status: str) -> StateChange | None:
    """What the status of an outgoing message means for its task; None for an unknown or missing status."""
    return _MESSAGE_OUTCOMES.get(status)


def broadcast_outcome(status: str) -> StateChange:
    """What the status of a broadcast means for its task; an empty one stands for a missing one.

    Broadcast statuses are not message statuses: `completed`, and the `sent` of versions up to 9.0.0, say that RapidPro
    has processed it, also where that failed, and not that a message left.
    """
    return _BROADCAST_OUTCOMES.get(status, QUEUED)


def has_ended(status: str) -> bool:
    """Whether this status of a broadcast says that RapidPro makes no more messages for it."""
    return status in _ENDED

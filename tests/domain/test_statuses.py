"""What RapidPro says about a broadcast becomes one of CHT's states, in CHT's own spelling."""

import pytest

from cht_rapidpro.domain.statuses import State, StateChange, broadcast_outcome, message_outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("failed", StateChange(State.FAILED, "Failed")),
        ("interrupted", StateChange(State.FAILED, "Interrupted")),
        *(
            (status, StateChange(State.RECEIVED_BY_GATEWAY, "Queued"))
            for status in ("pending", "queued", "started", "completed", "sent", "", "invented", "FAILED")
        ),
    ],
)
def test_broadcast_outcome(status: str, outcome: StateChange) -> None:
    assert broadcast_outcome(status) == outcome


def test_states_are_spelled_as_in_cht() -> None:
    assert [str(state) for state in State] == [
        "scheduled",
        "pending",
        "forwarded-to-gateway",
        "received-by-gateway",
        "forwarded-by-gateway",
        "sent",
        "delivered",
        "failed",
        "muted",
        "cleared",
        "denied",
        "duplicate",
    ]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("initializing", StateChange(State.RECEIVED_BY_GATEWAY, "Queued")),
        ("queued", StateChange(State.RECEIVED_BY_GATEWAY, "Queued")),
        ("wired", StateChange(State.FORWARDED_BY_GATEWAY, "Wired")),
        ("sent", StateChange(State.SENT, "Sent")),
        ("resent", StateChange(State.SENT, "Resent")),
        ("delivered", StateChange(State.DELIVERED, "Delivered")),
        ("read", StateChange(State.DELIVERED, "Read")),
        ("errored", StateChange(State.RECEIVED_BY_GATEWAY, "Errored")),
        ("failed", StateChange(State.FAILED, "Failed")),
        *((status, None) for status in ("", "handled", "completed", "DELIVERED", "invented")),
    ],
)
def test_message_outcome(status: str, outcome: StateChange | None) -> None:
    assert message_outcome(status) == outcome

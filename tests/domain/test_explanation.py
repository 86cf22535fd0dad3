"""One sentence for each situation that a message may be in."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.delivery import MessageRow
from cht_rapidpro.domain.explanation import Daemon, Known, explain
from cht_rapidpro.domain.orders import Phase
from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Task
from cht_rapidpro.domain.trace import Trace
from tests.domain.test_decisions import CLAIMED, ME, NOW, OTHER, found_tasks, task, traces

RUNS = Known(NOW, ME.id, Daemon(), Trace(base="https://r"), "", "", 60.0, 600.0, None)
CASES: dict[str, tuple[Task, dict[str, Any], str]] = {
    "no daemon": (task("pending"), {"daemon": None}, "No daemon is running: it is sent in its turn once it does."),
    "no daemon, paused": (
        task("pending"),
        {"daemon": None, "paused": "until noon"},
        "No daemon is running, and sending is paused until noon: it is sent in its turn once it does.",
    ),
    "another gateway": (task("pending"), {"not_ours": "'x' is chosen"}, "Nothing is sent: 'x' is chosen."),
    "paused": (task("pending"), {"paused": "until noon"}, "Sending is paused until noon: it is sent after that"),
    "next": (task("pending"), {"daemon": Daemon(Phase.WAITING, 0)}, "It is the next, and it is sent in its turn."),
    "behind others": (task("pending"), {"daemon": Daemon(Phase.WAITING, 7)}, "7 others go before it"),
    "trouble": (
        task("pending"),
        {"daemon": Daemon(Phase.WAITING, 0, troubles=["RapidPro does not answer."])},
        "RapidPro does not answer. It goes out when that is over.",
    ),
    "passed over": (task("pending"), {"daemon": Daemon(Phase.PASSED_OVER, again_in=90.0)}, "again in 1 min 30 s"),
    "not seen": (task("pending"), {}, "the next look at CouchDB, within 1 min 0 s, brings it."),
    "held back": (
        task("pending"),
        {"daemon": Daemon(held_back="too large")},
        "Its document takes no claim: too large.",
    ),
    "no text": ({"state": "pending"}, {}, "it is never sent. `messages cancel` ends it."),
    "expired": ({**task("pending"), "due": NOW - 7_200_000}, {"expire_after": 3600.0}, "it fails as Expired, unsent"),
    "another daemon's": (task("forwarded-to-gateway", details=OTHER.details), {}, f"Another daemon ({OTHER.id})"),
    "stopped": (task("forwarded-to-gateway", **CLAIMED), {"daemon": None}, "is not running: the next start looks up"),
    "ready": (task("forwarded-to-gateway", **CLAIMED), {"daemon": Daemon(Phase.READY)}, "surely not sent yet"),
    "in flight": (task("forwarded-to-gateway", **CLAIMED), {"daemon": Daemon(Phase.IN_FLIGHT)}, "sent this moment"),
    "ambiguous": (
        task("forwarded-to-gateway", **CLAIMED),
        {"daemon": Daemon(Phase.AMBIGUOUS, next_look_in=30.0)},
        "RapidPro is asked in 30 s; it is adopted where it is found",
    ),
    "absent in a pause": (
        task("forwarded-to-gateway", **CLAIMED),
        {"daemon": Daemon(Phase.AMBIGUOUS), "paused": "until noon"},
        "It was not sent, and sending is paused until noon",
    ),
    "undecidable": (task("forwarded-to-gateway", **CLAIMED), {"daemon": Daemon(Phase.UNDECIDABLE)}, "only a human can"),
    "sent": (
        task("sent", "57"),
        {"trace": Trace(rows=(MessageRow(BroadcastId("57"), None, "wired", NOW),))},
        "It was sent: RapidPro has it as broadcast 57, wired. The running daemon asks for its next state.",
    ),
    "given up": (
        task("sent", "57"),
        {"trace": Trace(rows=(MessageRow(BroadcastId("57"), None, "failed", NOW),))},
        "RapidPro has given it up (broadcast 57: failed).",
    ),
    "archived": (task("sent", "57"), {}, "RapidPro at https://r does not show"),
    "cannot be asked": (task("sent", "57"), {"trace": Trace(problem="no answer")}, "cannot be asked now: no answer."),
    "another's": (task("sent"), {}, "another gateway has it"),
    "failed": (task("failed", details="Too long"), {}, "It has failed: Too long. Nothing happens by itself"),
    "delivered": (task("delivered"), {}, "The phone has it."),
    "muted": (task("muted"), {}, "CHT does not want it sent: it is `muted`."),
    "scheduled": ({**task("scheduled"), "due": NOW}, {}, "when it is due, at 2026-11-28T"),
}


@pytest.mark.parametrize(("found", "known", "says"), CASES.values(), ids=CASES)
def test_the_explanation_says_the_reason_and_the_next_step(found: Task, known: dict[str, Any], says: str) -> None:
    assert says in explain(found, {}, replace(RUNS, **known))


@given(
    found_tasks,
    traces,
    st.none() | st.builds(Daemon, st.sampled_from(Phase)),
    st.sampled_from(["", "until noon"]),
    st.sampled_from(["", "another is chosen"]),
)
def test_each_task_has_an_explanation(
    found: Task, trace: Trace, daemon: Daemon | None, paused: str, not_ours: str
) -> None:
    """And says of nothing that may have been sent that it was not."""
    said = explain(found, {}, replace(RUNS, trace=trace, daemon=daemon, paused=paused, not_ours=not_ours))
    assert said.endswith(".")
    if found["state"] in (State.SENT, State.DELIVERED, State.RECEIVED_BY_GATEWAY):
        assert "not sent" not in said

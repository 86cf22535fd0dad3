"""What an operator may order about a message: nothing that a phone could get twice."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.claim import ClaimTasks, Instance, orders
from cht_rapidpro.domain.decisions import decide
from cht_rapidpro.domain.delivery import MessageRow
from cht_rapidpro.domain.orders import (
    Cancel,
    NotSent,
    Order,
    Phase,
    Refusal,
    Resend,
    SentAs,
    Situation,
    seen_in,
)
from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.reconcile import Listed
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Change, MessageId, Task, enter_state, timestamp
from cht_rapidpro.domain.trace import Fate, Trace

NOW = 1_795_860_000_000
ME, OTHER = Instance("0" * 32, "here"), Instance("f" * 32, "there")
REF = BroadcastId("57")
MADE = Listed(REF, ("tel:+254712345678",), "hello", NOW - 60_000, "completed")
HIDDEN = Listed(BroadcastId("58"), None, "hello", NOW - 60_000, "completed")


def row(status: str) -> MessageRow:
    return MessageRow(REF, "tel:+254712345678", status, NOW - 60_000)


def trace(*statuses: str, **fields: Any) -> Trace:
    return Trace(fields.pop("broadcast", None), tuple(row(status) for status in statuses), base="https://r", **fields)


def task(state: str, ref: str = "", details: str = "", ago: int = 0, count: int = 1) -> Task:
    entry = {"state": state, "state_details": details, "timestamp": timestamp(NOW - ago * 1000)}
    made: Task = {"state": state, "state_details": details, "state_history": [entry]}
    made["messages"] = [{"uuid": f"m-{each}", "to": "+254712345678", "message": "hello"} for each in range(count)]
    return {**made, "gateway_ref": ref} if ref else made


def order_on(order: Order, found: Task, known: Trace, phase: Phase | None = None) -> Change | Refusal:
    situation = Situation(NOW, ME.id, phase, known, seen_in(found), 600_000, 120_000)
    return decide(order, [found], situation)


CLAIMED: dict[str, Any] = {"details": ME.details, "ago": 3600}
ALLOWED: dict[str, tuple[Order, Task, Trace, Phase | None, State]] = {
    "refused by RapidPro": (Resend(), task("failed"), Trace(), None, State.PENDING),
    "given up by RapidPro": (Resend(), task("failed", "57"), trace("failed", "failed"), None, State.PENDING),
    "sent, CHT has not heard": (Resend(), task("sent", "57"), trace("failed"), None, State.PENDING),
    "a broadcast that failed": (
        Resend(),
        task("failed", "57"),
        trace(broadcast=Listed(REF, None, "hello", 0, "failed")),
        None,
        State.PENDING,
    ),
    "several, none accepted": (Resend(), task("failed", count=2), Trace(), None, State.PENDING),
    "cancel what waits": (Cancel(), task("pending"), Trace(), Phase.WAITING, State.CLEARED),
    "cancel what is scheduled": (Cancel(), task("scheduled"), Trace(), None, State.CLEARED),
    "cancel what has no text": (Cancel(), {"state": "pending"}, Trace(), None, State.CLEARED),
    "undecidable, not sent": (
        NotSent(),
        task("forwarded-to-gateway", **CLAIMED),
        trace(candidates=(HIDDEN,)),
        Phase.UNDECIDABLE,
        State.PENDING,
    ),
    "claimed by a stopped daemon": (NotSent(), task("forwarded-to-gateway", **CLAIMED), trace(), None, State.PENDING),
    "archived, not sent": (NotSent(), task("sent", "57"), trace(), Phase.NOWHERE, State.PENDING),
    "undecidable, sent": (
        SentAs(REF, MADE, is_like=True),
        task("forwarded-to-gateway", **CLAIMED),
        trace(candidates=(MADE,)),
        Phase.UNDECIDABLE,
        State.RECEIVED_BY_GATEWAY,
    ),
}
REFUSED: dict[str, tuple[Order, Task, Trace, Phase | None, str]] = {
    "delivered": (Resend(), task("delivered", "57"), trace("failed"), None, "the phone has it"),
    "errored is tried again": (
        Resend(),
        task("failed", "57"),
        trace("errored"),
        None,
        "57, errored: the phone may get",
    ),
    "one of two alive": (Resend(), task("failed", "57"), trace("failed", "wired"), None, "57, wired"),
    "an unknown status": (Resend(), task("failed", "57"), trace("teleported"), None, "57, teleported"),
    "no message yet": (Resend(), task("failed", "57"), trace(broadcast=MADE), None, "57, completed"),
    "not shown": (Resend(), task("failed", "57"), trace(), None, "archived or of another workspace"),
    "not asked": (Resend(), task("failed", "57"), Trace(problem="no answer"), None, "cannot be asked what became"),
    "several, one accepted": (Resend(), task("failed", "57", count=2), trace("failed"), None, "would get it twice"),
    "no text": (Resend(), {"state": "failed"}, Trace(), None, "no number or no text"),
    "unknown state": (Resend(), task("teleported"), Trace(), None, "'teleported' is none that CHT knows"),
    "cancel unclaimed": (Cancel(), task("forwarded-to-gateway"), Trace(), None, "another gateway has it"),
    "cancel claimed": (Cancel(), task("forwarded-to-gateway", **CLAIMED), Trace(), None, "gives unused claims back"),
    "running decides": (
        NotSent(),
        task("forwarded-to-gateway", **CLAIMED),
        trace(),
        Phase.AMBIGUOUS,
        "the running daemon has it (ambiguous) and decides by itself",
    ),
    "in flight": (NotSent(), task("forwarded-to-gateway", **CLAIMED), trace(), Phase.IN_FLIGHT, "(in flight)"),
    "just stopped": (
        NotSent(),
        task("forwarded-to-gateway", details=ME.details, ago=60),
        trace(),
        None,
        "claimed it 60 s ago and may have it under way: wait until 120 s",
    ),
    "another's": (
        NotSent(),
        task("forwarded-to-gateway", details=OTHER.details, ago=300),
        trace(),
        None,
        "another daemon (ffffffff…) claimed it 300 s ago",
    ),
    "it is shown": (
        NotSent(),
        task("forwarded-to-gateway", **CLAIMED),
        trace(candidates=(MADE,)),
        Phase.UNDECIDABLE,
        "`messages settle --ref 57`",
    ),
    "not sent, but alive": (
        NotSent(),
        task("sent", "57"),
        trace("wired"),
        None,
        "RapidPro has it as broadcast 57, wired",
    ),
    "not sent, given up": (NotSent(), task("sent", "57"), trace("failed"), None, "`messages resend` sends it again"),
    "not sent, not asked": (NotSent(), task("sent", "57"), Trace(problem="away"), None, "cannot be asked whether"),
    "failed unsent": (NotSent(), task("failed"), trace(), None, "has failed unsent"),
    "settle several": (
        NotSent(),
        task("forwarded-to-gateway", **CLAIMED, count=2),
        trace(),
        Phase.UNDECIDABLE,
        "share one state",
    ),
    "another's broadcast": (
        SentAs(REF, MADE, is_like=True, is_taken=True),
        task("forwarded-to-gateway", **CLAIMED),
        trace(),
        Phase.UNDECIDABLE,
        "is another message's already",
    ),
    "another text": (
        SentAs(REF, MADE),
        task("forwarded-to-gateway", **CLAIMED),
        trace(),
        Phase.UNDECIDABLE,
        "another text or another number",
    ),
    "no broadcast": (
        SentAs(REF, None),
        task("forwarded-to-gateway", **CLAIMED),
        trace(),
        Phase.UNDECIDABLE,
        "https://r shows no broadcast 57",
    ),
    "settle what waits": (SentAs(REF, MADE, is_like=True), task("pending"), trace(), None, "nothing to settle"),
}


@pytest.mark.parametrize(("order", "found", "known", "phase", "state"), ALLOWED.values(), ids=ALLOWED)
def test_an_accepted_order_names_the_command_in_the_details(
    order: Order, found: Task, known: Trace, phase: Phase | None, state: State
) -> None:
    decided = order_on(order, found, known, phase)
    assert isinstance(decided, Change), decided
    assert decided.state == state
    assert "operator" in decided.details
    assert "cht-rapidpro messages" in decided.details
    if state is State.PENDING:
        assert decided.gateway_ref == "", "a claim without a ref is what the look-up knows"


@pytest.mark.parametrize(("order", "found", "known", "phase", "why"), REFUSED.values(), ids=REFUSED)
def test_a_refused_order_says_why(order: Order, found: Task, known: Trace, phase: Phase | None, why: str) -> None:
    decided = order_on(order, found, known, phase)
    assert isinstance(decided, Refusal), decided
    assert why in decided.why


def test_a_message_that_is_gone_or_in_two_tasks_is_refused() -> None:
    situation = Situation(NOW, ME.id, None, Trace(), seen_in({}), 1, 1)
    for found, why in (([], "is gone"), ([task("failed")] * 2, "2 tasks of its document hold this uuid")):
        decided = decide(Resend(), found, situation)
        assert isinstance(decided, Refusal)
        assert why in decided.why


@pytest.mark.parametrize(
    "before",
    [task("failed", "56"), task("sent", "57"), task("failed", "57", details="x")],
    ids=["another broadcast", "another state", "as it was"],
)
def test_a_task_that_changed_since_rapidpro_was_asked_is_refused(before: Task) -> None:
    situation = Situation(NOW, ME.id, None, trace("failed"), seen_in(before), 1, 1)
    decided = decide(Resend(), [task("failed", "57")], situation)
    if before.get("state_details"):
        assert isinstance(decided, Change)
    else:
        assert isinstance(decided, Refusal)
        assert "changed this moment" in decided.why


def test_a_claim_that_was_renewed_meanwhile_is_not_settled() -> None:
    """The running daemon renews it before it posts: what it said of the message was true before."""
    before, after = task("forwarded-to-gateway", **CLAIMED), task("forwarded-to-gateway", details=ME.details, ago=1)
    situation = Situation(NOW, ME.id, Phase.UNDECIDABLE, trace(), seen_in(before), 1, 1)
    decided = decide(NotSent(), [after], situation)
    assert isinstance(decided, Refusal)
    assert "changed this moment" in decided.why


statuses = st.sampled_from(["queued", "wired", "sent", "delivered", "errored", "failed", "read", "", "new"])
traces = st.builds(
    Trace,
    st.none() | st.just(MADE),
    st.lists(statuses.map(row), max_size=2).map(tuple),
    st.lists(st.sampled_from([MADE, HIDDEN]), max_size=1).map(tuple),
    st.sampled_from(["", "", "no answer"]),
)
found_tasks = st.builds(
    task,
    st.sampled_from([*map(str, State), "odd"]),
    st.sampled_from(["", "57"]),
    st.sampled_from(["", ME.details, OTHER.details]),
    st.integers(0, 2000),
    st.integers(0, 2),
)
ordered = st.sampled_from([Resend(), Cancel(), NotSent(), SentAs(REF, MADE, is_like=True), SentAs(REF, None)])


@given(ordered, found_tasks, traces, st.none() | st.sampled_from(Phase))
def test_nothing_that_may_be_under_way_is_ever_made_pending(
    order: Order, found: Task, known: Trace, phase: Phase | None
) -> None:
    decided = order_on(order, found, known, phase)
    if not isinstance(decided, Change) or decided.state != State.PENDING:
        return
    assert found["state"] not in ("delivered", "pending", "scheduled", "muted", "cleared", "denied", "duplicate", "odd")
    assert len(found["messages"]) == 1 or (found["state"] == "failed" and "gateway_ref" not in found)
    if "gateway_ref" in found:
        assert known.fate in ((Fate.DEAD,) if isinstance(order, Resend) else (Fate.MISSING,))
    if found["state"] == "forwarded-to-gateway" and "gateway_ref" not in found:
        assert isinstance(order, NotSent)
        is_ours = found["state_details"] == ME.details
        assert (
            (phase is Phase.UNDECIDABLE)
            if is_ours and phase
            else found["state_history"][-1]["timestamp"] <= timestamp(NOW - (120_000 if is_ours else 600_000))
        )


def test_an_ordered_resend_does_not_expire_at_once_and_knows_its_former_broadcast() -> None:
    expired = {**task("failed", "57"), "due": timestamp(NOW - 10 * 86_400_000)}
    change = order_on(Resend(), expired, trace("failed"))
    assert isinstance(change, Change)
    again = enter_state(expired, change, NOW)
    assert orders(again) == [(NOW, "57")]
    for after, state in ((60_000, "forwarded-to-gateway"), (7_200_000, "failed")):
        claim = ClaimTasks(ME, {MessageId("m-0")}, NOW + after, expire_before=NOW + after - 3_600_000)
        assert claim({"_id": "d", "tasks": [again]})["tasks"][0]["state"] == state

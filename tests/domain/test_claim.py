"""Claims: whatever two instances do to one revision after another, never do both hold the task."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cht_rapidpro.domain.claim import (
    Claim,
    ClaimTasks,
    Instance,
    claim_of,
    earlier_claim,
    knows_claim,
    past,
    release,
    renew,
    settle,
)
from cht_rapidpro.domain.edit import Edit, holding
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Change, Doc, MessageId, Task, timestamp
from tests.domain.test_task import documents

ME = Instance("0123456789abcdef" * 2, "here")
OTHER = Instance("f" * 32, "there")
M1 = MessageId("m-1")
NOW = 1795333065550
TIMEOUT = 600_000
DAY = 86_400_000
QUEUED = Change(State.RECEIVED_BY_GATEWAY, "Queued", "17")
REFUSED = Change(State.FAILED, "Invalid URN")


def entry(state: str, details: object = None, at: int = NOW - 1) -> dict[str, object]:
    optional = {} if details is None else {"state_details": details}
    return {"state": state, **optional, "timestamp": timestamp(at)}


def a_task(*past: dict[str, object], uuid: str = "m-1", **fields: object) -> Task:
    """A task as its history says; pending and without a past where there is none."""
    last = {name: value for name, value in past[-1].items() if name != "timestamp"} if past else {"state": "pending"}
    message = {"uuid": uuid, "to": "+254712345678", "message": "text"}
    return {"messages": [message], **last, **({"state_history": list(past)} if past else {}), **fields}


def claimed(by: Instance, at: int = NOW) -> dict[str, object]:
    return entry("forwarded-to-gateway", by.details, at)


def document(*tasks: Task) -> Doc:
    return {"_id": "doc", "_rev": "1-a", "tasks": list(tasks)}


def claim(
    now: int = NOW, me: Instance = ME, expire_before: int | None = None, stale: Sequence[Claim] = ()
) -> ClaimTasks:
    return ClaimTasks(me, {M1}, now, stale=stale, expire_before=expire_before)


def the_task(doc: Doc) -> Task:
    return holding(doc, [M1])[M1][0]


PENDING = entry("pending")
FOREIGN = entry("forwarded-to-gateway", "by CHT's own gateway")


SEEN, FUTURE, UNDATED = Claim(OTHER.id, NOW - 7), Claim(OTHER.id, NOW + 365 * DAY), Claim(OTHER.id, 0)


@pytest.mark.parametrize(
    ("task", "holder", "earlier"),
    [
        (a_task(), ME, None),
        (a_task(PENDING, gateway_ref="9"), ME, None),
        (a_task(PENDING, state_history="broken"), ME, None),
        (a_task(FOREIGN, gateway_ref=9), ME, None),
        (a_task(claimed(OTHER), gateway_ref="9"), ME, Claim(OTHER.id, NOW)),
        (a_task(claimed(OTHER, NOW - TIMEOUT)), OTHER, None),
        (a_task(claimed(OTHER, 0)), OTHER, None),
        (a_task(claimed(OTHER, NOW - 7)), ME, SEEN),
        (a_task(claimed(OTHER, NOW + 365 * DAY)), ME, FUTURE),
        (a_task({**claimed(OTHER), "timestamp": "broken"}), ME, UNDATED),
        (a_task(claimed(ME, NOW - 1)), ME, Claim(ME.id, NOW - 1)),
        (a_task(claimed(OTHER), PENDING), ME, None),
        (a_task(entry("sent")), None, None),
        (a_task(entry("muted")), None, None),
        (a_task(PENDING, uuid="m-2"), None, None),
    ],
)
def test_after_a_claim_each_task_has_its_holder_and_earlier_claim(
    task: Task, holder: Instance | None, earlier: Claim | None
) -> None:
    """A stamp decides nothing: another instance's claim is taken over when it was seen unchanged for long enough."""
    before = document(task, a_task(PENDING, uuid="m-9"))
    after = claim(stale=(SEEN, FUTURE, Claim(OTHER.id, 0)) if earlier in (SEEN, FUTURE, UNDATED) else ())(before)
    found = after["tasks"][0]
    held = claim_of(found)
    assert (held.instance if held else None) == (holder.id if holder else None)
    assert claim().won(after) == ([found] if holder is ME else [])
    assert after["tasks"][1] is before["tasks"][1]
    if holder is ME:
        assert "gateway_ref" not in found
        assert found["state_details"] == (ME.lookup_details if earlier and "gateway_ref" not in task else ME.details)
        assert earlier_claim(found) == earlier
    else:
        assert after is before


def test_a_claim_names_its_instance_so_that_an_operator_finds_it() -> None:
    assert ME.details == "Claimed by cht-rapidpro 0123456789abcdef0123456789abcdef on here"


@pytest.mark.parametrize(
    ("task", "expired"),
    [
        (a_task(due=NOW - 2), True),
        (a_task(FOREIGN, due=NOW - 2), True),
        (a_task(due=NOW - 1), False),
        (a_task(due="unreadable"), False),
        (a_task(claimed(ME, NOW - 9), due=NOW - 2), False),
        (a_task(claimed(OTHER, 1), due=NOW - 2), False),
    ],
)
def test_only_an_unclaimed_task_expires(task: Task, expired: bool) -> None:
    after = claim(expire_before=NOW - 1, stale=[Claim(OTHER.id, 1)])(document(task))
    assert the_task(after)["state"] == ("failed" if expired else "forwarded-to-gateway")
    assert (the_task(after)["state_details"] == "Expired") == expired


@pytest.mark.parametrize(
    ("task", "renewed"),
    [
        (a_task(claimed(ME, NOW - 9)), True),
        (a_task(claimed(ME, NOW - 8)), False),
        (a_task(claimed(OTHER, NOW - 9)), False),
        (a_task(claimed(ME, NOW - 9), gateway_ref="17"), False),
        (a_task(PENDING), False),
    ],
)
def test_only_the_very_claim_that_is_held_is_renewed(task: Task, renewed: bool) -> None:
    before = document(task)
    after = renew(ME, M1, NOW - 9, NOW, sends=True)(before)
    assert (claim_of(the_task(after)) == Claim(ME.id, NOW)) == renewed
    assert (after is not before) == renewed


def test_a_claim_that_changes_hands_for_days_fills_no_document() -> None:
    doc = document(a_task(PENDING))
    moments = range(NOW, NOW + 300 * (TIMEOUT + 1), TIMEOUT + 1)
    for number, now in enumerate(moments):
        me, other = (ME, OTHER) if number % 2 == 0 else (OTHER, ME)
        doc = claim(now, me, stale=[Claim(other.id, now - TIMEOUT - 1)])(doc)
    task = the_task(doc)
    assert task["state_history"][0] == PENDING
    assert len(task["state_history"]) <= 6
    assert past(task, doc).earliest == NOW, "what was sent under the first claim is looked for"
    assert past(task, doc).last_sending == NOW, "under the later ones it was only looked up"
    assert claim_of(task) == Claim(OTHER.id, moments[-1])
    assert earlier_claim(task) == Claim(ME.id, moments[-2])
    assert all(knows_claim(task, Claim(me.id, moment)) for moment in moments[:-1] for me in (ME, OTHER))
    renewed = the_task(renew(OTHER, M1, moments[-1], moments[-1] + 1, sends=True)(doc))
    assert len(renewed["state_history"]) <= 6
    assert past(renewed, doc).earliest == NOW


def test_a_row_of_claims_began_at_its_earliest_moment_whichever_way_the_clocks_stepped() -> None:
    """The first claim was written by a clock that was ahead: what was sent under it is older than it says."""
    doc = document(a_task(PENDING, claimed(ME, NOW + 5000), claimed(OTHER, NOW), claimed(ME, NOW + 1)))
    for now in range(NOW + 2, NOW + 6):
        doc = claim(now)(doc)
        assert past(the_task(doc), doc).earliest == NOW


def test_a_renewed_claim_says_whether_a_post_may_begin_under_it() -> None:
    doc = document(a_task(PENDING, claimed(ME, NOW)))
    looking = renew(ME, M1, NOW, NOW + 1, sends=False)(doc)
    assert past(the_task(looking), looking).last_sending == NOW
    again = claim(NOW + 3)(renew(ME, M1, NOW + 1, NOW + 2, sends=True)(looking))
    assert past(the_task(again), again).last_sending == NOW + 2


HOUR = 3_600_000


@pytest.mark.parametrize(
    ("entries", "start"),
    [
        ([entry("pending", at=NOW - HOUR), claimed(ME, NOW - 60)], NOW - HOUR),
        ([entry("pending", at=NOW - 9 * DAY), claimed(ME, NOW - HOUR)], NOW - HOUR - DAY),
        ([entry("pending", at=NOW - HOUR), claimed(ME, NOW + 3 * HOUR)], NOW - HOUR),
        ([entry("pending", at=NOW - HOUR), claimed(ME, NOW + 3 * HOUR), claimed(ME, NOW - 5)], NOW - HOUR),
        (
            [entry("scheduled", at=NOW - 9 * DAY), entry("pending", at=NOW + DAY), claimed(ME, NOW + HOUR)],
            NOW - 9 * DAY,
        ),
        ([entry("pending", at=NOW - HOUR), {**claimed(ME), "timestamp": "broken"}], NOW - HOUR),
        ([entry("pending", at=NOW), claimed(ME, NOW - HOUR)], NOW - HOUR),
        ([claimed(ME, NOW + HOUR)], NOW - 2 * DAY),
    ],
)
def test_a_look_begins_where_no_clock_can_have_hidden_the_send(entries: list[dict[str, object]], start: int) -> None:
    """The window begins at the entry before the claims; a claim from the future does not shorten it."""
    task = a_task(*entries, due=NOW - 2 * DAY)
    doc = claim(NOW + 2)(document(task))
    assert past(the_task(doc), doc).sent_after(NOW + 1) == start


@pytest.mark.parametrize(
    ("entries", "bound"),
    [
        ([PENDING, claimed(ME, NOW)], NOW),
        ([PENDING, claimed(ME, NOW), claimed(OTHER, NOW + 5)], NOW + 5),
        ([entry("pending", at=NOW), claimed(ME, NOW - 1)], None),
        ([PENDING, {**claimed(ME), "timestamp": "broken"}], None),
    ],
)
def test_a_stamp_that_cannot_be_true_bounds_no_attempt(entries: list[dict[str, object]], bound: int | None) -> None:
    task = a_task(*entries, claimed(ME, NOW + 9))
    assert past(task, document(task)).last_sending == bound


@pytest.mark.parametrize(
    "task",
    [
        a_task(PENDING),
        a_task(entry("scheduled"), entry("pending", "in its hours")),
        a_task(claimed(OTHER), entry("pending", "Released by cht-rapidpro")),
        a_task(PENDING, gateway_ref="9"),
        a_task(PENDING, gateway_ref=2**80, big=2**80, group=1),
    ],
)
def test_a_release_takes_the_claim_back_exactly(task: Task) -> None:
    before = document(task)
    expected = {**before, "tasks": [{name: task[name] for name in task if name != "gateway_ref"}]}
    assert release(ME, M1, NOW + 1)(claim()(before)) == expected


@pytest.mark.parametrize("past", [[], [FOREIGN], [claimed(OTHER, 1)], [claimed(ME, NOW - 9)]])
def test_a_release_without_pending_before_it_is_a_history_entry(past: list[dict[str, object]]) -> None:
    held = claim(stale=[Claim(OTHER.id, 1)])(document(a_task(*past)))
    task = the_task(release(ME, M1, NOW + 1)(held))
    assert task["state"] == "pending"
    assert [one["state"] for one in task["state_history"]][:-1] == ["forwarded-to-gateway"] * (len(past) + 1)
    assert task["state_history"][-1] == entry("pending", "Released by cht-rapidpro", NOW + 1)


@pytest.mark.parametrize("past", [claimed(OTHER), PENDING, entry("muted"), entry("received-by-gateway", "Queued")])
def test_a_state_of_another_program_is_not_released(past: dict[str, object]) -> None:
    before = document(a_task(PENDING, past))
    assert release(ME, M1, NOW)(before) is before


@pytest.mark.parametrize("change", [QUEUED, REFUSED])
@pytest.mark.parametrize("past", [claimed(ME), claimed(OTHER), PENDING, entry("muted"), entry("cleared"), FOREIGN])
def test_settling_finds_the_task_by_uuid_in_any_state(past: dict[str, object], change: Change) -> None:
    stranger = a_task(claimed(ME), uuid="m-2")
    before = {**document(stranger, a_task(past)), "scheduled_tasks": [a_task(uuid="m-3")]}
    after = settle(ME, M1, change, NOW)(before)
    task = the_task(after)
    assert (task["state"], task["state_details"], task.get("gateway_ref")) == (
        change.state,
        change.details,
        change.gateway_ref,
    )
    assert (after["tasks"][0], after["scheduled_tasks"]) == (stranger, before["scheduled_tasks"])


@pytest.mark.parametrize("change", [QUEUED, REFUSED])
@pytest.mark.parametrize("before", [document(), document(a_task(entry("delivered"))), document(a_task(uuid="m-2"))])
def test_settling_leaves_delivered_tasks_and_deleted_ones(before: Doc, change: Change) -> None:
    assert settle(ME, M1, change, NOW)(before) is before


def test_settling_means_the_task_that_we_have_claimed() -> None:
    after = settle(ME, M1, QUEUED, NOW)(document(a_task(entry("muted")), a_task(claimed(ME))))
    assert [task["state"] for task in after["tasks"]] == ["muted", "received-by-gateway"]


def test_settling_again_after_a_lost_answer_leaves_a_task_of_the_same_uuid_alone() -> None:
    once = settle(ME, M1, QUEUED, NOW)(document(a_task(entry("muted")), a_task(claimed(ME))))
    assert settle(ME, M1, QUEUED, NOW)(once) is once


EDITS: dict[str, Edit] = {
    "claim": claim(),
    "expire": claim(expire_before=NOW),
    "renew": renew(ME, M1, NOW - 9, NOW, sends=True),
    "release": release(ME, M1, NOW),
    "settle": settle(ME, M1, QUEUED, NOW),
    "refuse": settle(ME, M1, REFUSED, NOW),
}
pasts = st.lists(
    st.sampled_from(
        [PENDING, FOREIGN, entry("delivered"), entry("muted"), claimed(ME, NOW - 9), claimed(ME), claimed(OTHER, 0)]
    ),
    max_size=3,
)
tasks_in_use = st.builds(
    lambda past, uuid, fields: a_task(*past, uuid=uuid, **fields),
    pasts,
    st.sampled_from(["m-1", "m-2"]),
    st.sampled_from([{}, {"gateway_ref": 9}, {"due": 1}]),
)


@given(
    tasks=st.lists(tasks_in_use, max_size=2, unique_by=lambda task: task["messages"][0]["uuid"]),
    name=st.sampled_from(sorted(EDITS)),
)
def test_an_edit_applied_twice_is_the_edit_applied_once(tasks: list[Task], name: str) -> None:
    once = EDITS[name](document(*tasks))
    assert EDITS[name](once) is once


@given(doc=documents, name=st.sampled_from(sorted(EDITS)))
def test_no_document_makes_an_edit_raise(doc: Doc, name: str) -> None:
    assert EDITS[name](doc)["_id"] == "doc"


@dataclass
class Store:
    """One document under CouchDB's rule: a write wins only against the latest revision."""

    doc: Doc
    revision: int = 1
    now: int = NOW

    def write(self, doc: Doc, against: int) -> bool:
        if against == self.revision:
            self.doc, self.revision = doc, self.revision + 1
            return True
        return False


@dataclass
class Daemon:
    """What one instance knows: a copy of the document, perhaps stale, and since when it believes to hold the task."""

    me: Instance
    copy: Doc = field(default_factory=dict)
    revision: int = 0
    held_since: int | None = None
    stamp: int = 0
    seen: dict[Claim, int] = field(default_factory=dict)

    def read(self, store: Store) -> None:
        self.copy, self.revision = store.doc, store.revision
        found = claim_of(the_task(store.doc))
        self.seen = {found: self.seen.get(found, store.now)} if found else {}

    def apply(self, store: Store, edit: Edit, answer_is_lost: bool) -> Doc:
        """As the writer does it: again on the latest revision after a conflict and after a lost answer."""
        new = edit(self.copy)
        if new is self.copy:
            return new
        if store.write(new, self.revision) and not answer_is_lost:
            self.read(store)
            return new
        self.read(store)
        return self.apply(store, edit, answer_is_lost=False)


@pytest.mark.parametrize("order", [(ME, OTHER), (OTHER, ME)])
def test_of_two_that_claim_the_same_revision_the_first_wins(order: tuple[Instance, Instance]) -> None:
    store = Store(document(a_task()))
    daemons = [Daemon(me) for me in order]
    for daemon in daemons:
        daemon.read(store)
    won = [claim(NOW, daemon.me).won(daemon.apply(store, claim(NOW, daemon.me), False)) for daemon in daemons]
    assert [len(tasks) for tasks in won] == [1, 0]


either = st.integers(0, 1)


class TwoDaemons(RuleBasedStateMachine):
    """Two instances act on their copies in any order; time passes; others set the task back to `pending`."""

    @initialize(task=st.sampled_from([a_task(), a_task(PENDING), a_task(FOREIGN, gateway_ref=9)]))
    def begin(self, task: Task) -> None:
        self.now = NOW
        self.ahead = [0, 0]
        self.store = Store(document(task))
        self.daemons = [Daemon(ME), Daemon(OTHER)]
        for daemon in self.daemons:
            daemon.read(self.store)

    @rule(who=either)
    def read(self, who: int) -> None:
        self.daemons[who].read(self.store)

    @rule(who=either, lost=st.booleans())
    def claim(self, who: int, lost: bool) -> None:
        daemon = self.daemons[who]
        if daemon.held_since is None:
            stale = [seen for seen, since in daemon.seen.items() if self.now - since > TIMEOUT]
            edit = claim(self.clock(who), daemon.me, stale=stale)
            self.believe(who, edit.won(daemon.apply(self.store, edit, lost)))

    @rule(who=either, lost=st.booleans())
    def renew(self, who: int, lost: bool) -> None:
        daemon = self.daemons[who]
        if daemon.held_since is not None:
            edit = renew(daemon.me, M1, daemon.stamp, self.clock(who), sends=True)
            task = the_task(daemon.apply(self.store, edit, lost))
            self.believe(who, [task] if claim_of(task) == Claim(daemon.me.id, self.clock(who)) else [])

    def believe(self, who: int, held: list[Task]) -> None:
        self.daemons[who].held_since = self.now if held else None
        self.daemons[who].stamp = self.clock(who)

    def clock(self, who: int) -> int:
        """The wall clock of one of the two: hours ahead, hours behind, set at any moment; each tick is another one."""
        return self.now + self.ahead[who]

    @rule(who=either, ms=st.sampled_from([0, 1, -3 * 3_600_000, 3_600_000, 12 * 60_000]))
    def clock_is_set(self, who: int, ms: int) -> None:
        self.ahead[who] = ms

    @rule(who=either, lost=st.booleans())
    def release(self, who: int, lost: bool) -> None:
        self.give_up(who, release(self.daemons[who].me, M1, self.now), lost)

    @rule(who=either, lost=st.booleans())
    def settle(self, who: int, lost: bool) -> None:
        if self.holds(self.daemons[who]):  # a request ends long before its claim is too old
            self.give_up(who, settle(self.daemons[who].me, M1, QUEUED, self.now), lost)

    def give_up(self, who: int, edit: Edit, lost: bool) -> None:
        daemon = self.daemons[who]
        if daemon.held_since is not None:
            daemon.held_since = None
            daemon.apply(self.store, edit, lost)

    @rule()
    def somebody_wants_it_sent_again(self) -> None:
        if the_task(self.store.doc)["state"] == "received-by-gateway":
            self.store.write(document(a_task(PENDING)), self.store.revision)

    @rule(ms=st.sampled_from([1, TIMEOUT // 2, TIMEOUT, TIMEOUT + 1]))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        self.store.now = self.now

    def holds(self, daemon: Daemon) -> bool:
        """No POST starts on a claim that another instance may have taken over."""
        return daemon.held_since is not None and self.now - daemon.held_since <= TIMEOUT

    @invariant()
    def at_most_one_holds_the_task(self) -> None:
        assert sum(map(self.holds, self.daemons)) <= 1


TestTwoDaemons = TwoDaemons.TestCase
TestTwoDaemons.settings = settings(max_examples=150, stateful_step_count=25)

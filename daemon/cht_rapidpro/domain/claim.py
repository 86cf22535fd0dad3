"""Claim, release, settle: what the gateway writes into a task, as edits of a whole document.

RapidPro has no idempotency key, so the intent to send is logged in the document itself before the send: the task goes
to `forwarded-to-gateway` with `state_details` that name this instance, and CouchDB's revision check lets only one
instance do so. Every edit decides anew on the document it is given and may be applied again to a newer revision (a
conflict, a lost answer) without harm: it returns the same object where there is nothing left to do.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.edit import TaskEdit, each
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import (
    Change,
    Doc,
    MessageId,
    Task,
    due,
    enter_state,
    gateway_ref,
    history,
    is_sendable,
    map_tasks,
    messages,
    parse_timestamp,
    set_state,
    tasks,
)

_DETAILS: Final = re.compile(r"Claimed by cht-rapidpro (?P<instance>[0-9a-f]{32})\b")
EXPIRED: Final = Change(State.FAILED, "Expired")


@dataclass(frozen=True, slots=True)
class Instance:
    """Who claims: `id`, 32 hex digits, is unique and survives a restart; `name` is for the reader only."""

    id: str
    name: str

    @property
    def details(self) -> str:
        return f"Claimed by cht-rapidpro {self.id} on {self.name}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim found in a task: whose it is and when it was made or last renewed (ms since the epoch)."""

    instance: str
    at: int


def claim_of(task: Task) -> Claim | None:
    """The claim that stands in a task, or None; a `forwarded-to-gateway` of another gateway is no claim."""
    if task.get("state") != State.FORWARDED_TO_GATEWAY or task.get("gateway_ref"):
        return None
    return _read_claim(task.get("state_details"), _entry(task, -1).get("timestamp"))


def earlier_claim(task: Task) -> Claim | None:
    """The claim that the present one followed directly: its holder may have sent the message without settling it."""
    entry = _entry(task, -2)
    return _read_claim(entry.get("state_details"), entry.get("timestamp"))


def claimed_since(task: Task) -> int:
    """When the unbroken row of claims began, the present one being the last: ms since the epoch.

    Every send that is not settled yet happened after it, whoever made it.
    """
    return claimed_before(task, len(history(task))) or 0


def claimed_before(task: Task, index: int) -> int | None:
    """When the unbroken row of claims began that ends before an entry of the history; None where there is none.

    That is the earliest moment in it, since clocks step.
    """
    return min((claim.at for claim in _row_of_claims(task, index)), default=None)


def _row_of_claims(task: Task, end: int) -> list[Claim]:
    """The claims that follow each other directly up to an entry of the history, the oldest first."""
    row: list[Claim] = []
    for entry in reversed(history(task)[:end]):
        claim = _read_claim(entry.get("state_details"), entry.get("timestamp")) if isinstance(entry, dict) else None
        if claim is None:
            break
        row.insert(0, claim)
    return row


def _entry(task: Task, index: int) -> dict[str, object]:
    """An entry of the state history; empty where there is none."""
    entries = history(task)
    found = entries[index] if len(entries) >= -index else None
    return found if isinstance(found, dict) else {}


def _read_claim(details: object, moment: object) -> Claim | None:
    found = _DETAILS.match(str(details))
    if not found:
        return None
    try:
        at = parse_timestamp(str(moment))
    except (OverflowError, ValueError):
        at = 0
    return Claim(found["instance"], at)


@dataclass(frozen=True, slots=True)
class ClaimTasks:
    """Claims the tasks of a document that hold one of the wanted messages and may be sent by us.

    `now`: ms since the epoch, the moment of the claim. A claim of another instance is taken over when it was made
    before `takeover_before`; one of our own is an earlier process's and is renewed. A task that nobody has claimed
    and that was due before `expire_before` fails with details `Expired` instead. A task with one of the messages `held`
    is this process's already.
    """

    me: Instance
    wanted: Collection[MessageId]
    now: int
    takeover_before: int
    expire_before: int | None = None
    held: Collection[MessageId] = ()

    def __call__(self, doc: Doc) -> Doc:
        return map_tasks(doc, lambda task: self._claim(task, doc) if self.wants(task) else task)

    def won(self, doc: Doc) -> list[Task]:
        """The tasks in the stored document that this very claim holds."""
        return [task for task in tasks(doc) if self.wants(task) and claim_of(task) == Claim(self.me.id, self.now)]

    def wants(self, task: Task) -> bool:
        uuids = {message.uuid for message in messages(task)}
        return is_sendable(task) and not uuids.isdisjoint(self.wanted) and uuids.isdisjoint(self.held)

    def _claim(self, task: Task, doc: Doc) -> Task:
        claim = claim_of(task)
        if claim is None:
            return set_state(task, EXPIRED, self.now) if self._is_expired(task, doc) else self._enter(task)
        if claim.instance == self.me.id:
            return task if claim.at == self.now else self._enter(task)
        return self._enter(task) if claim.at < self.takeover_before else task

    def _enter(self, task: Task) -> Task:
        return _enter_claim(task, self.me, self.now)

    def _is_expired(self, task: Task, doc: Doc) -> bool:
        moment = due(task, doc)
        return self.expire_before is not None and moment is not None and moment < self.expire_before


def _enter_claim(task: Task, me: Instance, now: int) -> Task:
    """The task under a new claim of ours.

    Of the claims that it follows directly only the earliest and the last are kept, which `claimed_since` and
    `earlier_claim` read: a message that nobody can decide about for a day shall not fill its document with claims.
    """
    entries = history(task)
    row = _row_of_claims(task, len(entries))
    if len(row) > 2:
        earliest = row.index(min(row, key=lambda claim: claim.at))
        start, last = len(entries) - len(row), len(row) - 1
        kept = [entries[start + place] for place in sorted({earliest, last})]
        task = {**task, "state_history": [*entries[:start], *kept]}
    return enter_state(task, Change(State.FORWARDED_TO_GATEWAY, me.details, gateway_ref=""), now)


def renew(me: Instance, uuid: MessageId, held_since: int, now: int) -> TaskEdit:
    """Renews the claim of `held_since` on the task of a message; nothing where another instance has it by now."""

    def edit(task: Task) -> Task:
        return _enter_claim(task, me, now) if claim_of(task) == Claim(me.id, held_since) else task

    return each(uuid, edit)


def release(me: Instance, uuid: MessageId, now: int) -> TaskEdit:
    """Gives an unused claim back: the task is `pending` again.

    Where the claim is the last history entry and the task was `pending` before, the entry is taken back, so that an
    outage of hours, with a trial a minute, leaves no hundreds of entries in a document that replicates to phones.
    """

    def edit(task: Task) -> Task:
        claim = claim_of(task)
        if claim is None or claim.instance != me.id:
            return task
        before = _entry(task, -2)
        if before.get("state") == State.PENDING:
            return _taken_back(task, before)
        return enter_state(task, Change(State.PENDING, "Released by cht-rapidpro"), now)

    return each(uuid, edit)


def _taken_back(task: Task, before: dict[str, object]) -> Task:
    """The task as its history says it was before its last entry."""
    new = {**task, "state": str(State.PENDING), "state_history": history(task)[:-1]}
    del new["state_details"]
    return {**new, **{key: before[key] for key in ("state_details",) if key in before}}


def settle(me: Instance, uuid: MessageId, change: Change, now: int) -> TaskEdit:
    """Writes what became of a message into its task, whatever others made of the task meanwhile: it is a fact.

    Only what the same broadcast has brought about later stays, and `delivered`. Where several tasks of the document
    hold the uuid, the one that we have claimed is meant.
    """

    def edit(found: Sequence[Task]) -> Sequence[Task]:
        if any(_is_settled(task, change) for task in found):
            return found
        target = next((task for task in found if _is_claimed_by(task, me)), found[0] if found else None)
        if target is None or target.get("state") == State.DELIVERED:
            return found
        return [set_state(task, change, now) if task is target else task for task in found]

    return TaskEdit(uuid, edit)


def give_back(me: Instance, uuid: MessageId, ref: str, now: int) -> TaskEdit:
    """Takes a settled task under our claim again: its broadcast turned out to be another task's."""

    def edit(task: Task) -> Task:
        if gateway_ref(task) != ref:
            return task
        if _entry(task, -1).get("state") == task.get("state"):  # it was not true, and would hide the claims before it
            task = {**task, "state_history": history(task)[:-1]}
        return _enter_claim(task, me, now)

    return each(uuid, edit)


def _is_settled(task: Task, change: Change) -> bool:
    """Whether the fact stands there already (the answer to its write was lost), whatever has followed it."""
    if change.gateway_ref:
        return gateway_ref(task) == change.gateway_ref
    return (task.get("state"), task.get("state_details")) == (change.state, change.details)


def _is_claimed_by(task: Task, me: Instance) -> bool:
    claim = claim_of(task)
    return claim is not None and claim.instance == me.id

"""Claim, release, settle: what the gateway writes into a task, as edits of a whole document.

RapidPro has no idempotency key, so the intent to send is logged in the document itself before the send: the task goes
to `forwarded-to-gateway` with `state_details` that name this instance, and CouchDB's revision check lets only one
instance do so. Every edit decides anew on the document it is given and may be applied again to a newer revision (a
conflict, a lost answer) without harm: it returns the same object where there is nothing left to do.

The time stamp of a claim identifies the claim and is shown to people. It decides nothing alone: clocks step, and two
daemons have two of them. How old another daemon's claim is, a daemon counts on its own loop clock.
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
    message_ids,
    messages,
    parse_timestamp,
    set_state,
    tasks,
)

_DETAILS: Final = re.compile(r"Claimed by cht-rapidpro (?P<instance>[0-9a-f]{32})\b")
_LOOKUP: Final = ", looking up whether it was sent"
_DAY: Final = 86_400_000  # ms
EXPIRED: Final = Change(State.FAILED, "Expired")
ORDERED: Final = ("Sent again by an operator", "Not sent, as an operator says")  # how such `state_details` begin
_FORMER: Final = re.compile(r"\(broadcast (\d+)")


@dataclass(frozen=True, slots=True)
class Instance:
    """The daemon that claims: `id`, 32 hex digits, is unique and survives a restart; `name` is for the reader only."""

    id: str
    name: str

    @property
    def details(self) -> str:
        """`state_details` of a claim under which a POST may begin."""
        return f"Claimed by cht-rapidpro {self.id} on {self.name}"

    @property
    def lookup_details(self) -> str:
        """`state_details` of a claim under which no POST begins: an earlier attempt is being looked up."""
        return self.details + _LOOKUP


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim found in a task: whose it is and its time stamp (ms since the epoch; 0 where it cannot be read)."""

    instance: str
    at: int


@dataclass(frozen=True, slots=True)
class Past:
    """What the history of a task says about unsettled sends of earlier processes. Times: ms, by the clocks that wrote.

    `earliest`: the first stamp of the unbroken row of claims, None where one cannot be read; `before`: the stamps of
    the entries before that row, the last one first, and when the task was due; `last_sending`: the latest stamp of a
    claim under which a POST may have begun, None where there is none or a stamp cannot be true: it cannot be read, or
    is before that of the entry before it.
    """

    earliest: int | None
    before: tuple[int, ...]
    last_sending: int | None

    def sent_after(self, now: int) -> int:
        """Returns the moment before which none of the sends can have begun; `now`: RapidPro's clock.

        A clock may have been ahead when it wrote the claim. So the window begins at the entry before the claims, at
        most a day before the first one; where the stamp lies in the future, at the latest entry that does not.
        """
        possible = [stamp for stamp in self.before if stamp <= now]
        start = possible[0] if possible else 0
        if self.earliest is None or self.earliest > now:
            return start
        return min(self.earliest, max(start, self.earliest - _DAY))


def claim_of(task: Task) -> Claim | None:
    """Returns the present claim of a task, or None; a `forwarded-to-gateway` of another gateway is not a claim."""
    if task.get("state") != State.FORWARDED_TO_GATEWAY or task.get("gateway_ref"):
        return None
    return _read_claim(task.get("state_details"), _entry(task, -1).get("timestamp"))


def is_lookup(task: Task) -> bool:
    """Whether no POST begins under the claim that a task holds: an earlier attempt is looked up first."""
    return str(task.get("state_details")).endswith(_LOOKUP)


def earlier_claim(task: Task) -> Claim | None:
    """The claim that the present one followed directly: its holder may have sent the message without settling it."""
    entry = _entry(task, -2)
    return _read_claim(entry.get("state_details"), entry.get("timestamp"))


def past(task: Task, doc: Doc) -> Past:
    """Reads from the history the claims that directly precede this daemon's present claim."""
    entries = history(task)
    row = _row_of_claims(task, len(entries))
    stamps = [claim.at for claim, _ in row]
    sending = [claim.at for claim, sends in row[:-1] if sends]
    before = [stamp for entry in reversed(entries[: len(entries) - len(row)]) if (stamp := _stamp(entry))]
    is_plausible = all(sending) and (not before or min(sending, default=0) >= before[0])
    moment = due(task, doc)
    return Past(
        min(stamps) if stamps and all(stamps) else None,
        (*before, *([moment] if moment is not None else [])),
        max(sending) if sending and is_plausible else None,
    )


def claimed_before(task: Task, index: int) -> int | None:
    """Returns the earliest time stamp in the uninterrupted run of claims before entry `index` of the history; None if
    there is no such run.

    The earliest, not the first: clocks may have been set back.
    """
    return min((claim.at for claim, _ in _row_of_claims(task, index)), default=None)


def first_claimed(task: Task) -> int | None:
    """The earliest stamp of all claims in its history, in ms; None where there is none or one cannot be read."""
    found = [_read_claim(entry.get("state_details"), entry.get("timestamp")) for entry in _entries(task)]
    stamps = [claim.at for claim in found if claim is not None]
    return min(stamps) if stamps and all(stamps) else None


def claim_in(entry: object) -> Claim | None:
    """The claim that an entry of a state history tells of."""
    return _read_claim(entry.get("state_details"), entry.get("timestamp")) if isinstance(entry, dict) else None


def knows_claim(task: Task, claim: Claim) -> bool:
    """Whether the history of a task has this claim, or a later one of the same instance."""
    found = (_read_claim(entry.get("state_details"), entry.get("timestamp")) for entry in _entries(task))
    return any(known is not None and known.instance == claim.instance and known.at >= claim.at for known in found)


def orders(task: Task) -> list[tuple[int, str]]:
    """The operator's orders to send it: when, in ms, and the broadcast that the message had before, "" for none."""
    found = [(entry, str(entry.get("state_details"))) for entry in _entries(task)]
    ordered = [(entry, details) for entry, details in found if details.startswith(ORDERED)]
    return [(_stamp(entry), former[1] if (former := _FORMER.search(details)) else "") for entry, details in ordered]


def _entries(task: Task) -> list[dict[str, object]]:
    return [entry for entry in history(task) if isinstance(entry, dict)]


def _row_of_claims(task: Task, end: int) -> list[tuple[Claim, bool]]:
    """The claims that follow each other directly up to an entry of the history, the oldest first.

    Beside each: whether a POST may have begun under it.
    """
    row: list[tuple[Claim, bool]] = []
    for entry in reversed(history(task)[:end]):
        details = entry.get("state_details") if isinstance(entry, dict) else None
        claim = _read_claim(details, entry.get("timestamp")) if details is not None else None
        if claim is None:
            break
        row.insert(0, (claim, not str(details).endswith(_LOOKUP)))
    return row


def _stamp(entry: object) -> int:
    """Returns the time stamp of a history entry in ms; 0 if it cannot be read."""
    try:
        return parse_timestamp(str(entry.get("timestamp"))) if isinstance(entry, dict) else 0
    except (OverflowError, ValueError):
        return 0


def _entry(task: Task, index: int) -> dict[str, object]:
    """Returns an entry of the state history; empty if there is none."""
    entries = history(task)
    found = entries[index] if len(entries) >= -index else None
    return found if isinstance(found, dict) else {}


def _read_claim(details: object, moment: object) -> Claim | None:
    found = _DETAILS.match(str(details))
    if not found:
        return None
    return Claim(found["instance"], _stamp({"timestamp": moment}))


@dataclass(frozen=True, slots=True)
class ClaimTasks:
    """Claims the tasks of a document that hold one of the wanted messages and may be sent by us.

    `now`: ms since the epoch, the moment of the claim. `stale`: the claims of other instances that this process has
    seen unchanged for long enough to take them over; one of our own is an earlier process's and is renewed. A task
    without a claim that was due before `expire_before` fails with details `Expired` instead. A task with one of the
    messages `held` is this process's already. One with one of the `suspects` may have been sent by another gateway: no
    POST begins under its claim. `only_own`: claims of this instance are renewed, and no task is claimed but
    those of suspects.
    """

    me: Instance
    wanted: Collection[MessageId]
    now: int
    stale: Collection[Claim] = ()
    expire_before: int | None = None
    held: Collection[MessageId] = ()
    suspects: Collection[MessageId] = ()
    only_own: bool = False

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
        if claim is None and not message_ids(task).isdisjoint(self.suspects):
            return _enter_claim(task, self.me.lookup_details, self.now)
        if self.only_own and (claim is None or claim.instance != self.me.id):
            return task
        if claim is None:
            if self._is_expired(task, doc):
                return set_state(task, EXPIRED, self.now)
            return _enter_claim(task, self.me.details, self.now)
        is_ours = claim.instance == self.me.id
        if (is_ours and claim.at != self.now) or (not is_ours and claim in self.stale):
            return _enter_claim(task, self.me.lookup_details, self.now)
        return task

    def _is_expired(self, task: Task, doc: Doc) -> bool:
        moment = due(task, doc)
        if self.expire_before is None or moment is None:
            return False
        return max([moment, *(at for at, _ in orders(task))]) < self.expire_before


def _enter_claim(task: Task, details: str, now: int) -> Task:
    """The task under a new claim of ours.

    A message that stays undecided for a day must not fill its document with claims. Of the claims that the new one
    follows directly these stay: the earliest, the last, and of each instance the latest claim and the latest one under
    which a POST may have begun. `past`, `earlier_claim` and `knows_claim` read them.
    """
    entries = history(task)
    row = _row_of_claims(task, len(entries))
    latest: dict[tuple[str, bool], int] = {}
    for place, (claim, sends) in enumerate(row):
        for kind in {sends, False}:
            before = latest.get((claim.instance, kind))
            if before is None or row[before][0].at <= claim.at:
                latest[claim.instance, kind] = place
    kept = set(latest.values())
    if row:
        kept |= {min(range(len(row)), key=lambda place: row[place][0].at), len(row) - 1}
    if len(kept) < len(row):
        start = len(entries) - len(row)
        task = {**task, "state_history": [*entries[:start], *(entries[start + place] for place in sorted(kept))]}
    return enter_state(task, Change(State.FORWARDED_TO_GATEWAY, details, gateway_ref=""), now)


def renew(me: Instance, uuid: MessageId, held_since: int, now: int, *, sends: bool) -> TaskEdit:
    """Renews the claim of `held_since` on the task of a message; does nothing if another instance holds the task now.

    `sends`: whether a POST may begin under the new claim.
    """
    details = me.details if sends else me.lookup_details

    def edit(task: Task) -> Task:
        return _enter_claim(task, details, now) if claim_of(task) == Claim(me.id, held_since) else task

    return each(uuid, edit)


def release(me: Instance, uuid: MessageId, now: int) -> TaskEdit:
    """Gives an unused claim back: the task is `pending` again.

    If the claim is the last history entry and the task was `pending` before, the entry is removed. Otherwise an outage
    of hours, with one try a minute, would leave hundreds of entries in a document that replicates to phones.
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
    """Writes the outcome of a message into its task, even if the task was changed meanwhile, because the outcome is a
    fact.

    Only a later state of the same broadcast, and `delivered`, stay. If several tasks of the document hold the uuid, the
    edit changes the one under this daemon's claim.
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
    """Claims a settled task again, because its broadcast belongs to another task."""

    def edit(task: Task) -> Task:
        if gateway_ref(task) != ref:
            return task
        if _entry(task, -1).get("state") == task.get("state"):  # wrong, and would hide earlier claims
            task = {**task, "state_history": history(task)[:-1]}
        return _enter_claim(task, me.lookup_details, now)

    return each(uuid, edit)


def _is_settled(task: Task, change: Change) -> bool:
    """Whether the outcome was written already (and only the answer was lost), even if other states followed."""
    if change.gateway_ref:
        return gateway_ref(task) == change.gateway_ref
    return (task.get("state"), task.get("state_details")) == (change.state, change.details)


def _is_claimed_by(task: Task, me: Instance) -> bool:
    claim = claim_of(task)
    return claim is not None and claim.instance == me.id

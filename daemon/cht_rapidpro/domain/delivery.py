"""Delivery states: which tasks wait for a new state, which task a row of RapidPro's belongs to, and what it changes.

RapidPro's statuses go backwards and arrive late, and other programs change tasks meanwhile. Invariant: a task is
written only while it is on its way and still holds the broadcast of the row; a task never leaves `delivered`, leaves
`failed` only for `delivered`, and no revision is written without a change. Without this rule an old status would
overwrite a newer state.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cht_rapidpro.domain.claim import claimed_before
from cht_rapidpro.domain.edit import TaskEdit, each
from cht_rapidpro.domain.outgoing import BroadcastId, Urn, pair_of
from cht_rapidpro.domain.reconcile import is_same_number, read_moment
from cht_rapidpro.domain.statuses import ERRORED, QUEUED, State, StateChange
from cht_rapidpro.domain.task import (
    Change,
    Doc,
    DocId,
    MessageId,
    MessageKey,
    Task,
    due,
    gateway_ref,
    history,
    messages,
    set_state,
    tasks,
)

ON_ITS_WAY: Final = (State.RECEIVED_BY_GATEWAY, State.FORWARDED_BY_GATEWAY, State.SENT)
SETTLED: Final = (*ON_ITS_WAY, State.DELIVERED, State.FAILED)
FAILED_FOR: Final = 86_400_000  # ms in which a `failed` may still turn out to be a `delivered`
SKEW: Final = 900_000  # ms by which clocks may differ
_DAY: Final = 86_400_000  # ms by which a message may be made late, or a clock may have been wrong
_LONGEST_ID: Final = 18  # digits; RapidPro's ids are 64-bit numbers


@dataclass(frozen=True, slots=True)
class SentTask:
    """A task that waits for the state of its broadcast. Times are ms of the clock that wrote the document.

    `uuid`: the message that the task is found by; `urns`: of its messages; `changed`: when it entered its state;
    `created_after`, `created_before`: RapidPro made the broadcast in between, by the history. A task of several
    messages has the broadcast of its first, and follows that one. `is_ours`: cht-rapidpro claimed it before;
    `has_message`: a message of the broadcast has told its state.
    """

    doc_id: DocId
    uuid: MessageId
    broadcast: BroadcastId
    urns: tuple[Urn, ...]
    state: State
    details: str
    changed: int
    created_after: int
    created_before: int
    is_ours: bool = field(default=True, compare=False)
    has_message: bool = field(default=False, compare=False)

    @property
    def key(self) -> MessageKey:
        return self.doc_id, self.uuid


def outstanding_in(doc: Doc, settings: Mapping[str, Any]) -> list[SentTask]:
    """Returns the tasks of a document that wait for a state. `settings`: CHT's, to normalise numbers."""
    reported = doc.get("reported_date")
    return [found for task in tasks(doc) if (found := read_outstanding(doc["_id"], task, settings, reported))]


def read_outstanding(
    doc_id: DocId, task: Task, settings: Mapping[str, Any], reported: object = None
) -> SentTask | None:
    """Returns None for a task that is not polled: another state, no broadcast of RapidPro's, no message or no time.

    `reported`: the document's `reported_date`, for a task that has neither a history nor a time stamp
    (docs/cht.md#views).
    """
    state, held = task.get("state"), messages(task)
    if state not in (*ON_ITS_WAY, State.FAILED) or (state == State.FAILED and len(held) > 1):
        return None
    broadcast, changed = read_ref(task), _changed(task, reported)
    if broadcast is None or changed is None or not held:
        return None
    after, before = _created_between(task, changed)
    urns = tuple(pair_of(message, settings).urn for message in held)
    details = str(task.get("state_details", ""))
    is_ours = any(claimed_before(task, end) is not None for end in range(1, len(history(task))))
    has_message = (state, details) != QUEUED and not _is_broadcasts_own(task)
    known = (doc_id, held[0].uuid, broadcast, urns, State(state), details, changed, after, before)
    return SentTask(*known, is_ours=is_ours, has_message=has_message)


def _changed(task: Task, reported: object) -> int | None:
    """When the task entered its state, as the view `messages_by_last_updated_state` computes it: ms, or None."""
    entered = _entered(task, -1)
    return due({"timestamp": task.get("timestamp")}, {"reported_date": reported}) if entered is None else entered


def read_ref(task: Task) -> BroadcastId | None:
    """The gateway_ref where it is an id of RapidPro's: a whole number. Another gateway's ref is never polled."""
    ref = gateway_ref(task)
    is_id = ref.isascii() and ref.isdigit() and not ref.startswith("0") and len(ref) <= _LONGEST_ID
    return BroadcastId(ref) if is_id else None


def _entered(task: Task, index: int) -> int | None:
    """When an entry of the history was made, ms; None where there is none or it does not tell."""
    entries = history(task)
    found = entries[index] if -len(entries) <= index < len(entries) else None
    return read_moment(str(found.get("timestamp"))) if isinstance(found, dict) else None


def _created_between(task: Task, changed: int) -> tuple[int, int]:
    """Returns the time from the claim to the first state of the broadcast; a quarter of an hour if the history shows
    none.

    That is at least the time between the sends of CHT's own gateway and what it writes about them.
    """
    settled = len(history(task))
    while settled and _state_at(task, settled - 1) in SETTLED:
        settled -= 1
    before = _entered(task, settled) if settled < len(history(task)) else None
    before = changed if before is None else before
    claimed = claimed_before(task, settled)
    return before - SKEW if claimed is None else min(claimed, before), before


def _state_at(task: Task, index: int) -> object:
    entry = history(task)[index]
    return entry.get("state") if isinstance(entry, dict) else None


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A row of messages.json that is an outgoing message of a broadcast. `created_on`: ms of RapidPro's clock."""

    broadcast: BroadcastId
    urn: str | None
    status: str
    created_on: int


def created_on(row: object) -> int | None:
    """When any row of messages.json was created, ms of RapidPro's clock; None where it does not tell."""
    created = row.get("created_on") if isinstance(row, dict) else None
    return read_moment(created) if isinstance(created, str) else None


def read_message_row(row: object) -> MessageRow | None:
    """None for incoming messages, those of flows, and rows that are none. A null status (RapidPro 9.0.0) is ""."""
    created = created_on(row)
    match row:
        case {"broadcast": int() as number, "direction": "out", "status": str() | None as status, **rest} if (
            created is not None and not isinstance(number, bool)
        ):
            urn = rest.get("urn")
            return MessageRow(BroadcastId(str(number)), urn if isinstance(urn, str) else None, status or "", created)
    return None


Matches = list[tuple[SentTask, MessageRow]]


def match_broadcast(
    waiting: Sequence[SentTask], rows: Sequence[MessageRow], recipients: Sequence[str] | None, ahead: int = 0
) -> Matches:
    """Matches the rows of one broadcast to tasks, only where the match is certain.

    `waiting`: tasks that hold the broadcast; `recipients`: the URNs of all whom it was sent to, None where they are not
    known; `ahead`: ms by which RapidPro's clock is ahead of the one that the tasks were written by. RapidPro makes one
    message a contact, so as many rows as recipients are all of its rows.
    """
    if recipients is None or len(rows) != len(recipients):
        return match_rows(waiting, rows, is_whole=False, ahead=ahead)
    left = list(rows)
    is_whole = True
    for urn in recipients:
        if not any(is_same_number(urn, own) for task in waiting for own in task.urns):
            its = [row for row in left if row.urn == urn]
            left = [row for row in left if row not in its]
            is_whole = is_whole and len(its) == 1
    return match_rows(waiting, left, is_whole=is_whole, ahead=ahead)


def match_rows(waiting: Sequence[SentTask], rows: Sequence[MessageRow], *, is_whole: bool, ahead: int = 0) -> Matches:
    """Matches the rows of one broadcast to tasks. `is_whole`: `waiting` are all recipients, and `rows` all messages.

    By URN. RapidPro may have chosen another URN of the same person, or hide it, so the last task and the last row of a
    complete set belong together.
    """
    left, left_rows = list(waiting), list(rows)
    found: Matches = []
    for find in (_with_same_urns, _with_same_numbers):
        for task, row in find(left, left_rows) if left and left_rows else ():
            left.remove(task)
            left_rows.remove(row)
            found.append((task, row))
    if is_whole and len(left) == len(left_rows) == 1:
        found.append((left[0], left_rows[0]))
    return [(task, row) for task, row in found if is_plausible(task, row.created_on, ahead)]


def _with_same_urns(waiting: Sequence[SentTask], rows: Sequence[MessageRow]) -> Matches:
    by_urn = {row.urn: row for row in reversed(rows) if row.urn}
    pairs = []
    for task in waiting:
        urn = next((urn for urn in task.urns if urn in by_urn), None)
        if urn is not None:
            pairs.append((task, by_urn.pop(urn)))
    return pairs


def _with_same_numbers(waiting: Sequence[SentTask], rows: Sequence[MessageRow]) -> Matches:
    """Matches numbers of which only the national part is equal, if only one match is possible."""
    fitting = [
        (task, row)
        for task in waiting
        for row in rows
        if row.urn and any(is_same_number(row.urn, urn) for urn in task.urns)
    ]
    of_task, of_row = Counter(id(task) for task, _ in fitting), Counter(id(row) for _, row in fitting)
    return [(task, row) for task, row in fitting if of_task[id(task)] == of_row[id(row)] == 1]


def is_plausible(task: SentTask, created_on: int, ahead: int = 0) -> bool:
    """Whether a message can be as old as the task: ids repeat if a site has had another RapidPro before.

    RapidPro may make a message hours after its broadcast, and the clock that wrote the task may have been wrong.
    """
    return task.created_after - _DAY <= created_on - ahead <= task.created_before + _DAY


def may_follow(task: Task, change: StateChange) -> bool:
    """Whether a task may go to this state now."""
    state = task.get("state")
    if state == State.FAILED:
        return change.state == State.DELIVERED and len(messages(task)) <= 1
    if state not in ON_ITS_WAY:
        return False
    lowers = state == State.SENT and change.state in ON_ITS_WAY[:2] and change != ERRORED
    return not (lowers and _is_broadcasts_own(task))


def _is_broadcasts_own(task: Task) -> bool:
    """Whether the state came from the broadcast's own status: no state of its message was known before."""
    return len(history(task)) < 2 or _state_at(task, -2) not in SETTLED


def advance(uuid: MessageId, broadcast: BroadcastId, to: StateChange, now: int) -> TaskEdit:
    """Returns an edit that sets the task of a broadcast to this state, if the task may go there. `now`: ms."""

    def edit(task: Task) -> Task:
        if gateway_ref(task) != broadcast or not may_follow(task, to):
            return task
        return set_state(task, Change(*to), now)

    return each(uuid, edit)

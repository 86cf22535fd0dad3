"""The tasks that wait for a delivery state: a bounded list in memory, with the time of the last poll of each.

CouchDB has the complete set of these tasks; this list has the ones in work. Invariant: it never grows beyond its
capacity. A task without room is read again later, and tasks that are rarely polled make room: the only cost is one more
poll, as after a restart.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cht_rapidpro.adapters.couchdb.state_views import StateRow
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.delivery import FAILED_FOR, SentTask
from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.planner import UNLIMITED, pause
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import DocId, MessageId

CAPACITY: Final = 100_000
_SPARED: Final = 3_600_000  # ms; a task that is polled again sooner is not removed to make room
_LONGEST_BACKOFF: Final = 3_600_000
_SILENT_AFTER: Final = 900_000  # ms without any message until a broadcast is looked up
_SELDOM: Final = 4  # a look-up without a result is repeated when the message is this many times as old


@dataclass(slots=True, eq=False)
class TrackedMessage:
    """A task, and the results of polling it.

    `entered`, `asked`, `not_before`: ms of the loop's own clock, which no step of the wall clock touches; `entered`:
    when the task entered its state. `ahead`: ms by which RapidPro's clock was ahead of the one that wrote the task,
    None: as now. `created`: when its message was, ms of RapidPro's clock, once that is known;
    `latest`: not later than that, as far as listings tell; `after`, `before`: the same for the round that is under way.
    `limit`: how many one listing may ask for together with it. `is_alone`: the last page that showed it showed no
    other; `is_unlisted`: the last one that should have shown it did not; `is_silent`: RapidPro has no message of its
    broadcast; `is_unmatched`: it has, and none is surely the task's; `looked_up`: the age at which the broadcast was
    looked up; `recipients`: of the broadcast, where they were looked up.
    """

    task: SentTask
    entered: int
    ahead: int | None = None
    created: int | None = None
    latest: int | None = None
    after: int = 0
    before: int = 0
    asked: int | None = None
    not_before: int = 0
    failures: int = 0
    limit: int = UNLIMITED
    is_alone: bool = False
    is_unlisted: bool = False
    is_silent: bool = False
    is_unmatched: bool = False
    looked_up: int = 0
    recipients: tuple[str, ...] | None = None
    place: tuple[MessageId, BroadcastId] = field(init=False)  # in its document, as when it was taken in

    def __post_init__(self) -> None:
        self.place = _place(self.task)

    @property
    def broadcast(self) -> BroadcastId:
        return self.task.broadcast

    @property
    def is_single(self) -> bool:
        """Whether it is polled by its broadcast: no listing is expected to show it, or another due task beside it."""
        return self.is_alone or self.is_silent or self.is_unlisted or self.is_unmatched

    def next_ask(self, now: int, interval: int) -> int:
        wanted = 0 if self.asked is None else self.asked + pause(now - self.entered, interval)
        return max(wanted, self.not_before)

    def is_to_be_looked_up(self, now: int) -> bool:
        """Whether it is time to look up a broadcast without a message."""
        return self.is_silent and now - self.entered >= max(_SILENT_AFTER, _SELDOM * self.looked_up)

    def answered(self, now: int) -> None:
        self.asked = now
        self.not_before = self.failures = 0
        self.limit = min(self.limit * 2, UNLIMITED)

    def shown(self, created: int, now: int) -> None:
        """RapidPro has its message."""
        self.answered(now)
        self.created = created
        self.is_silent = self.is_unlisted = self.is_unmatched = False

    def failed(self, now: int, interval: int) -> None:
        """Records a failed request: the task is polled later, with growing pauses."""
        self.not_before = now + min(interval * 2**self.failures, _LONGEST_BACKOFF)
        self.failures = min(self.failures + 1, 20)


class DeliveryTracker:
    """`interval`, `give_up_after`: ms; `now` everywhere: ms of the loop's own clock."""

    def __init__(self, interval: int, give_up_after: int, capacity: int = CAPACITY) -> None:
        self._interval = interval
        self._give_up_after = give_up_after
        self._capacity = capacity
        self._by_broadcast: dict[BroadcastId, dict[TrackedMessage, None]] = defaultdict(
            dict
        )  # a dict keeps their order
        self._by_doc: dict[DocId, dict[tuple[MessageId, BroadcastId], TrackedMessage]] = defaultdict(dict)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TrackedMessage]:
        return (watched for of_doc in list(self._by_doc.values()) for watched in list(of_doc.values()))

    def of(self, broadcast: BroadcastId) -> list[TrackedMessage]:
        return list(self._by_broadcast.get(broadcast, ()))

    def holds(self, watched: TrackedMessage) -> bool:
        return self._by_doc.get(watched.task.doc_id, {}).get(watched.place) is watched

    def news(self, rows: Iterable[StateRow]) -> list[StateRow]:
        """Returns the rows that show a new state of a task."""
        seen: dict[DocId, set[tuple[str, float | None]]] = {}
        unseen = []
        for row in rows:
            if row.doc_id not in seen:
                known = [watched.task for watched in self._by_doc.get(row.doc_id, {}).values()]
                seen[row.doc_id] = {(task.state, changed) for task in known for changed in (None, task.changed)}
            if (row.state, row.changed) not in seen[row.doc_id]:
                unseen.append(row)
        return unseen

    def update(self, doc_id: DocId, tasks: list[SentTask], now: int, wall: int) -> None:
        """Updates the tasks of a document. `wall`: as for `hold`."""
        left = {_place(task) for task in tasks}
        for watched in list(self._by_doc.get(doc_id, {}).values()):
            if watched.place not in left:
                self.drop(watched)
        for task in tasks:
            self.hold(task, now, wall)

    def hold(self, task: SentTask, now: int, wall: int, ahead: int | None = None) -> None:
        """Adds a task, or its new state; a task that is too old, or without room, is left out.

        `wall`: the wall clock in ms, for the age of what is seen for the first time; from then on it grows by `now`.
        `ahead`: by how many ms RapidPro's clock was ahead of the wall clock that the task was written by, if known.
        """
        entered = now - max(0, wall - task.changed)
        if watched := self._by_doc.get(task.doc_id, {}).get(_place(task)):
            if task.changed != watched.task.changed:
                watched.entered = entered
            watched.task = task
        elif self._count < self._capacity and not self._is_over(task.state, now - entered):
            watched = TrackedMessage(task, entered, ahead)
            self._by_broadcast[task.broadcast][watched] = None
            self._by_doc[task.doc_id][watched.place] = watched
            self._count += 1

    def drop(self, watched: TrackedMessage) -> None:
        doc_id, broadcast = watched.task.doc_id, watched.task.broadcast
        if not self.holds(watched):
            return
        of_doc = self._by_doc[doc_id]
        del of_doc[watched.place], self._by_broadcast[broadcast][watched]
        if not of_doc:
            del self._by_doc[doc_id]
        if not self._by_broadcast[broadcast]:
            del self._by_broadcast[broadcast]
        self._count -= 1

    def clear(self) -> None:
        self._by_broadcast.clear()
        self._by_doc.clear()
        self._count = 0

    def forgive(self) -> None:
        """Ends the pauses of failed requests, because RapidPro works again."""
        for watched in self:
            watched.not_before = watched.failures = 0

    def due(self, now: int) -> list[TrackedMessage]:
        """Returns the tasks to poll now; drops tasks that have waited for too long."""
        for watched in self:
            if self._is_over(watched.task.state, now - watched.entered):
                self.drop(watched)
        soon = now + self._interval // 2  # the next round would be too late
        return [
            watched
            for watched in self
            if watched.task.state != State.FAILED and watched.next_ask(now, self._interval) <= soon
        ]

    def _is_over(self, state: State, age: int) -> bool:
        return age > self._give_up_after or (state == State.FAILED and age > FAILED_FOR)

    def make_room(self, wanted: int, now: int) -> bool:
        """Removes tasks that are not polled soon, until there is room for this many; False if there is not enough."""
        over = self._count + wanted - self._capacity
        if over <= 0:
            return True
        asked = (watched for watched in self if watched.asked is not None)
        later = [watched for watched in asked if watched.next_ask(now, self._interval) > now + _SPARED]
        if len(later) < over:
            return False
        later.sort(key=lambda watched: watched.next_ask(now, self._interval), reverse=True)
        for watched in later[: max(over, self._capacity // 10)]:
            self.drop(watched)
        return True


def _place(task: SentTask) -> tuple[MessageId, BroadcastId]:
    return task.uuid, task.broadcast


def loop_ms() -> int:
    """The loop's own clock in ms."""
    return round(loop_time() * 1000)

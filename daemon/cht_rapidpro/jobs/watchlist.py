"""The tasks whose news we wait for: a bounded list in memory, and when each was last asked for.

CouchDB has the truth of which tasks these are; this is what of it is being worked on. Invariant: it never grows beyond
its capacity. What finds no room is read again later, and what was asked for long ago makes room: being asked once more,
as after a restart, is all that this costs.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cht_rapidpro.adapters.state_views import StateRow
from cht_rapidpro.domain.delivery import FAILED_FOR, Outstanding
from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.planner import UNLIMITED, pause
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import DocId, MessageId

CAPACITY: Final = 20_000
_SPARED: Final = 3_600_000  # ms; whoever is asked for again sooner than this is not made to leave
_LONGEST_BACKOFF: Final = 3_600_000


@dataclass(slots=True, eq=False)
class Watched:
    """A task, and what its questions have brought. `asked` and `not_before`: ms of our clock.

    `created`: when its message was, ms of RapidPro's clock, once that is known; `latest`: it was not later, as far as
    listings tell. `company`: with how many others it may be asked for. `is_silent`: RapidPro has no message of its
    broadcast; `is_looked_up`: so its broadcast was looked up; `is_elsewhere`: the folder `sent` does not show it.
    """

    task: Outstanding
    created: int | None = None
    latest: int | None = None
    asked: int | None = None
    not_before: int = 0
    failures: int = 0
    company: int = UNLIMITED
    is_silent: bool = False
    is_looked_up: bool = False
    is_elsewhere: bool = False
    place: tuple[MessageId, BroadcastId] = field(init=False)  # in its document, as when it was taken in

    def __post_init__(self) -> None:
        self.place = _place(self.task)

    def next_ask(self, now: int, interval: int) -> int:
        wanted = 0 if self.asked is None else self.asked + pause(now - self.task.changed, interval)
        return max(wanted, self.not_before)

    def answered(self, now: int) -> None:
        self.asked = now
        self.not_before = self.failures = 0

    def shown(self, created: int, now: int) -> None:
        """A listing has its message."""
        self.answered(now)
        self.created = self.latest = created
        self.company = UNLIMITED
        self.is_silent = self.is_elsewhere = False

    def failed(self, now: int, interval: int) -> None:
        """The request that asked for it failed: later again, ever more rarely."""
        self.not_before = now + min(interval * 2**self.failures, _LONGEST_BACKOFF)
        self.failures = min(self.failures + 1, 20)


class Watchlist:
    """`interval`, `give_up_after`: ms."""

    def __init__(self, interval: int, give_up_after: int, capacity: int = CAPACITY) -> None:
        self._interval = interval
        self._give_up_after = give_up_after
        self._capacity = capacity
        self._by_broadcast: dict[BroadcastId, dict[Watched, None]] = defaultdict(dict)  # a dict keeps their order
        self._by_doc: dict[DocId, dict[tuple[MessageId, BroadcastId], Watched]] = defaultdict(dict)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Watched]:
        return (watched for of_doc in list(self._by_doc.values()) for watched in list(of_doc.values()))

    def of(self, broadcast: BroadcastId) -> list[Watched]:
        return list(self._by_broadcast.get(broadcast, ()))

    def news(self, rows: Iterable[StateRow]) -> list[StateRow]:
        """Those that tell of a state of a task which has not been seen."""
        seen: dict[DocId, set[tuple[str, float | None]]] = {}
        unseen = []
        for row in rows:
            if row.doc_id not in seen:
                known = [watched.task for watched in self._by_doc.get(row.doc_id, {}).values()]
                seen[row.doc_id] = {(task.state, changed) for task in known for changed in (None, task.changed)}
            if (row.state, row.changed) not in seen[row.doc_id]:
                unseen.append(row)
        return unseen

    def update(self, doc_id: DocId, tasks: list[Outstanding], now: int) -> None:
        """What waits for news in a document, as it is now."""
        left = {_place(task) for task in tasks}
        for watched in list(self._by_doc.get(doc_id, {}).values()):
            if watched.place not in left:
                self.drop(watched)
        for task in tasks:
            self.hold(task, now)

    def hold(self, task: Outstanding, now: int) -> None:
        """Takes a task in, or its new state; one that is too old, or finds no room, is left out."""
        if watched := self._by_doc.get(task.doc_id, {}).get(_place(task)):
            watched.task = task
        elif self._count < self._capacity and not self._is_over(task, now):
            watched = Watched(task)
            self._by_broadcast[task.broadcast][watched] = None
            self._by_doc[task.doc_id][watched.place] = watched
            self._count += 1

    def drop(self, watched: Watched) -> None:
        doc_id, broadcast = watched.task.doc_id, watched.task.broadcast
        of_doc = self._by_doc.get(doc_id, {})
        if of_doc.get(watched.place) is not watched:
            return
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
        """RapidPro works again: nobody has to wait for what has failed meanwhile."""
        for watched in self:
            watched.not_before = watched.failures = 0

    def due(self, now: int) -> list[Watched]:
        """Whom to ask for now, each broadcast's tasks together; drops those that have waited for too long."""
        for watched in self:
            if self._is_over(watched.task, now):
                self.drop(watched)
        soon = now + self._interval // 2  # the next round would be late for it
        return [
            watched
            for watched in self
            if watched.task.state != State.FAILED and watched.next_ask(now, self._interval) <= soon
        ]

    def _is_over(self, task: Outstanding, now: int) -> bool:
        age = now - task.changed
        return age > self._give_up_after or (task.state == State.FAILED and age > FAILED_FOR)

    def make_room(self, wanted: int, now: int) -> bool:
        """Lets those go that are not asked for soon, until so many others find room; False where that is too few."""
        over = self._count + wanted - self._capacity
        if over <= 0:
            return True
        later = [watched for watched in self if watched.asked and watched.next_ask(now, self._interval) > now + _SPARED]
        if len(later) < over:
            return False
        later.sort(key=lambda watched: watched.next_ask(now, self._interval), reverse=True)
        for watched in later[: max(over, self._capacity // 10)]:
            self.drop(watched)
        return True


def _place(task: Outstanding) -> tuple[MessageId, BroadcastId]:
    return task.uuid, task.broadcast

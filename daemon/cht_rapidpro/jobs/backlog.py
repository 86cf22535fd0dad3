"""The messages that wait for being claimed: a bounded, sorted list of references, oldest due first.

Filled by the sweep of the view and by hints of the feed, emptied by the relay. It knows a message from its first sight
until the relay is done with it, so that neither a sweep nor a hint brings it in twice. What finds no room is not lost:
the view still has it, and `more` says that a sweep is due when the list runs low.
"""

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from cht_rapidpro.domain.task import DocId, MessageId

CAPACITY: Final = 1000
_HELD: Final = 10_000
_ZONE_PAUSE: Final = 600.0  # seconds

Key = tuple[DocId, MessageId]


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A message that CouchDB wants sent, as of when it was seen. `due`: ms since the epoch, 0 where unknown.

    `text`: the hash of its text, equal for messages that may go out in one broadcast.
    """

    due: int
    doc_id: DocId
    uuid: MessageId
    text: int = field(compare=False)

    @property
    def key(self) -> Key:
        return self.doc_id, self.uuid


class Backlog:
    """`low` is set when a sweep is wanted; `more`: the view has messages that found no room here."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: list[Candidate] = []
        self._known: dict[Key, int] = {}  # with their due
        self._held: dict[Key, float] = {}
        self._zone: tuple[int, float] | None = None  # nothing due up to then comes in by a sweep, until then
        self._swept = 0.0
        self._firm: set[Key] = set()
        self.more = False
        self.low = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """`listener` is called when a candidate came in."""
        self._listeners.append(listener)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest_due(self) -> int | None:
        """When the first of those that wait was due, in ms since the epoch; None: nothing waits."""
        return self._waiting[0].due if self._waiting else None

    def place(self, key: Key) -> int | None:
        """How many are to be claimed before this one; None: it does not wait here."""
        return next((place for place, candidate in enumerate(self._waiting) if candidate.key == key), None)

    def held_until(self, key: Key) -> float | None:
        """Until when no sweep brings it again (loop time, seconds); None: nothing keeps it."""
        return self._held.get(key)

    def forget(self, key: Key) -> None:
        """It has changed: the next sweep, which is wanted now, may bring it."""
        self._held.pop(key, None)
        self.low.set()

    def has_alike(self) -> bool:
        """Whether two of those that wait have the same text."""
        return len({candidate.text for candidate in self._waiting}) < len(self._waiting)

    def hint(self, candidate: Candidate) -> None:
        """Takes in what the feed has just shown as `pending`, also if it was held: somebody has changed it."""
        if candidate.key not in self._firm:
            self._held.pop(candidate.key, None)
        self._take_in(candidate)

    def add(self, candidate: Candidate) -> bool:
        """Takes a candidate in unless it is known; False when there was no room for it (then `more` is set).

        In a full list an older one takes the place of the newest.
        """
        if self._zone is not None and candidate.due <= self._zone[0]:
            return True
        return self._take_in(candidate)

    def _take_in(self, candidate: Candidate) -> bool:
        if candidate.key in self._known or candidate.key in self._held:
            return True
        if len(self._waiting) >= self._capacity:
            self.more = True
            if candidate >= self._waiting[-1]:
                return False
            self._known.pop(self._waiting.pop().key, None)
        insort(self._waiting, candidate)
        self._known[candidate.key] = candidate.due
        for listener in self._listeners:
            listener()
        return True

    def take(self, broadcasts: int, company: int = 1) -> list[Candidate]:
        """Candidates for up to so many broadcasts, oldest due first; each stays known until `done` or `hold`.

        `company`: how many messages of one text a broadcast may have; those behind the oldest are taken with it.
        """
        taken, left = [], []
        seen: Counter[int] = Counter()
        for candidate in self._waiting:
            opens_another = seen[candidate.text] % company == 0
            if broadcasts or not opens_another:
                broadcasts -= opens_another
                seen[candidate.text] += 1
                taken.append(candidate)
            else:
                left.append(candidate)
        self._waiting = left
        if self.more and len(self._waiting) <= self._capacity // 4:
            self.low.set()
        return taken

    def know(self, keys: Iterable[Key]) -> None:
        """These are with the relay already: the messages of a claimed task, which may wait here one by one."""
        held = set(keys)
        self._known |= {key: self._known.get(key, 0) for key in held}
        self._waiting = [candidate for candidate in self._waiting if candidate.key not in held]

    def done(self, keys: Iterable[Key]) -> None:
        """The relay is done with these; if the view still has them they may come again."""
        for key in keys:
            self._known.pop(key, None)

    def hold(self, key: Key, until: float, *, firmly: bool = False) -> None:
        """Not to come again before `until` (loop time, seconds): others have it, or it cannot be claimed.

        `firmly`: nor by a hint, which our own release of it gives.
        """
        due = self._known.pop(key, 0)
        if len(self._held) >= _HELD:
            self._pass_over(due, until)
            return
        self._held[key] = until
        if firmly:
            self._firm.add(key)

    def _pass_over(self, due: int, until: float) -> None:
        """There is no room to remember this one: for a while sweeps pass over all that is due as early as it.

        So thousands of messages that cannot be claimed, all older than the rest, keep no other from being sent.
        """
        until = min(until, self._swept + _ZONE_PAUSE)
        self._zone = (due, until) if self._zone is None else (max(due, self._zone[0]), max(until, self._zone[1]))

    def start_sweep(self, now: float) -> None:
        """Lets those held come again whose time is over; what finds no room from now on sets `more`."""
        self.more = False
        self._swept = now
        if self._zone is not None and self._zone[1] <= now:
            self._zone = None
        self._held = {key: until for key, until in self._held.items() if until > now}
        self._firm &= self._held.keys()

    def clear(self) -> None:
        """Forgets everything that waits: sending is not ours at present."""
        self.done(candidate.key for candidate in self._waiting)
        self._waiting = []

"""The messages that wait to be claimed: a bounded, sorted list of references, oldest due first.

The sweep of the view and the hints of the feed fill it, the relay empties it. It knows a message until the relay has
finished with it, so that neither a sweep nor a hint adds it twice. A message without room is not lost: the view still
has it, and `more` shows that a sweep is needed when the list is nearly empty.
"""

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.domain.task import DocId, MessageId, MessageKey

CAPACITY: Final = 1000
_HELD: Final = 10_000
_ZONE_PAUSE: Final = 600.0  # seconds
_MANY: Final = 100  # that wait


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A message that CouchDB wanted sent when it was last seen. `due`: ms since the epoch, 0 where unknown.

    `text`: the hash of its text, equal for messages that may go out in one broadcast.
    """

    due: int
    doc_id: DocId
    uuid: MessageId
    text: int = field(compare=False)

    @property
    def key(self) -> MessageKey:
        return self.doc_id, self.uuid


class SendQueue:
    """`low` is set when more messages are wanted; `more`: the view has messages that found no room here.

    `is_sweep_wanted`: only a sweep from the oldest on finds them.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: list[Candidate] = []
        self._in_waiting: set[MessageKey] = set()
        self._known: dict[MessageKey, int] = {}  # with their due
        self._held: dict[MessageKey, float] = {}
        self._zone: tuple[int, float] | None = None  # nothing due up to then comes in by a sweep, until then
        self._swept = 0.0
        self._firm: set[MessageKey] = set()
        self.is_held: Callable[[MessageKey], bool] = lambda _: False  # by a takeover: it stays out, and takes no room
        self.more = False
        self.low = asyncio.Event()
        self.is_sweep_wanted = False
        self._has_dropped = False  # a message that the pages after the last sweep need not have
        self._swept_once = asyncio.Event()
        self._offered = Signal[()]()
        self.subscribe = self._offered.subscribe  # called when a candidate came in

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest_due(self) -> int | None:
        """When the oldest waiting message was due, in ms since the epoch; None: no message waits."""
        return self._waiting[0].due if self._waiting else None

    def place(self, key: MessageKey) -> int | None:
        """How many are to be claimed before this one; None: it does not wait here."""
        return next((place for place, candidate in enumerate(self._waiting) if candidate.key == key), None)

    def held_until(self, key: MessageKey) -> float | None:
        """Until when no sweep brings it again (loop time, seconds); None: nothing keeps it."""
        return self._held.get(key)

    def reconsider(self, key: MessageKey) -> None:
        """Lets the next sweep, which is wanted now, bring a message that has changed."""
        self._held.pop(key, None)
        self.want_sweep()

    def want_sweep(self) -> None:
        self.is_sweep_wanted = True
        self.low.set()

    async def is_draining(self) -> bool:
        """Whether there are so many that CouchDB and RapidPro are busy with them; waits for the first sweep."""
        await self._swept_once.wait()
        return self.more or len(self._waiting) > _MANY

    def has_alike(self) -> bool:
        """Whether two of those that wait have the same text."""
        return len({candidate.text for candidate in self._waiting}) < len(self._waiting)

    def offer(self, candidate: Candidate) -> None:
        """Adds a message that the feed has just shown as `pending`, even if it was held: its document has changed."""
        if candidate.key not in self._firm:
            self._held.pop(candidate.key, None)
        if not self._take_in(candidate):
            self._has_dropped = True

    def add(self, candidate: Candidate) -> bool:
        """Takes a candidate in unless it is known; False when there was no room for it (then `more` is set).

        In a full list an older one takes the place of the newest.
        """
        if self._zone is not None and candidate.due <= self._zone[0]:
            return True
        return self._take_in(candidate)

    def _take_in(self, candidate: Candidate) -> bool:
        if candidate.key in self._known or candidate.key in self._held or self.is_held(candidate.key):
            return True
        if len(self._waiting) >= self._capacity:
            self.more = True
            if candidate >= self._waiting[-1]:
                return False
            self._has_dropped = True
            self._drop(self._waiting.pop().key)
        insort(self._waiting, candidate)
        self._in_waiting.add(candidate.key)
        self._known[candidate.key] = candidate.due
        self._offered.emit()
        return True

    def take(self, broadcasts: int, max_batch_size: int = 1) -> list[Candidate]:
        """Takes candidates for at most `broadcasts` broadcasts, oldest due first.

        Each stays known until `forget` or `defer`. `max_batch_size`: how many messages of one text a broadcast may
        have; later ones are taken together with the oldest.
        """
        if max_batch_size == 1:
            taken, self._waiting = self._waiting[:broadcasts], self._waiting[broadcasts:]
        else:
            taken, self._waiting = _grouped(self._waiting, broadcasts, max_batch_size)
        self._in_waiting.difference_update(candidate.key for candidate in taken)
        self._want_more()
        return taken

    def _want_more(self) -> None:
        if self.more and len(self._waiting) <= self._capacity // 4:
            self.low.set()

    def mark_claimed(self, keys: Iterable[MessageKey]) -> None:
        """Marks messages as taken by the relay: the messages of a claimed task, which may also wait here separately."""
        held = set(keys)
        self._known |= {key: self._known.get(key, 0) for key in held}
        if not self._in_waiting.isdisjoint(held):
            self._waiting = [candidate for candidate in self._waiting if candidate.key not in held]
            self._in_waiting -= held

    def forget(self, keys: Iterable[MessageKey]) -> None:
        """Forgets messages that the relay has finished; if the view still has them, they may be added again."""
        for key in keys:
            self._known.pop(key, None)

    def defer(self, key: MessageKey, until: float, *, firmly: bool = False) -> None:
        """Keeps a message out until `until` (loop time, seconds): another daemon has it, or it cannot be claimed.

        `firmly`: a hint does not add it either, because this daemon's own release causes a hint.
        """
        due = self._known.pop(key, 0)
        if len(self._held) >= _HELD:
            self._pass_over(due, until)
            return
        self._held[key] = until
        if firmly:
            self._firm.add(key)

    def _pass_over(self, due: int, until: float) -> None:
        """Makes sweeps skip, for a while, all messages due up to this one: there is no room to remember it.

        So thousands of old messages that cannot be claimed do not prevent newer messages from being sent.
        """
        until = min(until, self._swept + _ZONE_PAUSE)
        self._zone = (due, until) if self._zone is None else (max(due, self._zone[0]), max(until, self._zone[1]))

    def start_sweep(self, now: float) -> None:
        """Ends expired holds, and resets `more`, which the next message without room sets again."""
        self.more = self.is_sweep_wanted = self._has_dropped = False
        self._swept = now
        if self._zone is not None and self._zone[1] <= now:
            self._zone = None
        self._end_holds(now)

    def go_on(self, now: float) -> None:
        """Resets `more` for what follows the last message that a sweep brought; ends expired holds."""
        self.more = False
        self._end_holds(now)

    def end_sweep(self, *, at_the_end: bool) -> None:
        """`at_the_end`: the index has no more. The view may still have what the feed showed when there was no room."""
        self.more = self.more or (at_the_end and self._has_dropped)
        self._want_more()
        self._swept_once.set()

    def clear(self) -> None:
        """Forgets all waiting messages: this gateway does not send at present."""
        self.forget(candidate.key for candidate in self._waiting)
        self._waiting = []
        self._in_waiting.clear()
        self._swept_once.set()

    def _drop(self, key: MessageKey) -> None:
        self._known.pop(key, None)
        self._in_waiting.discard(key)

    def _end_holds(self, now: float) -> None:
        self._held = {key: until for key, until in self._held.items() if until > now}
        self._firm &= self._held.keys()


def _grouped(waiting: list[Candidate], broadcasts: int, max_batch_size: int) -> tuple[list[Candidate], list[Candidate]]:
    """Those that are taken, and those that are left."""
    taken, left = [], []
    seen: Counter[int] = Counter()
    for candidate in waiting:
        opens_another = seen[candidate.text] % max_batch_size == 0
        if broadcasts or not opens_another:
            broadcasts -= opens_another
            seen[candidate.text] += 1
            taken.append(candidate)
        else:
            left.append(candidate)
    return taken, left

"""Plans the requests of a polling round: listings of 250 messages a page, and look-ups of one broadcast.

RapidPro lists messages by creation time, newest first. A page that begins at the newest due message covers as many
other due messages as one page can. So beginning each page at the next due message needs the fewest pages, without an
estimate of the traffic between them. Invariant: each due message is answered, polled singly, or left for the next
round, where it comes first. Without this order a small budget would skip the same messages in each round.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from cht_rapidpro.domain.outgoing import BroadcastId

PAGE: Final = 250
UNLIMITED: Final = 1_000_000
_SLOWER: Final = 10
_NEAR: Final = 4  # a message within a quarter of a page is expected on the next page


def pause(age: int, interval: int) -> int:
    """Returns the time until a message is polled again: one round at first, then a tenth of its age. All in ms."""
    return max(interval, age // _SLOWER)


class Due(Protocol):
    """A message that is due for polling, created between two moments, both inclusive, ms of RapidPro's clock.

    `asked`: when it was last polled, ms; None: never. `limit`: the most messages in one listing with it, because longer
    listings failed; `is_single`: poll it alone, because a listing is not expected to show it or another due message
    beside it.
    """

    after: int
    before: int
    asked: int | None
    limit: int

    @property
    def broadcast(self) -> BroadcastId: ...
    @property
    def is_single(self) -> bool: ...


T = TypeVar("T", bound=Due)


class Round(Generic[T]):
    """The due messages of a round. `left`: messages without an answer yet; the caller removes the answered ones.

    `by_turn`: the message that was not polled for the longest time comes first; else the newest, which needs the fewest
    pages.
    """

    def __init__(self, due: Collection[T], *, by_turn: bool) -> None:
        self.left = dict.fromkeys(due)
        self.by_time = sorted(due, key=lambda each: -each.before)
        never = float("-inf")
        turns = sorted(self.by_time, key=lambda each: never if each.asked is None else each.asked)
        self._by_turn = deque(turns if by_turn else self.by_time)
        self._places = {each: place for place, each in enumerate(self.by_time)}
        self._oldest = min((each.after for each in due), default=0)
        self._is_limited = any(each.limit < UNLIMITED for each in due)

    def next(self, at_once: int) -> "list[T] | Listing[T] | None":
        """Returns the next step: a listing, or up to `at_once` look-ups."""
        while self._by_turn and self._by_turn[0] not in self.left:
            self._by_turn.popleft()
        if not self._by_turn:
            return None
        head = self._by_turn[0]
        if _is_listed(head):
            listing = self._listing(head)
            if listing.has_company(head):
                return listing
            return [head]
        return self._singles(at_once)

    def _singles(self, at_once: int) -> list[T]:
        """Returns the first messages that are polled singly, one for each broadcast."""
        found: dict[BroadcastId, T] = {}
        for each in self._by_turn:
            if each in self.left and _is_listed(each):
                break
            if each in self.left and each.broadcast not in found:
                if len(found) == at_once:
                    break
                found[each.broadcast] = each
        return list(found.values())

    def _listing(self, head: T) -> "Listing[T]":
        """Returns a listing from `head` to older messages, over as many as may be listed together."""
        start = self._places[head]
        if not self._is_limited:
            return Listing(self, self.by_time, start, head.before, self._oldest)
        asked: list[T] = []
        most = UNLIMITED
        for each in map(self.by_time.__getitem__, range(start, len(self.by_time))):
            most = min(most, each.limit)
            if len(asked) >= most:
                break
            if each in self.left and _is_listed(each):
                asked.append(each)
        return Listing(self, asked, 0, head.before, min(each.after for each in asked))


class Listing(Generic[T]):
    """A listing from `before` back to `after` at most, both inclusive, ms of RapidPro's clock.

    `passed`: messages that it should have shown and did not, to be polled singly; `ahead`: messages that the next page
    may show.
    """

    def __init__(self, of: Round[T], asked: Sequence[T], start: int, before: int, after: int) -> None:
        self._round = of
        self._asked = asked
        self._place = start
        self._vain = 0
        self.ahead: list[T] = []
        self.before = before
        self.after = after
        self.passed: list[T] = []

    def has_company(self, head: T) -> bool:
        """Whether the listing may answer more than one broadcast."""
        return any(each.broadcast != head.broadcast for each in self._following())

    def blamed(self) -> list[T]:
        """The messages that the next page might have shown: one of them may be why a page cannot be read."""
        return [*self.ahead, *islice(self._following(), PAGE)]

    def _following(self) -> Iterator[T]:
        places = range(self._place, len(self._asked))  # islice would walk up to the first of them
        return (each for each in map(self._asked.__getitem__, places) if self._is_listed(each))

    def goes_on(self, answered: Iterable[T], newest: int, oldest: int, *, is_last: bool) -> bool:
        """Records a page, and returns whether the next page is worth a request.

        `answered`: what the page has shown; `newest`, `oldest`: its rows' creation, ms of RapidPro's clock.
        """
        news = [each for each in answered if each in self._round.left]
        for each in news:
            del self._round.left[each]
        self._vain = 0 if news else self._vain + 1
        self._move_to(self.after if is_last else oldest)
        ahead = [each for each in self.ahead if self._is_listed(each)]
        self.passed = [each for each in ahead if is_last or each.after > oldest]
        self.ahead = [each for each in ahead if not is_last and each.after <= oldest]
        if is_last:
            return False
        if not self.ahead:
            return self._vain <= 1 and self._is_near(newest, oldest)
        if self._vain <= len({each.broadcast for each in self.ahead}):
            return True
        self.passed += self.ahead  # further pages would cost more than polling each of them
        self.ahead = []
        return False

    def _move_to(self, oldest: int) -> None:
        """Adds to `ahead` the messages that the pages up to here may have shown."""
        while self._place < len(self._asked) and self._asked[self._place].before >= oldest:
            if self._is_listed(self._asked[self._place]):
                self.ahead.append(self._asked[self._place])
            self._place += 1

    def _is_near(self, newest: int, oldest: int) -> bool:
        """Whether the next message is near enough to be on the next page; otherwise a new listing begins at it."""
        while self._place < len(self._asked) and not self._is_listed(self._asked[self._place]):
            self._place += 1
        is_end = self._place == len(self._asked)
        return not is_end and oldest - self._asked[self._place].before <= (newest - oldest) // _NEAR

    def _is_listed(self, each: T) -> bool:
        return each in self._round.left and _is_listed(each)


def _is_listed(each: Due) -> bool:
    return not each.is_single and each.limit > 1

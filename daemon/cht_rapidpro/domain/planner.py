"""Which requests answer all that is due in a round: listings of 250 messages a page, and look-ups of one broadcast.

RapidPro lists messages by creation time, newest first. A page that begins at the newest due message covers as many
others as one page can, so beginning each next page at the next due message needs the fewest pages; no guess about the
traffic between them is needed. Invariant: each question is answered, asked for singly, or left for the next round,
where it comes first. Without that order a budget that is too small would starve the same messages in each round.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from cht_rapidpro.domain.outgoing import BroadcastId

PAGE: Final = 250
UNLIMITED: Final = 1_000_000
_SLOWER: Final = 10
_NEAR: Final = 4  # a message within a quarter of a page's length is on the next page, unless traffic grows fourfold


def pause(age: int, interval: int) -> int:
    """Until a message is asked for again: every round at first, then a tenth of its age. All in ms."""
    return max(interval, age // _SLOWER)


class Due(Protocol):
    """What has become of a message? It was created between two moments, both inclusive, ms of RapidPro's clock.

    `asked`: when it was last asked for, ms; None: never. `limit`: how many one listing may ask for together with it,
    since longer ones failed; `is_single`: a listing is not expected to show it, or to show another one with it.
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
    """What is due in a round. `left`: what has no answer yet; whoever asks takes the answered ones out.

    `by_turn`: what has not been asked for the longest comes first, else the newest, which needs the fewest pages.
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
        """The next step for what comes first: a listing, or up to `at_once` look-ups."""
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
        """The first in turn that are to be asked for singly, one a broadcast."""
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
        """From `head` on to older ones, over as many questions as may be asked for together."""
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

    `passed`: what it should have shown and did not, to be asked for singly; `ahead`: what the next page may show, and
    no page before it has shown.
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
        """Whether another broadcast may be answered together with this one."""
        return any(each.broadcast != head.broadcast for each in self._following())

    def blamed(self) -> list[T]:
        """What the next page might have shown: a page that cannot be read may be the fault of one of these."""
        return [*self.ahead, *islice(self._following(), PAGE)]

    def _following(self) -> Iterator[T]:
        places = range(self._place, len(self._asked))  # islice would walk up to the first of them
        return (each for each in map(self._asked.__getitem__, places) if self._is_listed(each))

    def goes_on(self, answered: Iterable[T], newest: int, oldest: int, *, is_last: bool) -> bool:
        """Takes note of a page and says whether the next one is worth a request.

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
        self.passed += self.ahead  # to look on for them would cost more than to ask for each
        self.ahead = []
        return False

    def _move_to(self, oldest: int) -> None:
        """Adds what the pages so far may have shown to what is ahead."""
        while self._place < len(self._asked) and self._asked[self._place].before >= oldest:
            if self._is_listed(self._asked[self._place]):
                self.ahead.append(self._asked[self._place])
            self._place += 1

    def _is_near(self, newest: int, oldest: int) -> bool:
        """Whether the next question is so near that the next page shows it; else a new listing begins at it."""
        while self._place < len(self._asked) and not self._is_listed(self._asked[self._place]):
            self._place += 1
        is_end = self._place == len(self._asked)
        return not is_end and oldest - self._asked[self._place].before <= (newest - oldest) // _NEAR

    def _is_listed(self, each: T) -> bool:
        return each in self._round.left and _is_listed(each)


def _is_listed(each: Due) -> bool:
    return not each.is_single and each.limit > 1

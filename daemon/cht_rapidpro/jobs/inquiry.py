"""One listing of RapidPro's messages, page by page, and what may go wrong with it.

The pages come from a server that others write to meanwhile, over a network: a cursor that is not known any more begins
the listing again, and paging that repeats itself or never ends is cut. Invariant: a listing ends, and says by its last
page whether it was whole. Without it one bad answer would keep a daemon asking for ever.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.adapters.rapidpro import BadCursor, Failure, Listing, RapidPro, Rows
from cht_rapidpro.domain.delivery import MessageRow, created_on, read_message_row
from cht_rapidpro.domain.outgoing import Doubtful
from cht_rapidpro.domain.planner import Window
from cht_rapidpro.domain.task import timestamp

_SENT_STATUSES: Final = frozenset({"wired", "sent", "delivered", "read"})
_MORE_PAGES: Final = 10  # than expected, until a listing is cut; twice as many as expected, too


@dataclass(frozen=True, slots=True)
class Seen:
    """A page: the rows that may be ours, when any of its rows was created (ms of RapidPro's clock), how it goes on.

    `sent`: how many of all its rows are in the folder `sent`; `is_first` and `is_last` of its listing.
    """

    rows: list[MessageRow]
    moments: list[int]
    sent: int
    is_first: bool
    is_last: bool

    @property
    def oldest(self) -> int:
        return min(self.moments)


async def messages_of(rapidpro: RapidPro, base: str, broadcast: str) -> Seen | Failure:
    """The messages of a broadcast; it must be an id, for an empty text would list everything."""
    answer = await rapidpro.list_rows(base, Listing.MESSAGES, {"broadcast": broadcast}, None)
    if isinstance(answer, BadCursor):
        return Doubtful("a position in a listing that has none")
    return _seen(answer, is_first=True) if isinstance(answer, Rows) else answer


async def pages_of(rapidpro: RapidPro, base: str, window: Window) -> AsyncGenerator[Seen | Failure, None]:
    """The pages of a window, newest first, and at its end the failure that cut it short, if any."""
    # RapidPro's times have microseconds, ours milliseconds: one more on each side.
    query = {"after": timestamp(window.after - 1), "before": timestamp(window.before + 1)}
    pages = _Pages(rapidpro, base, query | ({"folder": window.folder} if window.folder else {}))
    for _ in range(2 * window.cost + _MORE_PAGES):
        seen = await pages.next()
        if isinstance(seen, Seen) and not all(window.after - 2 <= each <= window.before + 2 for each in seen.moments):
            seen = Doubtful("RapidPro lists what was not asked for")
        yield seen
        if not isinstance(seen, Seen) or seen.is_last:
            return
    yield Doubtful("RapidPro's paging does not end")


class _Pages:
    """`reached`: when the oldest row so far was created; in the order of a listing of all messages it gets older."""

    def __init__(self, rapidpro: RapidPro, base: str, query: Mapping[str, str]) -> None:
        self._rapidpro = rapidpro
        self._base = base
        self._query = query
        self._cursor: str | None = None
        self._cursors: set[str] = set()
        self._reached: int | None = None
        self._begun_again = False

    async def next(self) -> Seen | Failure:
        answer = await self._rapidpro.list_rows(self._base, Listing.MESSAGES, self._query, self._cursor)
        if isinstance(answer, BadCursor):
            return await self._begin_again()
        if not isinstance(answer, Rows):
            return answer
        seen = _seen(answer, is_first=self._cursor is None)
        if answer.cursor is not None:
            if answer.cursor in self._cursors or not self._gets_on(seen):
                return Doubtful("RapidPro's paging repeats itself")
            self._cursors.add(answer.cursor)
            self._cursor = answer.cursor
        return seen

    def _gets_on(self, seen: Seen) -> bool:
        """Whether a page with more behind it is further back than the one before, as far as its order tells."""
        before, self._reached = self._reached, min(seen.moments, default=None)
        if self._reached is None or "folder" in self._query:
            return self._reached is not None
        return before is None or self._reached < before

    async def _begin_again(self) -> Seen | Failure:
        """Once; RapidPro forgets no position twice in a row."""
        if self._begun_again or self._cursor is None:
            return Doubtful("RapidPro does not know its own position")
        self._begun_again = True
        self._cursor = self._reached = None
        self._cursors.clear()
        return await self.next()


def _seen(answer: Rows, *, is_first: bool) -> Seen:
    moments = [moment for row in answer.rows if (moment := created_on(row)) is not None]
    rows = [read for row in answer.rows if (read := read_message_row(row))]
    sent = sum(1 for row in answer.rows if isinstance(row, dict) and row.get("status") in _SENT_STATUSES)
    return Seen(rows, moments, sent, is_first, is_last=answer.cursor is None)

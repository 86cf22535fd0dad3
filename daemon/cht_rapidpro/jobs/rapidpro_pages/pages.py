"""Reads one listing of RapidPro's messages, page by page.

The list changes while it is read: after an unknown cursor the listing begins again, and paging that repeats itself or
does not end is cut. Invariant: a listing ends, and its last page shows whether it was complete. Without this one bad
answer would make a daemon request pages for ever.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.adapters.rapidpro.client import BadCursor, Failure, Listing, RapidPro, Rows
from cht_rapidpro.domain.delivery import MessageRow, created_on, read_message_row
from cht_rapidpro.domain.outgoing import Ambiguous
from cht_rapidpro.domain.task import timestamp

_SERVER_ERROR: Final = Ambiguous("HTTP 500")


@dataclass(frozen=True, slots=True)
class Seen:
    """A page: the rows that may belong to tasks, when its rows were created (ms of RapidPro's clock), and its cursor.

    `count`: of all rows; `is_last` of its listing.
    """

    rows: list[MessageRow]
    moments: list[int]
    count: int
    is_last: bool

    @property
    def newest(self) -> int:
        return max(self.moments, default=0)

    @property
    def oldest(self) -> int:
        return min(self.moments, default=0)


async def messages_of(rapidpro: RapidPro, base: str, broadcast: str) -> Seen | Failure:
    """Reads the messages of a broadcast; `broadcast` must be an id, because an empty text would list all messages."""
    answer = await rapidpro.list_rows(base, Listing.MESSAGES, {"broadcast": broadcast}, None)
    if isinstance(answer, BadCursor):
        return Ambiguous("a position in a listing that has none")
    return _seen(answer) if isinstance(answer, Rows) else answer


async def pages_of(rapidpro: RapidPro, base: str, after: int, before: int) -> AsyncGenerator[Seen | Failure, None]:
    """The pages of what was created from `after` to `before`, newest first, and the failure that cuts them short.

    Both in ms of RapidPro's clock, inclusive.
    """
    # RapidPro's times have microseconds, ours milliseconds: one more on each side.
    pages = _Pages(rapidpro, base, {"after": timestamp(after - 1), "before": timestamp(before + 1)})
    while True:
        seen = await pages.next()
        if isinstance(seen, Seen) and not all(after - 2 <= each <= before + 2 for each in seen.moments):
            seen = Ambiguous("RapidPro lists rows that were not requested")
        yield seen
        if not isinstance(seen, Seen) or seen.is_last:
            return


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
        # A malformed cursor is a 404 in current versions, a 500 in RapidPro 9.0.0.
        if isinstance(answer, BadCursor) or (answer == _SERVER_ERROR and self._cursor and not self._begun_again):
            return await self._begin_again()
        if not isinstance(answer, Rows):
            return answer
        seen = _seen(answer)
        if answer.cursor is not None:
            if answer.cursor in self._cursors or not self._gets_on(seen):
                return Ambiguous("RapidPro's paging repeats itself")
            self._cursors.add(answer.cursor)
            self._cursor = answer.cursor
        return seen

    def _gets_on(self, seen: Seen) -> bool:
        """Whether a page continues the listing: it is not newer than the page before, and may have the same ms."""
        before, self._reached = self._reached, min(seen.moments, default=None)
        return self._reached is not None and (before is None or self._reached <= before)

    async def _begin_again(self) -> Seen | Failure:
        """Begins again, but only once in a row."""
        if self._begun_again or self._cursor is None:
            return Ambiguous("RapidPro does not know its own position")
        self._begun_again = True
        self._cursor = self._reached = None
        self._cursors.clear()
        return await self.next()


def _seen(answer: Rows) -> Seen:
    moments = [moment for row in answer.rows if (moment := created_on(row)) is not None]
    rows = [read for row in answer.rows if (read := read_message_row(row))]
    return Seen(rows, moments, len(answer.rows), is_last=answer.cursor is None)

"""Complete listings of RapidPro's messages and runs, at a tenth of what RapidPro allows in an hour.

A missed message can wait a little longer; delivery states, which share the limit, cannot. A listing is complete or ends
with an error: half a listing would look like a complete one.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Final, assert_never

from cht_rapidpro.adapters.rapidpro.client import BadCursor, Listing, RapidPro, Rows
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.budget import Budget, Scope
from cht_rapidpro.domain.outgoing import Ambiguous, NotSent, Throttled, Trouble
from cht_rapidpro.errors import TransientError

_SCOPES: Final = {Listing.MESSAGES: Scope.MESSAGES, Listing.RUNS: Scope.RUNS}
_PAGES: Final = 10_000


class Listings:
    """The share follows the limit of RapidPro's scopes, which a reload may change; no limit, no share."""

    def __init__(self, rapidpro: RapidPro) -> None:
        self._rapidpro = rapidpro
        self._shares = {scope: Budget(None) for scope in _SCOPES.values()}

    async def pages(self, base: str, listing: Listing, query: Mapping[str, str]) -> AsyncGenerator[list[object], None]:
        """The rows, page by page. Raises TransientError when RapidPro cannot be asked or its paging breaks."""
        cursor: str | None = None
        seen = {cursor}
        for _ in range(_PAGES):
            page = await self._page(base, listing, query, cursor)
            yield page.rows
            cursor = page.cursor
            if cursor is None:
                return
            if cursor in seen:
                raise TransientError(f"the paging of {listing}.json repeats itself")
            seen.add(cursor)
        raise TransientError(f"{listing}.json has more than {_PAGES} pages")

    async def whole(self, base: str, listing: Listing, query: Mapping[str, str]) -> list[object]:
        """Returns all rows of a short listing, such as one contact's."""
        return [row async for rows in self.pages(base, listing, query) for row in rows]

    async def _page(self, base: str, listing: Listing, query: Mapping[str, str], cursor: str | None) -> Rows:
        while True:
            await self._turn(_SCOPES[listing])
            share = self._shares[_SCOPES[listing]]
            share.begin()
            try:
                page = await self._rapidpro.list_rows(base, listing, query, cursor)
            finally:
                share.end(loop_time(), counted=True)
            match page:
                case Rows():
                    return page
                case Throttled():
                    continue  # `_turn` waits for as long as RapidPro says
                case BadCursor():
                    raise TransientError(f"RapidPro has forgotten the position in {listing}.json")
                case NotSent(why) | Trouble(why) | Ambiguous(why):
                    raise TransientError(f"{listing}.json: {why}")
                case never:
                    assert_never(never)

    async def _turn(self, scope: Scope) -> None:
        """Waits until both our share and the whole have room."""
        whole, share = self._rapidpro.budgets[scope], self._shares[scope]
        share.per_hour = None if whole.per_hour is None else max(1, whole.per_hour // 10)
        budgets = (whole, share)
        while pause := max(budget.delay(loop_time()) for budget in budgets):  # noqa: ASYNC110 - no event
            await asyncio.sleep(pause)

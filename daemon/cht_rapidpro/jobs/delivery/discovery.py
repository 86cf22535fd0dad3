"""Finds the tasks that wait for a state in CHT's views, page by page, and fills the watchlist.

The relay reports the tasks that it settles; other daemons' tasks, and all tasks after a restart, are only in CouchDB.
So each round reads the changes of the last minutes, and an hourly walk reads all tasks that are young enough, a bounded
part a round. Documents are read only if the view shows a new state. Messages that are too old are outside of the key
range: a million of them cost nothing. While many messages are being sent the views are rarely read: to bring them up to
date takes CouchDB as long as the sending.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import structlog

from cht_rapidpro.adapters.couchdb.client import PAGE, Couch
from cht_rapidpro.adapters.couchdb.state_views import (
    BY_LAST_UPDATED_STATE,
    GATEWAY_MESSAGES_BY_STATE,
    StateRow,
    has_view,
    updated_since,
    with_ref_in,
)
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.delivery import FAILED_FOR, ON_ITS_WAY, outstanding_in
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import DocId
from cht_rapidpro.errors import GatewayError
from cht_rapidpro.jobs.delivery.tracker import DeliveryTracker, loop_ms
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_WALK_EVERY: Final = 3600.0  # s of loop time
_PAUSE_WHILE_BUSY: Final = 300.0  # s of loop time
_OVERLAP: Final = 300_000  # ms by which another daemon's clock, or its writes, may be late
_PAGES: Final = 20  # a round
_PAGES_WITHOUT_TIMES: Final = 2  # each row of these needs a document read

Pages = AsyncGenerator[list[StateRow], None]


class OutstandingTasks:
    """`give_up_after`: ms; `is_busy`: whether CouchDB is busy with a long queue."""

    def __init__(
        self,
        couch: Couch,
        tracker: DeliveryTracker,
        settings: SettingsWatch,
        give_up_after: int,
        is_busy: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._couch = couch
        self._tracker = tracker
        self._settings = settings
        self._give_up_after = give_up_after
        self._is_busy = is_busy
        self._read_at: float | None = None
        self._walk: Pages | None = None
        self._has_times = False
        self._next_walk = 0.0
        self._seen: set[tuple[DocId, str, float]] = set()
        self._reported = False

    async def refresh(self, now: int) -> None:
        """Reads one round's part. `now`: ms since the epoch. Raises TransientError and OperatorActionRequiredError."""
        if self._is_busy is not None and await self._is_busy() and not self._is_overdue():
            return
        now_here = self._read_at = loop_time()
        if self._has_times:
            await self._read_latest(now)
        if self._walk is None and now_here >= self._next_walk:
            self._walk = await self._begin(now)
            self._next_walk = now_here + _WALK_EVERY
        if self._walk is not None:
            try:
                await self._go_on(self._walk, now)
            except GatewayError:
                await self.close()
                raise

    def _is_overdue(self) -> bool:
        now = loop_time()
        if self._read_at is None:
            self._read_at = now
        return now >= self._read_at + _PAUSE_WHILE_BUSY

    async def close(self) -> None:
        """Forgets the position of the walk: the next round begins again."""
        self._next_walk = 0.0
        if self._walk is not None:
            walk, self._walk = self._walk, None
            await walk.aclose()

    async def _begin(self, now: int) -> Pages | None:
        self._has_times = await has_view(self._couch, BY_LAST_UPDATED_STATE)
        if self._has_times:
            return updated_since(self._couch, now - self._give_up_after)
        if await has_view(self._couch, GATEWAY_MESSAGES_BY_STATE):
            return self._without_times()
        if not self._reported:
            log.error("view.missing", view="/".join(BY_LAST_UPDATED_STATE), means="only states of own sends")
        self._reported = True
        return None

    async def _without_times(self) -> Pages:
        for state in (*ON_ITS_WAY, State.FAILED):
            async with aclosing(with_ref_in(self._couch, state)) as pages:
                async for page in pages:
                    yield page

    async def _go_on(self, walk: Pages, now: int) -> None:
        for _ in range(_PAGES if self._has_times else _PAGES_WITHOUT_TIMES):
            if not self._tracker.make_room(PAGE, loop_ms()):
                return
            page = await anext(walk, None)
            if page is None:
                self._walk = None
                return
            await self._take(page, now)

    async def _read_latest(self, now: int) -> None:
        """Reads the changes of the last minutes; rows of other gateways' tasks are remembered and skipped."""
        seen: set[tuple[DocId, str, float]] = set()
        async with aclosing(updated_since(self._couch, now - _OVERLAP)) as pages:
            count = 0
            async for page in pages:
                rows = [row for row in page if self._is_wanted(row, now)]
                await self._take([row for row in rows if _identity(row) not in self._seen], now)
                seen |= {_identity(row) for row in rows}
                count += 1
                if count == _PAGES:
                    break
        self._seen = seen

    async def _take(self, rows: Sequence[StateRow], now: int) -> None:
        wanted = self._tracker.news(row for row in rows if self._is_wanted(row, now))
        ids = list(dict.fromkeys(row.doc_id for row in wanted))
        settings = self._settings.settings.values if self._settings.settings else {}
        async with aclosing(self._couch.documents(ids)) as pieces:
            async for docs in pieces:
                for doc_id, doc in docs.items():
                    if doc is not None:
                        self._tracker.update(doc_id, outstanding_in(doc, settings), loop_ms(), now)

    def _is_wanted(self, row: StateRow, now: int) -> bool:
        if row.changed is None:
            return True
        if not isinstance(row.changed, int | float):
            return False
        return row.state in ON_ITS_WAY or (row.state == State.FAILED and row.changed >= now - FAILED_FOR)


def _identity(row: StateRow) -> tuple[DocId, str, float]:
    return row.doc_id, row.state, row.changed

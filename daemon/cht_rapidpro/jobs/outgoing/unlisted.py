"""Finds the messages that no sweep meets with: CHT's view has no row for an empty uuid, number or text.

Such a message stays `pending` for ever. The feed shows its document when it changes. For all that changed before the
daemon started there is a walk, at the start and once a day: CHT's view of tasks by their last state tells which
documents have a task that is to be sent, and these are read. It is slow on purpose, a page and then a pause, and what
it costs depends on the tasks that are on their way, not on the size of the database. Documents that were found are
looked at again after each sweep interval, until they are repaired. While many messages are being sent the walk waits
before each page, for five minutes at the most: to bring the view up to date takes CouchDB as long as the sending.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final, NoReturn

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.state_views import BY_LAST_UPDATED_STATE, has_view, unfinished
from cht_rapidpro.domain.task import SENDABLE, Doc, DocId
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.unsendable import Unsendable

_WALK_EVERY: Final = 86_400.0  # seconds
_PAUSE: Final = 0.5  # seconds after each page
_BUSY_LOOKS: Final = 10  # at whether it is busy still
_BUSY_PAUSE: Final = 30.0  # seconds between two of them
_AT_ONCE: Final = 100  # documents that are looked at again in one interval


class UnlistedMessages:
    """`interval`: seconds between two looks at what is known; `is_busy`: whether CouchDB is busy with a long queue."""

    def __init__(
        self,
        couch: Couch,
        settings: SettingsWatch,
        unsendable: Unsendable,
        interval: float,
        is_busy: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._couch = couch
        self._settings = settings
        self._unsendable = unsendable
        self._interval = interval
        self._is_busy = is_busy
        self._changed = asyncio.Event()
        self._position: object = None  # of a walk that CouchDB did not let end
        settings.subscribe(self._changed.set)

    async def run(self) -> NoReturn:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._walk_daily())
            group.create_task(self._look_again())
        raise AssertionError("unreachable: neither has an end")

    async def _walk_daily(self) -> NoReturn:
        """Anew also when sending has become ours: what was known is forgotten while it is not."""
        while True:
            target = self._settings.target
            if target is not None:
                await until_it_works(self._walk)
            with suppress(TimeoutError):
                async with asyncio.timeout(_WALK_EVERY):
                    while self._settings.target == target:
                        self._changed.clear()
                        await self._changed.wait()

    async def _look_again(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._interval)
            await until_it_works(self._look_at_known)

    async def _walk(self) -> None:
        if not await has_view(self._couch, BY_LAST_UPDATED_STATE):
            return
        await self._until_calm()
        async with aclosing(unfinished(self._couch, self._position)) as pages:
            async for page in pages:
                await self._look(list(dict.fromkeys(row.doc_id for row in page if row.state in SENDABLE)))
                self._position = page[-1].changed
                await asyncio.sleep(_PAUSE)
                await self._until_calm()
        self._position = None

    async def _until_calm(self) -> None:
        for _ in range(_BUSY_LOOKS):
            if self._is_busy is None or not await self._is_busy():
                return
            await asyncio.sleep(_BUSY_PAUSE)

    async def _look_at_known(self) -> None:
        await self._look(self._unsendable.to_look_at(_AT_ONCE))

    async def _look(self, ids: Sequence[DocId]) -> None:
        missing = set(ids)
        async with aclosing(self._couch.documents(ids, self._unsendable.cannot_read)) as pieces:
            async for docs in pieces:
                missing -= docs.keys()
                for doc_id, doc in docs.items():
                    self._see(doc_id, doc)
        for doc_id in missing:
            self._see(doc_id, None)

    def _see(self, doc_id: DocId, doc: Doc | None) -> None:
        if self._settings.target is not None:
            self._unsendable.look(doc_id, doc)

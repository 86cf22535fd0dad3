"""Finds the messages that another gateway may have sent: sendable ones that have a free broadcast in RapidPro's list.

The listing counts only where it began `settle_time` after the other gateway's last sign. Two things are signs: its own
`gateway_ref` on a message, which the takeover notes in `quiet_since`, and a free broadcast for one that is younger.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import structlog

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.outgoing import pair_of
from cht_rapidpro.domain.reconcile import RecipientSlot
from cht_rapidpro.domain.takeover import FreeBroadcasts
from cht_rapidpro.domain.task import MessageKey, message_fields, read_message
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.broadcast_lookup import Lookup
from cht_rapidpro.jobs.outgoing.claimed_task import Moment

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_SENDABLE: Final = "pending-or-forwarded"  # the view's own name for it
_BACK: Final = 3600.0  # seconds before the takeover from which broadcasts are listed
_RETRY: Final = 5.0  # seconds until a listing that failed is tried again, doubling up to
_LONGEST_RETRY: Final = 300.0


class Suspects:
    """`settle_time`: seconds; `wall_clock`: ms since the epoch; `known`: broadcasts of this daemon's messages.

    `quiet_since`: loop time of the other gateway's last sign; `earliest`: when the first broadcast that counts may have
    been made.
    """

    def __init__(
        self,
        couch: Couch,
        lookup: Lookup,
        settings: SettingsWatch,
        known: Mapping[MessageKey, RecipientSlot],
        settle_time: float,
        wall_clock: Callable[[], int],
    ) -> None:
        self._couch = couch
        self._lookup = lookup
        self._settings = settings
        self._known = known
        self._settle_time = settle_time
        self._wall_clock = wall_clock
        self._since = 0
        self.quiet_since = loop_time()
        self.earliest = Moment(wall_clock(), loop_time())

    def begin(self, since: int) -> None:
        """The takeover began at `since`, ms since the epoch, perhaps in an earlier process."""
        now = Moment(self._wall_clock(), loop_time())
        ago = max(0.0, (now.wall - since) / 1000) + _BACK
        self._since = since
        self.quiet_since = now.loop
        self.earliest = Moment(now.wall - round(ago * 1000), now.loop - ago)

    async def sendable(self) -> set[int]:
        """The hashes of the keys of all sendable messages: a backlog may be long."""
        async with aclosing(self._couch.messages_in(_SENDABLE)) as pages:
            return {
                hash((row.doc_id, found.uuid))
                async for page in pages
                for row in page
                if (found := read_message(message_fields(row.value)))
            }

    async def find(self, holds: Callable[[MessageKey], bool]) -> set[MessageKey]:
        """Those that the takeover still `holds` and that have a free broadcast; returns when that is certain."""
        is_proven = await self._is_past()
        while True:
            if not is_proven:
                await self._until_quiet()
            is_proven = False
            free = await self._list()
            found = await until_it_works(self._match, free, holds)
            newest, now = max(found.values(), default=None), self._lookup.rapidpro_time()
            age = self._settle_time if newest is None or now is None else (now - newest) / 1000
            if age >= self._settle_time:
                return set(found)
            self.quiet_since = max(self.quiet_since, loop_time() - max(0.0, age))

    async def _is_past(self) -> bool:
        """Whether this machine's clock and RapidPro's both say that `settle_time` is over since the takeover."""
        base = self._settings.target
        now = None if base is None else await self._lookup.present(base)
        return now is not None and min(now, self._wall_clock()) >= self._since + self._settle_time * 1000

    async def _until_quiet(self) -> None:
        while True:
            left = self.quiet_since + self._settle_time - loop_time()
            if left <= 0:
                return
            await asyncio.sleep(left)  # a sign may come meanwhile

    async def _list(self) -> FreeBroadcasts:
        retry = _RETRY
        while True:
            free: FreeBroadcasts | str = "the app settings name no RapidPro that can be asked"
            if (base := self._settings.target) is not None:
                free = await self._lookup.free(base, loop_time() - self.earliest.loop, self._known, self._values())
            if not isinstance(free, str):
                return free
            if retry == _RETRY:
                log.warning("listing.failed", why=free, means="messages from before the takeover wait for it")
            await asyncio.sleep(retry)
            retry = min(2 * retry, _LONGEST_RETRY)

    async def _match(self, free: FreeBroadcasts, holds: Callable[[MessageKey], bool]) -> dict[MessageKey, int]:
        """When the latest broadcast was made that may be a message's, for those that have one."""
        found: dict[MessageKey, int] = {}
        values = self._values()
        async with aclosing(self._couch.messages_in(_SENDABLE)) as pages:
            async for page in pages:
                for row in page:
                    message = read_message(message_fields(row.value))
                    if message is None or not free.may_have(message.text) or not holds((row.doc_id, message.uuid)):
                        continue
                    if (moment := free.newest(pair_of(message, values))) is not None:
                        found[row.doc_id, message.uuid] = moment
        return found

    def _values(self) -> Mapping[str, Any]:
        settings = self._settings.settings
        return settings.values if settings else {}

"""Fetches messages that the relay flow took while the gateway was off: RapidPro posts a message only once.

At the start and every `backfill_interval` it lists the messages that the flow has taken since the last listing, and
stores those without a record as the webhook would. The position advances only when all of them are stored, at least on
disk; until then the same messages are listed again. A message that the webhook is storing at the same time becomes one
document: both write the same `_id` without a revision, which CouchDB accepts once.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.incoming_docs import ReceivedMessages
from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.adapters.spool.spool import Spool
from cht_rapidpro.config.schema import Incoming as Settings
from cht_rapidpro.domain.backfill import (
    GRACE,
    NO_MESSAGE_IDS_ABOUT,
    Checkpoint,
    Evidence,
    IdIs,
    checkpoint,
    other,
    source_of,
)
from cht_rapidpro.domain.incoming import AlreadyStored, doc_id
from cht_rapidpro.errors import OperatorActionRequiredError, TransientError
from cht_rapidpro.jobs.incoming.missed_messages import Missed, MissedMessages, MissedRuns
from cht_rapidpro.jobs.incoming.receiver import Incoming
from cht_rapidpro.jobs.incoming.stored_messages import RecordedMessages
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.rapidpro_pages.listings import Listings
from cht_rapidpro.telemetry.dependency_health import Health

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_RETRY: Final = 30.0  # seconds after a listing that failed, doubling up to the interval
_ANONYMOUS: Final = (
    "RapidPro hides the phone numbers of this workspace (anonymous): missed messages cannot be"
    " fetched; let the workspace show the numbers, or empty [incoming] flow"
)
_CHANGE: Final = "nothing is fetched, since every message would be stored twice; set it to"
_CONTRADICTED: Final[Mapping[IdIs, str]] = {
    "message": f'the flow sends run.uuid, and [incoming] id_is says "message": {_CHANGE} "run", or let the flow send'
    " input.uuid, and restart",
    "run": f'the flow sends input.uuid, and [incoming] id_is says "run": {_CHANGE} "message", or let the flow send'
    " run.uuid, and restart",
}


class Backfill:
    """Created only if `[incoming] flow` is set. `wall_clock`: ms, used if RapidPro does not send its time."""

    def __init__(
        self,
        couch: Couch,
        rapidpro: RapidPro,
        spool: Spool,
        incoming: Incoming,
        settings: SettingsWatch,
        config: Settings,
        wall_clock: Callable[[], int],
    ) -> None:
        self._rapidpro = rapidpro
        self._spool = spool
        self._incoming = incoming
        self._settings = settings
        self._config = config
        self._wall_clock = wall_clock
        self._received = ReceivedMessages(couch)
        self._listings = Listings(rapidpro)
        recorded = RecordedMessages(couch, self._received, spool)
        ways: dict[IdIs, MissedMessages | MissedRuns] = {
            "message": MissedMessages(recorded, config.flow),
            "run": MissedRuns(recorded, self._listings, config.flow, self._clock),
        }
        self._way, self._other_way = ways[config.id_is], ways[other(config.id_is)]
        self._reported: set[str] = set()
        self._changed = asyncio.Event()
        self.health = Health("backfill")
        settings.subscribe(self._changed.set)

    async def run(self) -> NoReturn:
        interval = self._config.backfill_interval
        retry = _RETRY
        while True:
            base = await self._base()
            try:
                await self._look(base)
            except (TransientError, OperatorActionRequiredError) as error:
                self.health.fails(error)
                await asyncio.sleep(min(retry, interval))
                retry *= 2
            else:
                self.health.works()
                retry = _RETRY
                await asyncio.sleep(interval)

    async def _base(self) -> str:
        while (base := self._settings.base) is None:
            self._changed.clear()
            await self._changed.wait()
        return base

    async def _look(self, base: str) -> None:
        """Reads one listing; stores each page before the next one is requested."""
        now = await self._now(base)
        look = await self._last_look(now)
        query = self._way.query(look.after(self._config.id_is))
        reported: set[str] = set()
        evidence: Evidence | None = None
        async with aclosing(self._listings.pages(base, self._way.listing, query)) as pages:
            async for rows in pages:
                async with aclosing(self._way.find(base, rows, now - GRACE)) as found:
                    async for missed in found:
                        if missed.at < look.earliest:
                            continue
                        if missed.is_storable:
                            evidence = evidence or await self._evidence(base, look)
                        if evidence is None or evidence.other is None or missed.at > evidence.other:
                            await self._recover(base, missed, reported)
                        else:
                            self._report(missed, "it may be stored under another kind of id", reported)
        self._reported = reported
        await self._keep(replace(look, until=now))

    async def _evidence(self, base: str, look: Checkpoint) -> Evidence:
        """Finds out which kind of id the flow has sent. Raises OperatorActionRequiredError if it is not the configured
        kind.

        Needed only if a message seems to be missing: with the wrong kind of id every message does.
        """
        try:
            latest = await self._latest(base, self._other_way, look, other(self._config.id_is))
        except OperatorActionRequiredError as error:
            if error.about != NO_MESSAGE_IDS_ABOUT:
                raise
            latest = None
        if latest is None:
            return Evidence(None, None)
        found = Evidence(await self._latest(base, self._way, look, self._config.id_is), latest)
        if found.contradicts:
            raise OperatorActionRequiredError(_CONTRADICTED[self._config.id_is], about="id_is")
        return found

    async def _latest(self, base: str, way: MissedMessages | MissedRuns, look: Checkpoint, id_is: IdIs) -> int | None:
        """Returns when the latest recorded message with this kind of id came."""
        query = way.query(look.after(id_is))
        async with aclosing(self._listings.pages(base, way.listing, query)) as pages:
            async for rows in pages:
                came = [at for at in await way.recorded(rows) if at >= look.earliest]
                if came:
                    return came[0]
        return None

    async def _now(self, base: str) -> int:
        """Returns RapidPro's time, whose clock decides what is before and after a position."""
        if self._rapidpro.clock() is None:
            await self._rapidpro.probe(base)
        return self._clock()

    def _clock(self) -> int:
        return self._rapidpro.clock() or self._wall_clock()

    async def _last_look(self, now: int) -> Checkpoint:
        stored, spooled = await self._received.checkpoint(), await self._spool.checkpoint()
        source = source_of(self._config.flow, self._config.id_is)
        look = checkpoint(stored, spooled, source, self._config.backfill_from, now)
        if stored.get("source") != source:
            await self._keep(look)  # keeps the moment of the first start for later starts
        return look

    async def _keep(self, look: Checkpoint) -> None:
        await self._spool.keep_last_look(look.until)
        await self._received.keep_last_look(look.for_storage())

    async def _recover(self, base: str, missed: Missed, reported: set[str]) -> None:
        message = missed.input
        arrival = message.posted_as(missed.id) if message else None
        if arrival:
            stored = await self._incoming.store(arrival)
            if not isinstance(stored, AlreadyStored):
                log.info("incoming.recovered", doc=doc_id(missed.id, missed.at), message=missed.id)
        elif message is None:
            self._report(missed, "none of its contact's messages is the one that this run took", reported)
        elif message.urn is None:
            await self._check_anonymity(base)
            self._report(missed, "RapidPro does not show its sender", reported)
        elif not message.sender:
            self._report(missed, f"it came over {message.urn.partition(':')[0]}, not from a phone number", reported)

    def _report(self, missed: Missed, why: str, reported: set[str]) -> None:
        """Logs each message once, because listings overlap. Messages without a text are not logged: the webhook refuses
        them, too.
        """
        if missed.id not in self._reported:
            log.warning("incoming.unrecovered", message=missed.id, why=why)
        reported.add(missed.id)

    async def _check_anonymity(self, base: str) -> None:
        hidden = await self._rapidpro.hides_numbers(base)
        if not isinstance(hidden, bool):
            raise TransientError(f"whether RapidPro hides its numbers is not known: {hidden}")
        if hidden:
            raise OperatorActionRequiredError(_ANONYMOUS, about="anonymous")

"""Writes the waiting messages of the spool into CouchDB, in their order of arrival.

A row is deleted only when its document is known to be stored, so a kill at any point causes a repetition, which the
recorder recognises, and never loses a message. The drain's first success after a failure shows that CouchDB stores
messages again; until then new messages go to the spool without a try.
"""

import asyncio
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.couchdb.client import Rejected
from cht_rapidpro.adapters.spool.file import Counts, Row
from cht_rapidpro.adapters.spool.spool import Spool
from cht_rapidpro.concurrency.timing import wait_for_event
from cht_rapidpro.domain.incoming import InboundMessage, doc_id, shown_id
from cht_rapidpro.errors import TransientError
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.incoming.record_writer import Outcome, RecordWriter
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.telemetry.liveness import Liveness

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_ROWS: Final = 200
_LOOK: Final = 10.0  # seconds between two checks: the `retry` command may have released rows
_TRY: Final = 20.0


class SpoolDrainer:
    """`is_blocked`: CouchDB did not store the last message; new messages go to the spool.

    `left`: the number of messages in the spool, as of a moment ago.
    """

    def __init__(self, spool: Spool, settings: SettingsWatch, recorder: RecordWriter) -> None:
        self._spool = spool
        self._settings = settings
        self._recorder = recorder
        self._wake = asyncio.Event()
        self.is_blocked = False
        self.left = Counts(0, 0)
        self.liveness = Liveness("drain", spool.health)
        settings.subscribe(self.wake)

    def block(self, error: BaseException) -> None:
        if not self.is_blocked:
            log.warning("incoming.spooling_started", to="spool", why=str(error) or "CouchDB does not answer in time")
        self.is_blocked = True

    def wake(self) -> None:
        self._wake.set()

    def added(self, messages: int) -> None:
        """Counts messages that were put into the spool. Before the settings are read none can be drained."""
        self.left = Counts(self.left.waiting + messages, self.left.rejected)
        if self._settings.settings is not None:
            self.wake()

    async def run(self) -> NoReturn:
        await self._tell_what_was_left()
        while True:
            while await until_it_works(self._step):
                pass
            self.left = await until_it_works(self._spool.counts)
            await wait_for_event(self._wake, _LOOK)
            self._wake.clear()

    async def _tell_what_was_left(self) -> None:
        self.left = counts = await until_it_works(self._spool.counts)
        if counts.rejected:
            log.error(
                "spool.opened", waiting=counts.waiting, rejected=counts.rejected, remedy="cht-rapidpro spool list"
            )
        elif counts.waiting:
            log.info("spool.opened", waiting=counts.waiting)

    async def _step(self) -> bool:
        """One batch; whether there may be more."""
        with self.liveness.step():
            return await self._drain_batch()

    async def _drain_batch(self) -> bool:
        settings = self._settings.settings
        if settings is None:
            return False
        self.left = await self._spool.counts()  # each time: while CouchDB is away a step has no other end
        rows = await self._spool.oldest(_ROWS)
        if not rows:
            return False
        try:
            async with asyncio.timeout(_TRY):
                outcomes = await self._recorder.record([row.arrival for row in rows], settings, repeated=True)
        except TimeoutError as error:
            raise TransientError("CouchDB does not answer") from error
        self.unblock()
        await self._settle(rows, outcomes)
        return True

    def unblock(self) -> None:
        if self.is_blocked:
            log.warning("incoming.spooling_ended", to="CouchDB")
        self.is_blocked = False

    async def _settle(self, rows: list[Row], outcomes: list[Outcome]) -> None:
        pairs = list(zip(rows, outcomes, strict=True))
        rejected = {row.number: outcome.reason for row, outcome in pairs if isinstance(outcome, Rejected)}
        done = [row.number for row in rows if row.number not in rejected]
        await self._spool.settle(done, rejected)
        for row in rows:
            if row.number in rejected:
                tell_rejected(row.arrival, rejected[row.number])
        log.info("spool.flushed", rows=len(done))
        self.left = await self._spool.counts()
        if len(rows) < _ROWS:
            await self._spool.clean()


def tell_rejected(arrival: InboundMessage, reason: str) -> None:
    log.error(
        "incoming.rejected",
        doc=doc_id(arrival.id, arrival.at),
        gateway_ref=shown_id(arrival.id),
        reason=reason,
        remedy="it stays in the spool: cht-rapidpro spool list",
    )

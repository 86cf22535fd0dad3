"""Stores incoming messages: in CouchDB, in one write with other waiting messages, or on this machine's disk.

RapidPro tries once and waits for fifteen seconds, so an answer never depends on CouchDB's return: there is one short
try, then messages go to the spool at once, until the drain succeeds. Every message that is answered 200 is on a disk.
Messages that arrive while a write is in flight go with the next one; one write is in flight at a time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.couchdb.client import Couch, Rejected
from cht_rapidpro.adapters.spool.file import Counts
from cht_rapidpro.adapters.spool.spool import Spool
from cht_rapidpro.domain.history import MessageRef
from cht_rapidpro.domain.incoming import AlreadyStored, InboundMessage, Saved, Spooled, Stored, doc_id, shown_id
from cht_rapidpro.errors import OperatorActionRequiredError, TransientError
from cht_rapidpro.jobs.incoming.miswired import MiswiredFlow
from cht_rapidpro.jobs.incoming.record_writer import Outcome, RecordWriter
from cht_rapidpro.jobs.incoming.spool_drainer import SpoolDrainer, tell_rejected
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.telemetry.liveness import Liveness
from cht_rapidpro.telemetry.metrics import Arrived, Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_ROWS: Final = 200  # messages a write
_TRY: Final = 4.0  # seconds for CouchDB; together with the spool's wait for its lock below the webhook's 15
_RETRY_AFTER: Final = 5.0


class Unavailable(TransientError):  # noqa: N818 - said of the whole, as in "503 Service Unavailable"
    """Neither CouchDB nor the spool takes the message, or too many wait already: it is not stored."""


_ARRIVED: Final[Mapping[type[Stored | Unavailable], Arrived]] = {
    Saved: Arrived.STORED,
    AlreadyStored: Arrived.DUPLICATE,
    Spooled: Arrived.SPOOLED,
    Unavailable: Arrived.FAILED,
}


@dataclass(slots=True, eq=False)
class _Waiting:
    arrival: InboundMessage
    done: asyncio.Future[Stored]


class Incoming:
    """`store` works while `run` runs. `max_waiting`: messages that may wait for their answer at once.

    `flow`: what is wrong with what it sends. `can_store`: whether the last message could be stored at all.
    """

    def __init__(
        self,
        couch: Couch,
        spool: Spool,
        settings: SettingsWatch,
        metrics: Metrics,
        *,
        max_waiting: int,
        check_legacy_ids: bool,
    ) -> None:
        self._couch = couch
        self._spool = spool
        self._settings = settings
        self._metrics = metrics
        self._max_waiting = max_waiting
        self.flow = MiswiredFlow()
        self._recorder = RecordWriter(couch, self.flow.notice, check_legacy_ids=check_legacy_ids)
        self._drain = SpoolDrainer(spool, settings, self._recorder)
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self.can_store = True
        self.pulses = [Liveness("incoming", spool.health), self._drain.liveness]

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def spooled(self) -> Counts:
        """What is in the spool, as of a moment ago."""
        return self._drain.left

    async def store(self, arrival: InboundMessage) -> Stored:
        """Stores the message, and returns where it is. Raises Unavailable."""
        if len(self) >= self._max_waiting:
            raise Unavailable("too many messages wait to be stored", retry_after=_RETRY_AFTER)
        item = _Waiting(arrival, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._wake.set()
        return await item.done

    async def run(self) -> NoReturn:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._drain.run())
            group.create_task(self._write())
        raise AssertionError("unreachable: neither has an end")

    async def _write(self) -> NoReturn:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    batch, self._waiting = self._waiting[:_ROWS], self._waiting[_ROWS:]
                    with self.pulses[0].step():
                        await self._take_in(batch)
        finally:
            for item in self._waiting:
                _answer(item, _unavailable())

    async def _take_in(self, batch: Sequence[_Waiting]) -> None:
        try:
            results = await self._store([item.arrival for item in batch])
            self.can_store = not any(isinstance(result, Unavailable) for result in results)
            for item, result in zip(batch, results, strict=True):
                self._metrics.count(_ARRIVED[type(result)], _about(item.arrival))
                _answer(item, result)
        finally:  # this job ends: every waiting webhook gets an answer
            for item in batch:
                _answer(item, _unavailable())

    async def _store(self, arrivals: Sequence[InboundMessage]) -> Sequence[Stored | Unavailable]:
        if not self._drain.is_blocked:
            try:
                return await self._keep_rejected(arrivals, await self._record(arrivals, repeated=False))
            except (TransientError, OperatorActionRequiredError) as error:
                self._drain.block(error)
        try:
            return await self._put(arrivals)
        except OperatorActionRequiredError:
            return await self._store_without_spool(arrivals)

    async def _store_without_spool(self, arrivals: Sequence[InboundMessage]) -> Sequence[Stored | Unavailable]:
        """Tries CouchDB again; but after a refusal only the drain tries, slowly, because wrong passwords lock the
        user.
        """
        if isinstance(self._couch.health.error, OperatorActionRequiredError):
            return [_unavailable() for _ in arrivals]
        try:
            outcomes = await self._record(arrivals, repeated=True)
        except (TransientError, OperatorActionRequiredError):
            return [_unavailable() for _ in arrivals]
        self._drain.unblock()
        return await self._keep_rejected(arrivals, outcomes)

    async def _record(self, arrivals: Sequence[InboundMessage], *, repeated: bool) -> list[Outcome]:
        if self._settings.settings is None:
            raise TransientError("the app settings were never read")
        try:
            async with asyncio.timeout(_TRY):
                return await self._recorder.record(arrivals, self._settings.settings, repeated=repeated)
        except TimeoutError as error:
            raise TransientError(f"CouchDB has not answered within {_TRY:g} s") from error

    async def _put(self, arrivals: Sequence[InboundMessage]) -> Sequence[Stored]:
        await self._spool.put(arrivals)
        for arrival in arrivals:
            log.info("incoming.spooled", doc=doc_id(arrival.id, arrival.at), gateway_ref=shown_id(arrival.id))
        self._drain.added(len(arrivals))
        return [Spooled()] * len(arrivals)

    async def _keep_rejected(
        self, arrivals: Sequence[InboundMessage], outcomes: Sequence[Outcome]
    ) -> Sequence[Stored | Unavailable]:
        """Keeps messages that CouchDB refuses, with the reason, for an operator."""
        return [
            await self._keep(arrival, outcome.reason) if isinstance(outcome, Rejected) else outcome
            for arrival, outcome in zip(arrivals, outcomes, strict=True)
        ]

    async def _keep(self, arrival: InboundMessage, reason: str) -> Stored | Unavailable:
        try:
            await self._spool.put([arrival], reason)
        except OperatorActionRequiredError:
            return _unavailable()
        tell_rejected(arrival, reason)
        return Spooled()


def _about(arrival: InboundMessage) -> MessageRef:
    return MessageRef(doc_id(arrival.id, arrival.at), number=str(arrival.sender), gateway_ref=shown_id(arrival.id))


def _unavailable() -> Unavailable:
    return Unavailable("neither CouchDB nor the spool takes it", retry_after=_RETRY_AFTER)


def _answer(item: _Waiting, result: Stored | Unavailable) -> None:
    if item.done.done():
        return
    if isinstance(result, Unavailable):
        item.done.set_exception(result)
    else:
        item.done.set_result(result)

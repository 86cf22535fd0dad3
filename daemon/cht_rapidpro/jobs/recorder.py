"""Makes documents of incoming messages and stores each exactly once, whoever brings it and however often.

The `_id` comes from the message id, so CouchDB itself refuses a second document. A conflict is looked at: the same
message is stored already, another one under the same id (a flow that waits sends one `run.uuid` several times) gets
the second id that belongs to it. Without the look a reused id would swallow a message.

A webhook's first message is written straight away. Whatever may be a repetition, a row of the spool or a message
of the backfill, is looked up first: a write to the `_id` of a deleted document would bring it back, and deleted counts
as stored. A look-up for each webhook would halve their pace to guard against what RapidPro does not do: it tries
once.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from cht_rapidpro.adapters.couchdb import Conflict, Couch, Rejected, WriteResult, Written
from cht_rapidpro.domain.incoming import (
    AlreadyStored,
    Arrival,
    Saved,
    doc_id,
    id_text,
    is_legacy,
    is_of,
    legacy_keys,
    second_id,
)
from cht_rapidpro.domain.records import Sms, build_record
from cht_rapidpro.domain.settings import AppSettings
from cht_rapidpro.domain.task import Doc, DocId

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Outcome = Saved | AlreadyStored | Rejected

_ROUNDS: Final = 5  # two ids, and a fault of the moment with each
_UNDECIDED: Final = Rejected("CouchDB neither stores the document nor has one of its id")


class Recorder:
    """`check_legacy_ids`: what CHT's own gateway has stored under an `_id` of its own counts as stored, too."""

    def __init__(self, couch: Couch, *, check_legacy_ids: bool) -> None:
        self._couch = couch
        self._check_legacy_ids = check_legacy_ids

    async def record(self, arrivals: Sequence[Arrival], settings: AppSettings, *, repeated: bool) -> list[Outcome]:
        """One outcome a message. `repeated`: they may have been stored before.

        Raises TransientError or TroubleError; then none, some or all are stored, and they are to be recorded again as
        `repeated`.
        """
        batch = _Batch(self._couch, arrivals, settings)
        if self._check_legacy_ids:
            batch.settle_legacy(await self._couch.incoming_with(_keys(arrivals)))
        await batch.record(look_first=repeated)
        return batch.outcomes


def _keys(arrivals: Sequence[Arrival]) -> list[str | int | float]:
    return [key for arrival in arrivals for key in legacy_keys(arrival.id)]


class _Batch:
    """The messages of one call, on their way to an outcome each; `known`: what is stored under an id, None: deleted."""

    def __init__(self, couch: Couch, arrivals: Sequence[Arrival], settings: AppSettings) -> None:
        self._couch = couch
        self._arrivals = arrivals
        self._settings = settings
        self._outcomes: dict[int, Outcome] = {}
        self._ids = {number: doc_id(arrival.id) for number, arrival in enumerate(arrivals)}  # of those without outcome
        self._known: dict[DocId, Doc | None] = {}

    @property
    def outcomes(self) -> list[Outcome]:
        return [self._outcomes[number] for number in range(len(self._arrivals))]

    def settle_legacy(self, docs: Sequence[Doc]) -> None:
        found: dict[str, list[Doc]] = {}
        for doc in filter(is_legacy, docs):
            found.setdefault(id_text(doc["sms_message"].get("gateway_ref")), []).append(doc)
        for number, arrival in enumerate(self._arrivals):
            if any(is_of(doc, arrival) for doc in found.get(id_text(arrival.id), [])):
                self._settle(number, AlreadyStored())

    async def record(self, *, look_first: bool) -> None:
        for _ in range(_ROUNDS):
            if look_first:
                await self._look_up(set(self._ids.values()))
            await self._write()
            if not self._ids:
                return
            look_first = True
        for number in list(self._ids):
            self._settle(number, _UNDECIDED)

    async def _look_up(self, ids: set[DocId]) -> None:
        self._known |= await self._couch.look_up(sorted(ids - self._known.keys()))
        for number, taken in list(self._ids.items()):
            if taken in self._known:
                self._compare(number, self._known[taken])

    def _compare(self, number: int, doc: Doc | None) -> None:
        """With the document of its id: the same message, or another one, which goes on under its second id."""
        arrival = self._arrivals[number]
        second = second_id(arrival.id, arrival.content)
        if doc is None or is_of(doc, arrival) or self._ids[number] == second:
            log.info("incoming.known", doc=self._ids[number], gateway_ref=id_text(arrival.id))
            self._settle(number, AlreadyStored())
        else:
            log.warning("incoming.id_reused", doc=second, first=self._ids[number], gateway_ref=id_text(arrival.id))
            self._ids[number] = second

    async def _write(self) -> None:
        """The first message of each id; the others of the same id are compared with it in the next round."""
        firsts: dict[DocId, int] = {}
        for number, taken in self._ids.items():
            if taken not in self._known:
                firsts.setdefault(taken, number)
        docs = [self._document(number) for number in firsts.values()]
        for doc, result in zip(docs, await self._couch.write(docs), strict=True):
            self._take(firsts[doc["_id"]], doc, result)

    def _take(self, number: int, doc: Doc, result: WriteResult) -> None:
        match result:
            case Written():
                self._known[doc["_id"]] = doc
                self._settle(number, Saved())
                log.info("incoming.stored", doc=doc["_id"], gateway_ref=id_text(self._arrivals[number].id))
            case Conflict():
                pass  # the next round looks
            case Rejected():
                self._settle(number, result)

    def _settle(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome
        self._ids.pop(number, None)

    def _document(self, number: int) -> Doc:
        arrival = self._arrivals[number]
        sms = Sms(sender=arrival.sender, message=arrival.content, gateway_ref=arrival.id)
        record: Mapping[str, object] = build_record(self._settings.values, self._settings.translations, sms, arrival.at)
        return {**record, "_id": self._ids[number]}

"""Finds what exists under a message id: a document, a record of CHT's own gateway, a deleted document, a row in the
spool.

The backfill skips messages that are known here. The spool is read before CouchDB, so that a row that is drained in
between is seen in CouchDB.
"""

from collections.abc import Collection, Mapping

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.incoming_docs import ReceivedMessages
from cht_rapidpro.adapters.spool.spool import Spool
from cht_rapidpro.domain.incoming import REPEATED_WITHIN, InboundMessage, days_around, doc_id, former_id, second_id
from cht_rapidpro.domain.task import Doc, DocId


class RecordedMessages:
    """Raises TransientError and OperatorActionRequiredError."""

    def __init__(self, couch: Couch, received: ReceivedMessages, spool: Spool) -> None:
        self._couch = couch
        self._received = received
        self._spool = spool

    async def known(self, came: Mapping[str, int]) -> set[str]:
        """Returns the ids that have, or had, a record. `came`: when each message came, ms since the epoch."""
        known = {str(arrival.id) for arrival in await self._spool.under(came)}
        places = {each: _places(each, at) for each, at in came.items()}
        existing = await self._received.existing(set().union(*places.values()))
        known |= {each for each, ids in places.items() if ids & existing}
        return known | (await self._couch.holders([each for each in came if each not in known])).keys()

    async def texts(self, ids: Collection[str]) -> dict[str, list[str]]:
        """Returns the messages under each of these ids that are not deleted: several if an id was used several
        times.
        """
        texts: dict[str, list[str]] = {each: [] for each in ids}
        for arrival in await self._spool.under(ids):
            texts[str(arrival.id)].append(str(arrival.content))
        holders = await self._couch.holders(list(ids))
        owners = {each: {doc_id(each, 0), *holders.get(each, ())} for each in ids}
        docs = await self._couch.read(sorted(set().union(*owners.values())))
        for each, owned in owners.items():
            texts[each] += [_text(docs[owner]) for owner in sorted(owned) if owner in docs]
        return texts

    async def seconds(self, arrivals: Collection[InboundMessage]) -> set[InboundMessage]:
        """Returns the messages that have, or had, a document as a later message of their id."""
        places = {each: set(map(second_id, _days(each))) for each in arrivals}
        existing = await self._received.existing(set().union(*places.values()))
        return {each for each, ids in places.items() if ids & existing}


def _places(given: str, at: int) -> set[DocId]:
    return {former_id(given), *(doc_id(given, each.at) for each in _days(InboundMessage(given, "", "", at)))}


def _days(arrival: InboundMessage) -> list[InboundMessage]:
    return days_around(arrival, later=REPEATED_WITHIN)


def _text(doc: Doc) -> str:
    sms = doc.get("sms_message")
    return str(sms.get("message")) if isinstance(sms, dict) else ""

"""What has become of messages under an id: a document, one of CHT's own gateway, a deleted one, a row in the spool.

The backfill leaves alone what is known here. The spool is asked before CouchDB: a row that is drained in between is
seen there.
"""

from collections.abc import Collection

from cht_rapidpro.adapters.couchdb import Couch
from cht_rapidpro.adapters.received import ReceivedMessages
from cht_rapidpro.adapters.spool import Spool
from cht_rapidpro.domain.incoming import doc_id, second_id
from cht_rapidpro.domain.task import Doc


class RecordedMessages:
    """Raises TransientError and TroubleError."""

    def __init__(self, couch: Couch, received: ReceivedMessages, spool: Spool) -> None:
        self._couch = couch
        self._received = received
        self._spool = spool

    async def known(self, ids: Collection[str]) -> set[str]:
        """The ids under which there is, or was, anything."""
        known = {str(arrival.id) for arrival in await self._spool.under(ids)}
        existing = await self._received.existing([doc_id(each) for each in ids])
        known |= {each for each in ids if doc_id(each) in existing}
        return known | (await self._couch.holders([each for each in ids if each not in known])).keys()

    async def texts(self, ids: Collection[str]) -> dict[str, list[str]]:
        """The messages under each of these ids that are not deleted: several where one id came with several."""
        texts: dict[str, list[str]] = {each: [] for each in ids}
        for arrival in await self._spool.under(ids):
            texts[str(arrival.id)].append(arrival.content)
        holders = await self._couch.holders(list(ids))
        owners = {each: {doc_id(each), *holders.get(each, ())} for each in ids}
        docs = await self._couch.read(sorted(set().union(*owners.values())))
        for each, owned in owners.items():
            texts[each] += [_text(docs[owner]) for owner in sorted(owned) if owner in docs]
        return texts

    async def seconds(self, messages: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of these ids and texts that have, or had, a document as the second message of their id."""
        existing = await self._received.existing([second_id(*each) for each in messages])
        return {each for each in messages if second_id(*each) in existing}


def _text(doc: Doc) -> str:
    sms = doc.get("sms_message")
    return str(sms.get("message")) if isinstance(sms, dict) else ""

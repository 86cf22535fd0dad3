"""CouchDB and RapidPro for a dry run: they are read as always, and what would change them is refused here.

The relay never comes so far, because no claim is won in a dry run (`jobs/documents/dry_writer.py`); this is the lock
behind it.
"""

from collections.abc import Sequence

from cht_rapidpro.adapters.couchdb.client import Couch, WriteResult
from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.domain.outgoing import Answer, Broadcast, NotSent
from cht_rapidpro.domain.task import Doc
from cht_rapidpro.errors import PermanentError


class ReadOnlyCouch(Couch):
    """Writes no document."""

    async def write(self, docs: Sequence[Doc]) -> list[WriteResult]:
        raise PermanentError(f"a dry run writes nothing: {len(docs)} documents")


class ReadOnlyRapidPro(RapidPro):
    """Posts no broadcast."""

    async def post_broadcast(self, base: str, broadcast: Broadcast) -> Answer:
        return NotSent("a dry run posts nothing")

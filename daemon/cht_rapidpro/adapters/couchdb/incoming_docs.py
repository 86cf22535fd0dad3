"""Reads from CouchDB which incoming messages were deleted or archived, and keeps the position of the backfill.

A deleted document counts as stored: a person has removed it, and a plain write to its `_id` would bring it back
(docs/couchdb.md#documents). Only `_all_docs` shows it. An archived document counts as stored, too: CHT has copied it to
another database and purged it without a tombstone, so a new write would make Sentinel reply again.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.errors import raise_for_status
from cht_rapidpro.domain.task import DocId

_LOOK: Final = "_local/cht-rapidpro-backfill"  # not replicated, not in the feed, written without a revision check
_NOT_FOUND: Final = 404
ARCHIVE_SUFFIX: Final = "-archive"  # suffix of the database to which CHT after 5.2.0 moves old documents
_NO_ARCHIVE: Final = frozenset({401, 403, 404})


class _Row(msgspec.Struct):
    key: str
    error: str = ""


class _Rows(msgspec.Struct):
    rows: list[_Row]


class ReceivedMessages:
    """Raises TransientError and OperatorActionRequiredError like every other call to CouchDB."""

    def __init__(self, couch: Couch) -> None:
        self._couch = couch

    async def existing(self, ids: Collection[DocId]) -> set[DocId]:
        """Returns the ids under which there is a document, or was one before it was deleted or archived."""
        found = await self._known(self._couch.url, ids) or set()
        return found | (await self._known(f"{self._couch.url}{ARCHIVE_SUFFIX}", set(ids) - found) or set())

    async def _known(self, database: str, ids: Collection[DocId]) -> set[DocId] | None:
        """Returns None if CHT has no archive, or the user may not read it, which `check` reports."""
        if not ids:
            return set()
        with self._couch.edge():
            async with self._couch.session.post(f"{database}/_all_docs", json={"keys": list(ids)}) as response:
                if database != self._couch.url and response.status in _NO_ARCHIVE:
                    return None
                raise_for_status(response, self._couch.config)
                answer = msgspec.json.decode(await response.read(), type=_Rows)
        return {DocId(row.key) for row in answer.rows if not row.error}

    async def checkpoint(self) -> Mapping[str, Any]:
        """Returns what `keep_last_look` has stored; empty before the first time."""
        with self._couch.edge():
            async with self._couch.session.get(f"{self._couch.url}/{_LOOK}") as response:
                if response.status == _NOT_FOUND:
                    return {}
                raise_for_status(response, self._couch.config)
                return msgspec.json.decode(await response.read(), type=dict[str, Any])

    async def keep_last_look(self, look: Mapping[str, object]) -> None:
        with self._couch.edge():
            async with self._couch.session.put(f"{self._couch.url}/{_LOOK}", json=dict(look)) as response:
                raise_for_status(response, self._couch.config)
                await response.read()

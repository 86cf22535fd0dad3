"""The messages that CouchDB wants sent and that will never go as they are: counted, and named once.

CHT's view also has rows for tasks without a message, and for a uuid, number or text that is no text (for one that is
empty there is no row): such a message stays `pending` for ever. A sweep tells which ones there are. One that read the
view to its end also tells which of them, and which documents that were held back, are gone. What is remembered is
bounded: further rows are neither counted nor named.
"""

from collections.abc import Mapping
from typing import Final

import structlog

from cht_rapidpro.adapters.couchdb import MessageRow
from cht_rapidpro.domain.task import DocId, Lack, lack, message_fields
from cht_rapidpro.jobs.held_back import HeldBack

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_REMEMBERED: Final = 10_000

Key = tuple[DocId, str, str]  # document, uuid where there is one, and the time that the view gives


class Unsendable:
    """`held_back`: the documents that take no claim."""

    def __init__(self, held_back: HeldBack) -> None:
        self._held_back = held_back
        self._known: dict[Key, Lack] = {}
        self._present: dict[Key, Lack] = {}
        self._held_before: set[DocId] = set()

    def counts(self) -> Mapping[str, int]:
        """Messages by what they lack."""
        found = list(self._known.values())
        return {f"no_{reason}": found.count(reason) for reason in Lack}

    def start_sweep(self) -> None:
        self._present = {}
        self._held_before = self._held_back.ids()

    def see(self, row: MessageRow) -> None:
        """A row that this sweep has met with."""
        self._held_before.discard(row.doc_id)
        fields = message_fields(row.value)
        reason = lack(fields)
        if reason is None:
            return
        uuid = fields["uuid"] if isinstance(fields["uuid"], str) else ""
        key = row.doc_id, uuid, str(row.due)[:40]
        if key not in self._known and len(self._known) < _REMEMBERED:
            self._known[key] = reason
            log.warning("message.unsendable", doc=row.doc_id, message=uuid or None, lacks=reason)
        if key in self._known:
            self._known[key] = self._present[key] = reason

    def end_sweep(self) -> None:
        """The view was read to its end: what was not in it is no longer wanted, or can be sent."""
        self._known = self._present
        for doc_id in self._held_before:
            self._held_back.free(doc_id)

    def clear(self) -> None:
        """Sending is not ours at present."""
        self._known, self._present = {}, {}

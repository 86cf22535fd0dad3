"""The messages that CouchDB wants sent and that will never go as they are: counted, and named once.

CHT's view has rows for tasks without a message, and for a uuid, number or text that is no text; a sweep tells which
ones there are. One that read the view to its end also tells which of them, and which documents that were held back, are
gone. For a uuid, number or text that is empty there is no row: only the document itself shows it, to the feed and to
`jobs/outgoing/unlisted.py`. What is remembered is bounded: further messages are neither counted nor named.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import chain, islice
from typing import Final

import structlog

from cht_rapidpro.adapters.couchdb.client import MessageRow
from cht_rapidpro.domain.task import Doc, DocId, Lack, lack, message_fields, unlisted
from cht_rapidpro.jobs.outgoing.deferred import HeldBack

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_REMEMBERED: Final = 10_000  # rows, and as many messages without one

Key = tuple[DocId, str, str]  # document, uuid where there is one, and the time that the view gives


class Unsendable:
    """`held_back`: the documents that take no claim."""

    def __init__(self, held_back: HeldBack) -> None:
        self._held_back = held_back
        self._known: dict[Key, Lack] = {}
        self._present: dict[Key, Lack] = {}
        self._held_before: set[DocId] = set()
        self._unlisted: dict[DocId, list[tuple[str, Lack]]] = {}

    def counts(self) -> Mapping[str, int]:
        """Messages by what they lack."""
        found = Counter(self._known.values())
        found.update(reason for _, reason in chain.from_iterable(self._unlisted.values()))
        return {f"no_{reason}": found[reason] for reason in Lack}

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
            _report(row.doc_id, uuid, reason)
        if key in self._known:
            self._known[key] = self._present[key] = reason

    def end_sweep(self) -> None:
        """The view was read to its end: what was not in it is no longer wanted, or can be sent."""
        self._known = self._present
        for doc_id in self._held_before:
            self._held_back.free(doc_id)

    def look(self, doc_id: DocId, doc: Doc | None) -> None:
        """At a document as it is now, for the messages that the view has no row for; None: it is deleted or gone."""
        before = self._unlisted.pop(doc_id, [])
        if doc is None:
            return
        room = _REMEMBERED - sum(map(len, self._unlisted.values()))
        found = list(islice(unlisted(doc), room))
        for uuid, reason in found:
            if (uuid, reason) not in before:
                _report(doc_id, uuid, reason)
        if found:
            self._unlisted[doc_id] = found

    def cannot_read(self, doc_id: DocId, why: str) -> None:
        """Names a document that CouchDB or the decoder fails at, in the line of a claim that fails for it."""
        self._held_back.hold(doc_id, why)

    def to_look_at(self, most: int) -> list[DocId]:
        """Documents that had such messages; those looked at longest ago come first."""
        return list(islice(self._unlisted, most))

    def clear(self) -> None:
        """Sending is not ours at present."""
        self._known, self._present, self._unlisted = {}, {}, {}


def _report(doc_id: DocId, uuid: str, reason: Lack) -> None:
    log.warning("message.unsendable", doc=doc_id, message=uuid or None, lacks=reason)

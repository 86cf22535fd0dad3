"""The writer of a dry run: it decides on the latest revision like the real one, logs what it would write, and writes
nothing.

The caller of an edit gets the document as it is. So no claim is won, and nothing that follows from one (a POST, its
settling) happens. Each change is told once: sweeps bring the same messages again and again.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import structlog

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.domain.claim import claim_of, is_lookup
from cht_rapidpro.domain.task import Doc, DocId, Task, messages, tasks
from cht_rapidpro.jobs.documents.writer import Waiting, Writer, finish

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_REMEMBERED: Final = 100_000  # changes that were told

_Told = tuple[DocId, str, str]


class DryWriter(Writer):
    """Has the methods of `Writer`; what they return was not written."""

    def __init__(self, couch: Couch) -> None:
        super().__init__(couch)
        self._reported: OrderedDict[_Told, None] = OrderedDict()

    async def _commit_part(self, edits: dict[DocId, list[Waiting]], ids: Sequence[DocId]) -> None:
        bases = await self._bases(ids)
        for doc in self._edit(edits, ids, bases):
            before = bases[doc["_id"]].doc
            for old, new in zip(tasks(before), tasks(doc), strict=True):
                if old is not new and old != new:
                    self._report(doc, old, new)
            self.cache.drop(doc["_id"])
            finish(edits.pop(doc["_id"]), before)

    def _report(self, doc: Doc, old: Task, new: Task) -> None:
        """One line a message for a claim; one a task for another state."""
        state, doc_id = str(new.get("state")), DocId(doc["_id"])
        is_claim = claim_of(new) is not None
        for message in messages(new):
            what = "look_up" if is_claim and is_lookup(new) else "send" if is_claim else state
            if (key := (doc_id, message.uuid, what)) in self._reported:
                continue
            self._reported[key] = None
            if len(self._reported) > _REMEMBERED:
                self._reported.popitem(last=False)
            known = log.bind(doc=doc_id, message=message.uuid, to=message.to, characters=len(message.text))
            if what == "look_up":
                known.info("message.would_look_up", means="it may have been sent already; then it is sent if missing")
            elif is_claim:
                known.info("message.would_send")
            else:
                known.info("task.would_change", before=old.get("state"), state=state, details=new.get("state_details"))

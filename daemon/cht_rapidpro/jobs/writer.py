"""Writes edits of documents into CouchDB, gathered: what waits while a write is in flight goes with the next one.

An edit is a pure function of the document that may be applied again. On a conflict, or when the answer of a write is
lost, the document is read again and the edit decides anew, for as long as it takes: a claim then sees that it is too
late, and what became of a message is a fact that has to be written. One write is in flight at a time.
"""

import asyncio
import math
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from cht_rapidpro.adapters.couchdb import Conflict, Couch, Rejected, WriteResult, Written
from cht_rapidpro.domain.edit import Edit, TaskEdit, edited, holding
from cht_rapidpro.domain.task import Doc, DocId, MessageId, Task
from cht_rapidpro.errors import GatewayError, PermanentError
from cht_rapidpro.jobs.retry import until_it_works
from cht_rapidpro.pulse import Pulse

_ROWS: Final = 200  # documents a round
_COPIES_BYTES: Final = 1024 * 1024
_LONGEST_PAUSE: Final = 2.0


@dataclass(slots=True, eq=False)
class _Waiting:
    doc_id: DocId
    edit: Edit
    done: asyncio.Future[Any]  # the document, or the tasks that hold `uuid`
    uuid: MessageId | None = None
    conflicts: int = 0


class Copies:
    """The last seen revisions of some documents, bounded in bytes. A stale one costs a conflict and nothing else."""

    def __init__(self, limit: int = _COPIES_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._docs: OrderedDict[DocId, tuple[Doc, int, float]] = OrderedDict()

    def put(self, doc: Doc, size: int, now: float) -> None:
        """Keeps a revision seen at `now` (loop time); `size`: the bytes of its JSON."""
        found = self._docs.get(doc["_id"])
        if found and _generation(found[0]) > _generation(doc):
            return  # it was longer on its way than our own write
        self.drop(doc["_id"])
        self._docs[doc["_id"]] = (doc, size, now)
        self._size += size
        while self._size > self._limit:
            self.drop(next(iter(self._docs)))

    def get(self, doc_id: DocId, seen_since: float) -> Doc | None:
        doc, _, seen = self._docs.get(doc_id, (None, 0, 0.0))
        return doc if seen >= seen_since else None

    def drop(self, doc_id: DocId) -> None:
        if found := self._docs.pop(doc_id, None):
            self._size -= found[1]


class Writer:
    """`copies` may be given revisions that came in by another way (the feed), to spare a read."""

    def __init__(self, couch: Couch) -> None:
        self._couch = couch
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self.copies = Copies()
        self.pulse = Pulse("writer", couch.health)

    async def apply(self, doc_id: DocId, edit: Edit, *, max_age: float | None = None) -> Doc | None:
        """The document as it is stored after the edit; None when it is deleted or never existed.

        `max_age`: seconds; an older copy is not written against but read again. Raises PermanentError when CouchDB
        will not take the edited document. Waits for as long as CouchDB is away.
        """
        stored: Doc | None = await self._apply(doc_id, edit, max_age, None)
        return stored

    async def apply_to_task(self, doc_id: DocId, edit: TaskEdit, *, max_age: float | None = None) -> list[Task]:
        """Like `apply`: the tasks with the message as they are stored after the edit; none when they are gone."""
        stored: list[Task] = await self._apply(doc_id, edit, max_age, edit.uuid)
        return stored

    async def _apply(self, doc_id: DocId, edit: Edit, max_age: float | None, uuid: MessageId | None) -> Any:
        loop = asyncio.get_running_loop()
        if max_age is not None and self.copies.get(doc_id, loop.time() - max_age) is None:
            self.copies.drop(doc_id)
        item = _Waiting(doc_id, edit, loop.create_future(), uuid)
        self._queue(item)
        return await item.done

    def _queue(self, item: _Waiting) -> None:
        self._waiting.append(item)
        self._wake.set()

    async def run(self) -> NoReturn:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                with self.pulse.step():
                    await until_it_works(self._commit, self._take())

    def _take(self) -> dict[DocId, list[_Waiting]]:
        edits: dict[DocId, list[_Waiting]] = {}
        left = []
        for item in self._waiting:
            if item.doc_id in edits or len(edits) < _ROWS:
                edits.setdefault(item.doc_id, []).append(item)
            else:
                left.append(item)
        self._waiting = left
        return edits

    async def _commit(self, edits: dict[DocId, list[_Waiting]]) -> None:
        """One try; what is finished is taken out of `edits`, so that another try does the rest."""
        changed = self._edit(edits, await self._bases(list(edits)))
        try:
            results = await self._couch.write(changed)
        except GatewayError:
            for doc in changed:
                self.copies.drop(doc["_id"])  # perhaps written: the next try looks
            raise
        for doc, result in zip(changed, results, strict=True):
            self._conclude(edits.pop(doc["_id"]), doc, result)

    async def _bases(self, ids: list[DocId]) -> dict[DocId, Doc]:
        copies = {doc_id: doc for doc_id in ids if (doc := self.copies.get(doc_id, -math.inf))}
        return copies | await self._couch.read([doc_id for doc_id in ids if doc_id not in copies])

    def _edit(self, edits: dict[DocId, list[_Waiting]], bases: dict[DocId, Doc]) -> list[Doc]:
        """The documents that the edits change; those that they leave as they are, or that are gone, are finished."""
        changed = []
        for doc_id, items in list(edits.items()):
            base = bases.get(doc_id)
            doc = edited(base, [item.edit for item in items]) if base is not None else None
            if doc is not None and doc is not base:
                changed.append(doc)
            elif base is not None and base is self.copies.get(doc_id, -math.inf):
                self.copies.drop(doc_id)  # "nothing to do" is true of the latest revision only
                self._requeue(edits.pop(doc_id))
            else:
                _finish(edits.pop(doc_id), doc)
        return changed

    def _requeue(self, items: list[_Waiting]) -> None:
        for item in items:
            self._queue(item)

    def _conclude(self, items: list[_Waiting], doc: Doc, result: WriteResult) -> None:
        match result:
            case Written(rev, size):
                doc["_rev"] = rev
                self.copies.put(doc, size, asyncio.get_running_loop().time())
                _finish(items, doc)
            case Conflict():
                self.copies.drop(doc["_id"])
                for item in items:
                    self._try_again(item)
            case Rejected(reason):
                self.copies.drop(doc["_id"])
                for item in items:
                    if not item.done.done():
                        item.done.set_exception(PermanentError(reason))

    def _try_again(self, item: _Waiting) -> None:
        """The first conflict is tried again at once, later ones ever more slowly: somebody is writing in a row."""
        item.conflicts += 1
        if item.conflicts == 1:
            self._queue(item)
        else:
            pause = min(0.01 * 2.0**item.conflicts, _LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311 - jitter
            asyncio.get_running_loop().call_later(pause, self._queue, item)


def _generation(doc: Doc) -> int:
    """How many revisions a document has had: the number before the dash."""
    number = str(doc.get("_rev", "")).partition("-")[0]
    return int(number) if number.isdigit() else 0


def _finish(items: list[_Waiting], doc: Doc | None) -> None:
    uuids = {item.uuid for item in items if item.uuid is not None}
    found = holding(doc, uuids) if doc is not None and uuids else {}
    for item in items:
        if not item.done.done():
            item.done.set_result(doc if item.uuid is None else found.get(item.uuid, []))

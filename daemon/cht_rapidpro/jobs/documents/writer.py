"""Writes edits of documents into CouchDB in groups: edits that wait while a write is in flight go with the next one.

An edit is a pure function of the document that may be applied again. On a conflict, or when the answer of a write is
lost, the document is read again and the edit decides anew: a claim then sees that it is too late, while the outcome of
a message has to be written in any case. Before an edit, claims and settlements of losing branches are copied into the
document. One write is in flight at a time. Settlements are gathered for a moment while they follow each other fast,
since no sending waits for them; a claim takes them along. A document at which CouchDB fails is tried alone, so that it
does not stop other documents.
"""

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgspec

from cht_rapidpro.adapters.couchdb.client import Conflict, Couch, Rejected, WriteResult, Written
from cht_rapidpro.adapters.couchdb.errors import AwayError
from cht_rapidpro.adapters.http.bounded_body import TooLargeError
from cht_rapidpro.concurrency.timing import loop_time, wait_for_event
from cht_rapidpro.domain.branches import adopt
from cht_rapidpro.domain.edit import Edit, TaskEdit, edited, holding
from cht_rapidpro.domain.task import Doc, DocId, MessageId, Task
from cht_rapidpro.errors import GatewayError, PermanentError, TransientError
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.telemetry.liveness import Liveness

_ROWS: Final = 200  # documents a round
_COPIES_BYTES: Final = 1024 * 1024
_COPY_OVERHEAD: Final = 400  # bytes that a copy takes besides its JSON: its id, the objects around it
_LONGEST_PAUSE: Final = 2.0
_TRIES: Final = 5  # of a document that CouchDB fails at while it works for others


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class UnconfirmedError(PermanentError):
    """A claim that may not hold: too few nodes have it, or another program writes the document all the time."""


class FaultyError(PermanentError):
    """CouchDB fails at this document again and again, and works for others."""


@dataclass(frozen=True, slots=True)
class _Base:
    """A document to be edited, and what its losing branches hold. `is_copy`: there may be a later revision."""

    doc: Doc
    leaves: Sequence[Doc] = ()
    is_copy: bool = False

    @property
    def merged(self) -> Doc:
        return adopt(self.leaves)(self.doc) if self.leaves else self.doc


@dataclass(slots=True, eq=False)
class Waiting:
    """An edit that waits to be written; `done`: what `Writer.apply` returns."""

    doc_id: DocId
    edit: Edit
    done: asyncio.Future[Any]  # the document, or the tasks that hold `uuid`
    uuid: MessageId | None = None
    conflicts: int = 0
    faults: int = 0
    is_claim: bool = False  # a claim needs a quorum, and is not tried for ever
    may_wait: bool = False  # for others to go along


@dataclass(frozen=True, slots=True)
class _Copy:
    """A revision as JSON: as objects it would take five times the memory."""

    body: bytes
    generation: int
    seen: float

    @property
    def size(self) -> int:
        return len(self.body) + _COPY_OVERHEAD


class DocumentCache:
    """The last seen revisions of some documents, bounded in bytes. A stale copy costs only a conflict."""

    def __init__(self, limit: int = _COPIES_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._docs: OrderedDict[DocId, _Copy] = OrderedDict()

    def put(self, doc: Doc, size: int, now: float) -> None:
        """Keeps a revision seen at `now` (loop time); `size`: the bytes of its JSON, as far as they are known."""
        found = self._docs.get(doc["_id"])
        if found and found.generation > _generation(doc):
            return  # it was read before this daemon's own write
        self.drop(doc["_id"])
        if size > self._limit:
            return
        copy = _Copy(_encode(doc), _generation(doc), now)
        self._docs[doc["_id"]] = copy
        self._size += copy.size
        while self._size > self._limit:
            self.drop(next(iter(self._docs)))

    def get(self, doc_id: DocId, seen_since: float) -> Doc | None:
        """A document of the caller's own: changing it changes no copy."""
        found = self._docs.get(doc_id)
        return _decode(found.body) if found and found.seen >= seen_since else None

    def drop_older(self, doc_id: DocId, seen_since: float) -> None:
        """Drops the copy unless it was seen since then."""
        if (found := self._docs.get(doc_id)) and found.seen < seen_since:
            self.drop(doc_id)

    def drop(self, doc_id: DocId) -> None:
        if found := self._docs.pop(doc_id, None):
            self._size -= found.size


class Writer:
    """`cache` also takes revisions from the feed, to save a read. `gathering`: seconds from one write of edits that may
    wait to the next, unless others go along.
    """

    def __init__(self, couch: Couch, gathering: float = 0.1) -> None:
        self._couch = couch
        self._gathering = gathering
        self._waiting: list[Waiting] = []
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._gathered = -math.inf  # loop time: when edits that may wait were last written
        self.cache = DocumentCache()
        self.liveness = Liveness("writer", couch.health)

    async def apply(
        self, doc_id: DocId, edit: Edit, *, max_age: float | None = None, is_claim: bool = False
    ) -> Doc | None:
        """Edits a document; returns it as stored; None if it is deleted or never existed.

        `max_age`: seconds; an older copy is not written against but read again. Raises PermanentError when CouchDB
        will not take the edited document, FaultyError when it fails at it, and UnconfirmedError for a claim. Waits
        for as long as CouchDB is away.
        """
        stored: Doc | None = await self._apply(Waiting(doc_id, edit, _future(), is_claim=is_claim), max_age)
        return stored

    async def apply_to_task(
        self,
        doc_id: DocId,
        edit: TaskEdit,
        *,
        max_age: float | None = None,
        is_claim: bool = False,
        may_wait: bool = False,
    ) -> list[Task]:
        """Like `apply`: the tasks with the message as they are stored after the edit; none when they are gone.

        `may_wait`: a tenth of a second, so that one write serves many.
        """
        item = Waiting(doc_id, edit, _future(), edit.uuid, is_claim=is_claim, may_wait=may_wait)
        stored: list[Task] = await self._apply(item, max_age)
        return stored

    async def _apply(self, item: Waiting, max_age: float | None) -> Any:
        if max_age is not None:
            self.cache.drop_older(item.doc_id, loop_time() - max_age)
        self._queue(item)
        return await item.done

    async def latest(self, ids: Collection[DocId]) -> dict[DocId, Doc]:
        """The documents as they are now, with what their losing branches know of their messages.

        One that is deleted, or that CouchDB fails at, is not among them. Waits for as long as CouchDB is away.
        """
        return await until_it_works(self._latest, sorted(ids)) if ids else {}

    async def _latest(self, ids: list[DocId]) -> dict[DocId, Doc]:
        found: dict[DocId, Doc] = {}
        waiting = [ids]
        while waiting:
            part = waiting.pop()
            if len(part) > self._couch.rows_at_once:
                waiting += [part[self._couch.rows_at_once :], part[: self._couch.rows_at_once]]
                continue
            try:
                bases = await self._fetch(part)
            except TransientError as error:
                await self._blame(error)
                if len(part) > 1:
                    waiting += _halves(part)
            else:
                found |= {doc_id: base.merged for doc_id, base in bases.items()}
        return found

    def _queue(self, item: Waiting) -> None:
        self._waiting.append(item)
        self._wake.set()
        if not item.may_wait or len(self._waiting) >= _ROWS:
            self._urgent.set()

    async def run(self) -> NoReturn:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._gather()
                with self.liveness.step():
                    await until_it_works(self._commit, self._take())

    async def _gather(self) -> None:
        """Waits if all may wait and such were written just now; not for the first after a while."""
        if all(item.may_wait for item in self._waiting) and len(self._waiting) < _ROWS:
            self._urgent.clear()
            await wait_for_event(self._urgent, self._gathered + self._gathering - loop_time())
        if any(item.may_wait for item in self._waiting):
            self._gathered = loop_time()

    def _take(self) -> dict[DocId, list[Waiting]]:
        edits: dict[DocId, list[Waiting]] = {}
        left = []
        for item in self._waiting:
            if item.doc_id in edits or len(edits) < _ROWS:
                edits.setdefault(item.doc_id, []).append(item)
            else:
                left.append(item)
        self._waiting = left
        return edits

    async def _commit(self, edits: dict[DocId, list[Waiting]]) -> None:
        """Makes one try; removes finished edits from `edits`, so that another try does the rest."""
        waiting = [list(edits)]
        while waiting:
            part = [doc_id for doc_id in waiting.pop() if doc_id in edits]
            if len(part) > self._couch.rows_at_once:
                waiting += [part[self._couch.rows_at_once :], part[: self._couch.rows_at_once]]
                continue
            try:
                await self._commit_part(edits, part)
            except TransientError as error:
                await self._blame(error)
                if len(part) > 1:
                    waiting += _halves(part)
                else:
                    self._try_faulty_again(edits.pop(part[0]), str(error))

    async def _blame(self, error: TransientError) -> None:
        """Returns if CouchDB works for other documents, so that the failure is about these; raises otherwise."""
        if isinstance(error, TooLargeError):
            return
        if isinstance(error, AwayError):
            raise error
        try:
            await self._couch.update_seq()
        except GatewayError:
            raise error from None

    async def _commit_part(self, edits: dict[DocId, list[Waiting]], ids: Sequence[DocId]) -> None:
        changed = self._edit(edits, ids, await self._bases(ids))
        try:
            results = await self._couch.write(changed)
        except GatewayError:
            for doc in changed:
                self.cache.drop(doc["_id"])  # perhaps written: the next try reads the document again
            raise
        for doc, result in zip(changed, results, strict=True):
            self._conclude(edits.pop(doc["_id"]), doc, result)

    async def _bases(self, ids: Sequence[DocId]) -> dict[DocId, _Base]:
        cache = {doc_id: _Base(doc, is_copy=True) for doc_id in ids if (doc := self.cache.get(doc_id, -math.inf))}
        return cache | await self._fetch([doc_id for doc_id in ids if doc_id not in cache])

    async def _fetch(self, ids: Sequence[DocId]) -> dict[DocId, _Base]:
        bases: dict[DocId, _Base] = {}
        for doc_id, doc in (await self._couch.fetch(ids, conflicts=True)).items():
            if doc is not None:
                revs = doc.pop("_conflicts", None)
                bases[doc_id] = _Base(doc, await self._couch.leaves(doc_id, revs) if revs else ())
        return bases

    def _edit(self, edits: dict[DocId, list[Waiting]], ids: Sequence[DocId], bases: dict[DocId, _Base]) -> list[Doc]:
        """Returns the documents that the edits change; edits without a change, or of a deleted document, are
        finished.
        """
        changed = []
        for doc_id in ids:
            items, base = edits[doc_id], bases.get(doc_id)
            doc = edited(base.merged, [item.edit for item in items]) if base is not None else None
            if base is not None and doc is not None and doc is not base.doc:
                changed.append(doc)
            elif base is not None and base.is_copy:
                self.cache.drop(doc_id)  # "nothing to do" is true of the latest revision only
                self._requeue(edits.pop(doc_id))
            else:
                finish(edits.pop(doc_id), doc)
        return changed

    def _requeue(self, items: list[Waiting]) -> None:
        for item in items:
            self._queue(item)

    def _conclude(self, items: list[Waiting], doc: Doc, result: WriteResult) -> None:
        match result:
            case Written(rev, size, has_quorum):
                doc["_rev"] = rev
                if has_quorum:
                    self.cache.put(doc, size, loop_time())
                else:
                    self.cache.drop(doc["_id"])
                    _fail([item for item in items if item.is_claim], UnconfirmedError("CouchDB answers 202: no quorum"))
                finish(items, doc)
            case Conflict(fault):
                self.cache.drop(doc["_id"])
                if fault:
                    self._try_faulty_again(items, fault)
                else:
                    for item in items:
                        self._try_again(item)
            case Rejected(reason):
                self.cache.drop(doc["_id"])
                _fail(items, PermanentError(reason))

    def _try_again(self, item: Waiting) -> None:
        """Tries again at once after the first conflict, then with growing pauses: another program writes
        continuously.
        """
        item.conflicts += 1
        if item.conflicts == 1:
            self._queue(item)
        elif item.is_claim and item.conflicts > 2 * _TRIES:
            _fail([item], UnconfirmedError(f"{item.conflicts} conflicts in a row"))
        else:
            self._queue_later(item, 0.01 * 2.0**item.conflicts)

    def _try_faulty_again(self, items: list[Waiting], fault: str) -> None:
        """Tries again after CouchDB failed at this document and works for other documents."""
        for item in items:
            item.faults += 1
            if item.faults < _TRIES:
                self._queue_later(item, 0.05 * 2.0**item.faults)
            else:
                _fail([item], FaultyError(fault))

    def _queue_later(self, item: Waiting, pause: float) -> None:
        jittered = min(pause, _LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311 - jitter
        asyncio.get_running_loop().call_later(jittered, self._queue, item)


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _halves(ids: Sequence[DocId]) -> list[list[DocId]]:
    middle = len(ids) // 2
    return [list(ids[middle:]), list(ids[:middle])]


def _fail(items: Iterable[Waiting], error: PermanentError) -> None:
    for item in items:
        if not item.done.done():
            item.done.set_exception(error)


def _generation(doc: Doc) -> int:
    """Returns how many revisions a document has had: the number before the dash."""
    number = str(doc.get("_rev", "")).partition("-")[0]
    return int(number) if number.isdigit() else 0


def finish(items: list[Waiting], doc: Doc | None) -> None:
    """Gives the document as it is stored to those who wait for it."""
    uuids = {item.uuid for item in items if item.uuid is not None}
    found = holding(doc, uuids) if doc is not None and uuids else {}
    for item in items:
        if not item.done.done():
            item.done.set_result(doc if item.uuid is None else found.get(item.uuid, []))

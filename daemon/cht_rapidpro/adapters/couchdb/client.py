"""The CouchDB database of a CHT: documents, views and bulk writes.

The session is aiocouch's; requests go through it by aiohttp, so that bodies are bounded in bytes and the feed is a POST
(changes.py). Documents are encoded by msgspec, which keeps integers of any size. A caller sees TransientError and
OperatorActionRequiredError (errors.py), and for a single document a `Rejected`.
"""

import io
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NewType, Self
from urllib.parse import quote

import aiocouch
import aiocouch.database
import aiohttp
import msgspec
import structlog

from cht_rapidpro.adapters.couchdb.errors import AwayError, UnreadableError, raise_for_status, translated, word_of
from cht_rapidpro.adapters.couchdb.login import Login
from cht_rapidpro.adapters.http.bounded_body import TooLargeError, read_bounded
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.domain.task import Doc, DocId
from cht_rapidpro.errors import PermanentError, TransientError
from cht_rapidpro.telemetry.dependency_health import Health
from cht_rapidpro.telemetry.metrics import request_times

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Seq = NewType("Seq", str)
Rev = NewType("Rev", str)

BULK_BYTES: Final = 4 * 1024 * 1024
BULK_ROWS: Final = 500
PAGE: Final = 500
READ_BYTES: Final = 2 * 1024 * 1024  # of one answer with several documents or rows
LONGEST_DOC: Final = 64 * 1024 * 1024  # of one document as JSON; CouchDB's own limit is 8 MB by default
OVERLAP: Final = 500  # rows; as many as the relay can settle while a page is on its way
_TIMEOUT: Final = aiohttp.ClientTimeout(total=60, sock_connect=10)
_ACCEPTED: Final = 202
_JSON: Final = {"Content-Type": "application/json"}
_MOST_LEFT_OUT: Final = 100  # rows of one listing; if more fail, single rows are not the cause
_LEFT_OUT: Final = "it is skipped, and everything else goes on: repair or remove it"
_TOO_LARGE_OR_MALFORMED: Final = frozenset({400, 413})
_REJECTING: Final = frozenset({"forbidden", "unauthorized", "document_too_large", "doc_validation", "bad_request"})

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Written:
    """The document is stored as this revision; `size`: bytes of its JSON.

    `has_quorum`: False if CouchDB answered 202: too few nodes have it, and another write may win on other nodes.
    """

    rev: Rev
    size: int
    has_quorum: bool = True


@dataclass(frozen=True, slots=True)
class Conflict:
    """The write was based on an old revision; or, if `fault` names an error, CouchDB failed at this document."""

    fault: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """CouchDB refuses the content of this document: too large, malformed, or refused by a validation function."""

    reason: str


WriteResult = Written | Conflict | Rejected


class _RefusedByProxy(TransientError):  # noqa: N818 - names what happened to the request
    """A 400 or 413 that is not CouchDB's own."""


View = tuple[str, str]  # design document and name

MESSAGES_BY_STATE: Final[View] = ("medic", "messages_by_state")


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A row of the view `medic/messages_by_state`. `due`: the key's second element, ms or any other value that CHT
    emitted.
    """

    doc_id: DocId
    due: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Place:
    """Where to go on in a view: at the rows of this document under this key."""

    key: object
    doc_id: DocId


class _Row(msgspec.Struct):
    id: str | None = None
    doc: dict[str, Any] | None = None


class _Rows(msgspec.Struct):
    rows: list[_Row]


class _ViewRow(msgspec.Struct):
    id: str
    key: Any
    value: Any = None


class _ViewRows(msgspec.Struct):
    rows: list[_ViewRow]


_documents = msgspec.json.Decoder(_Rows)
_view_rows = msgspec.json.Decoder(_ViewRows)
_leaves = msgspec.json.Decoder(list[dict[str, Any]])
_written = msgspec.json.Decoder(list[dict[str, Any]])


class Couch:
    """One database. Every method raises TransientError (try again) or OperatorActionRequiredError (an operator must
    act).
    """

    def __init__(self, config: Couchdb) -> None:
        self.config = config
        self.health = Health("couchdb")
        self._login = Login(config)
        self.times = request_times("couchdb")
        self.rows_at_once = PAGE  # documents; fewer where they are long

    async def __aenter__(self) -> Self:
        self._server = aiocouch.CouchDB(
            self.config.url, timeout=_TIMEOUT, trust_env=False, middlewares=(self._login.sign,)
        )
        self._database = aiocouch.database.Database(self._server, self.config.database)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.close()

    def sign_in_with(self, config: Couchdb) -> None:
        """Uses the user and password of `config` for each request from now on; its other keys are ignored."""
        if (config.user, config.password) != (self.config.user, self.config.password):
            self.config = msgspec.structs.replace(self.config, user=config.user, password=config.password)
            self._login.use(self.config)
            self.health.tell_again()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session that aiocouch holds, for requests that aiocouch cannot make (docs/couchdb.md#aiocouch-traps)."""
        return self._server._server._http_session

    @property
    def url(self) -> str:
        return f"{self.config.url}/{self.config.database}"

    @contextmanager
    def edge(self, kind: str = "", *, is_timed: bool = True) -> Iterator[None]:
        """Translates foreign errors, and reports the outcome to `health` as a call of this kind.

        `is_timed=False`: the duration does not depend on CouchDB.
        """
        started = time.perf_counter()
        try:
            with translated(self.health, self.config, kind):
                yield
        finally:
            if is_timed:
                self.times.observe(time.perf_counter() - started)
        self.health.works(kind)

    async def update_seq(self) -> Seq:
        """Returns a position of the feed that is valid as `since`: every later write is delivered."""
        with self.edge():
            return Seq(str((await self._database.info())["update_seq"]))

    async def messages_in(
        self, state: str, page_size: int = PAGE, since: tuple[Any, DocId] | None = None
    ) -> AsyncGenerator[list[MessageRow], None]:
        """Yields the messages of the tasks in a state, oldest due first, in pages; a row may come twice.

        `state`: one of CHT's, or `pending-or-forwarded`, the view's name for messages that may be sent. `since`: the
        due and the document of the row to go on at, in the index as it is: what changed meanwhile may be missing.
        """
        place = None if since is None else Place([state, since[0]], since[1])
        async for rows in self.pages(MESSAGES_BY_STATE, [state], [state, {}], page_size, since=place):
            yield [MessageRow(DocId(row["id"]), row["key"][1], row["value"]) for row in rows]

    async def pages(
        self,
        view: View,
        start: object,
        end: object,
        size: int,
        *,
        descending: bool = False,
        since: Place | None = None,
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Yields the rows of a view from one key to another, paged by key and document; a row may come twice.

        The rows of one key and document are passed with `skip`, except for the last `OVERLAP` of them: so many may
        leave the view between two pages without hiding another row. A page that is too long, or that cannot be decoded,
        is requested again with fewer rows; a single such row is left out, with an ERROR. `since`: the rows from there
        on, of the index as it is, which CouchDB does not bring up to date for them.
        """
        skip, limit = 0, size
        query = {"endkey": _json(end)}
        query |= {"descending": "true"} if descending else {}
        query |= {"update": "false"} if since else {}
        first = {"startkey": _json(start)}
        place = since
        left_out = 0
        cap: int | None = None  # rows, after `limit` rows were too many
        while True:
            rows = limit if cap is None else min(limit, cap)
            try:
                begin = {"startkey": _json(place.key), "startkey_docid": place.doc_id} if place else first
                page = await self._page(view, {**query, **begin, "skip": str(skip), "limit": str(rows)})
            except (TooLargeError, UnreadableError):
                cap = max(1, rows // 2)
                if rows == 1:
                    await self.update_seq()  # if CouchDB is away, the failure is not about the row
                    left_out += 1
                    if left_out > _MOST_LEFT_OUT:
                        raise
                    log.error("view.row_unreadable", view="/".join(view), means=_LEFT_OUT)
                    skip += 1
                continue
            if page:
                yield page
            if len(page) < rows:
                return
            last = Place(page[-1]["key"], DocId(page[-1]["id"]))
            same = sum(Place(row["key"], row["id"]) == last for row in page) + (skip if last == place else 0)
            place, skip = last, same if cap else max(0, same - OVERLAP)
            limit = size + same - skip
            cap = 2 * cap if cap and 2 * cap < size else None

    async def _page(self, view: View, query: Mapping[str, str]) -> list[dict[str, Any]]:
        with self.edge(view[1]):
            async with self.session.get(f"{self.url}/_design/{view[0]}/_view/{view[1]}", params=query) as response:
                raise_for_status(response, self.config)
                rows = _view_rows.decode(await read_bounded(response, READ_BYTES)).rows
        return [{"id": row.id, "key": row.key, "value": row.value} for row in rows]

    async def holders(self, refs: Sequence[str]) -> dict[str, set[DocId]]:
        """Returns the documents that hold these gateway_refs (`medic-sms/messages_by_gateway_ref`), incoming records
        among them.

        CHT's own gateway stores numbers, so each ref is requested as text and as number.
        """
        keys: list[Any] = [key for ref in refs for key in ((ref, int(ref)) if ref.isdigit() else (ref,))]
        if not keys:
            return {}
        with self.edge("messages_by_gateway_ref"):
            response = await self._database.view("medic-sms", "messages_by_gateway_ref").post(keys)
            found: dict[str, set[DocId]] = {}
            for row in response.rows:
                found.setdefault(str(row["key"]), set()).add(DocId(row["id"]))
        return found

    async def read(self, ids: Sequence[DocId]) -> dict[DocId, Doc]:
        """Returns the latest revisions of these documents, without those that are deleted or never existed.

        A document at which CouchDB or the decoder fails is also left out, with an ERROR; the other documents are read.
        """
        return {doc_id: doc for doc_id, doc in (await self.look_up(ids)).items() if doc}

    async def look_up(self, ids: Sequence[DocId]) -> dict[DocId, Doc | None]:
        """Like `read`, but with None for a deleted document; only documents that never existed are left out."""
        found: dict[DocId, Doc | None] = {}
        async for docs in self.documents(ids):
            found |= docs
        return found

    async def documents(
        self, ids: Sequence[DocId], unreadable: Callable[[DocId, str], None] | None = None
    ) -> AsyncGenerator[dict[DocId, Doc | None], None]:
        """Like `look_up`, in pieces of at most `READ_BYTES` of JSON.

        `unreadable` is told each document that CouchDB or the decoder fails at, and why; without it there is an ERROR.
        """
        waiting = [ids] if ids else []
        while waiting:
            part = waiting.pop()
            if len(part) > self.rows_at_once:
                waiting += [part[self.rows_at_once :], part[: self.rows_at_once]]
                continue
            try:
                yield await self.fetch(part)
            except AwayError:
                raise
            except TransientError as error:
                if not isinstance(error, TooLargeError):
                    await self.update_seq()  # if CouchDB is away, the failure is not about the documents
                if len(part) > 1:
                    waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
                elif unreadable:
                    unreadable(part[0], str(error))
                else:
                    log.error("document.unreadable", doc=part[0], error=str(error), means=_LEFT_OUT)

    async def fetch(self, ids: Sequence[DocId], *, conflicts: bool = False) -> dict[DocId, Doc | None]:
        """Requests these documents at once; None for a deleted one.

        `conflicts`: also returns the revisions of losing branches, as `_conflicts`. Raises TooLargeError if the caller
        has to request fewer, UnreadableError if one of them cannot be decoded.
        """
        if not ids:
            return {}
        query = {"include_docs": "true"} | ({"conflicts": "true"} if conflicts else {})
        body = msgspec.json.encode({"keys": ids})
        with self.edge():
            async with self.session.post(
                f"{self.url}/_all_docs", params=query, data=io.BytesIO(body), headers=_JSON
            ) as response:
                raise_for_status(response, self.config)
                limit = READ_BYTES if len(ids) > 1 else LONGEST_DOC
                try:
                    answer = await read_bounded(response, limit)
                except TooLargeError:
                    self.rows_at_once = max(1, len(ids) // 2)
                    raise
                found = _documents.decode(answer).rows
        self._learn(len(ids), len(answer))
        return {DocId(row.id): row.doc for row in found if row.id is not None}

    def _learn(self, rows: int, size: int) -> None:
        """Adapts the number of documents a request so that half of `READ_BYTES` is filled, if the next ones are as long
        as these.
        """
        fitting = READ_BYTES // 2 // max(1, size // rows)
        self.rows_at_once = max(1, min(fitting, 2 * self.rows_at_once, PAGE))

    async def leaves(self, doc_id: DocId, revs: Sequence[str]) -> list[Doc]:
        """Returns these revisions of a document if CouchDB has them; deleted ones are left out."""
        query = {"open_revs": _json(list(revs))}
        with self.edge():
            async with self.session.get(
                f"{self.url}/{quote(doc_id, safe='')}", params=query, headers={"Accept": "application/json"}
            ) as response:
                if response.status == 404:
                    return []  # it was purged meanwhile
                raise_for_status(response, self.config)
                found = _leaves.decode(await read_bounded(response, LONGEST_DOC))
        docs = [leaf["ok"] for leaf in found if isinstance(leaf.get("ok"), dict)]
        return [doc for doc in docs if not doc.get("_deleted")]

    async def ids(self, first: str, last: str) -> list[DocId]:
        """Returns the ids of the documents from `first` to `last`, in CouchDB's order."""
        with self.edge():
            response = await self._database.all_docs.get(startkey=_json(first), endkey=_json(last))
            return [DocId(row["id"]) for row in response.rows]

    async def incoming_with(self, refs: Sequence[Any]) -> list[Doc]:
        """Returns the documents that hold one of these as `gateway_ref` of an incoming message or a task, as of a while
        ago.

        The index is not updated first, which would cost more than the write itself.
        """
        if not refs:
            return []
        with self.edge("messages_by_gateway_ref"):
            response = await self._database.view("medic-sms", "messages_by_gateway_ref").post(
                list(refs), include_docs=True, update=False
            )
            return [row["doc"] for row in response.rows if row.get("doc")]

    async def write(self, docs: Sequence[Doc]) -> list[WriteResult]:
        """Stores the documents, each on condition that its `_rev` is the latest; one result a document, in order.

        Sent in as many requests as `BULK_ROWS` and `BULK_BYTES` require. After an error none, some or all may be
        stored: read the documents again to know.
        """
        bodies = [_encoded(doc) for doc in docs]
        written: list[WriteResult] = []
        for chunk in _chunks([body for body in bodies if isinstance(body, bytes)]):
            written += await self._write(chunk)
        results = iter(written)
        return [body if isinstance(body, Rejected) else next(results) for body in bodies]

    async def _write(self, bodies: list[bytes]) -> list[WriteResult]:
        """Halves a refused request until the bad document is alone, since CouchDB refuses a whole request for one bad
        document.

        A proxy may refuse a request for its size, so its 400 and 413 are narrowed down, too. They never reject the
        document that is alone in the end: that raises TransientError.
        """
        try:
            rows, has_quorum = await self._bulk_docs(bodies)
        except PermanentError as error:
            if len(bodies) == 1:
                return [Rejected(str(error))]
        except _RefusedByProxy:
            if len(bodies) == 1:
                raise
        else:
            return [_result(row, len(body), has_quorum) for row, body in zip(rows, bodies, strict=True)]
        middle = len(bodies) // 2
        return [*await self._write(bodies[:middle]), *await self._write(bodies[middle:])]

    async def _bulk_docs(self, bodies: list[bytes]) -> tuple[list[dict[str, Any]], bool]:
        """Returns a row for each document, and whether enough nodes have stored them."""
        body = io.BytesIO(b'{"docs":[' + b",".join(bodies) + b"]}")  # aiohttp warns of megabytes of plain bytes
        with self.edge("_bulk_docs"):
            async with self.session.post(f"{self.url}/_bulk_docs", data=body, headers=_JSON) as response:
                answer = await response.read()
                if response.status not in _TOO_LARGE_OR_MALFORMED:
                    raise_for_status(response, self.config)
                    rows = _written.decode(answer)
                    if len(rows) != len(bodies):
                        raise TransientError(f"CouchDB answers {len(rows)} rows to {len(bodies)} documents")
                    return rows, response.status != _ACCEPTED
                word = word_of(answer)
                if word is None:
                    where = f"CouchDB at {self.config.url}, database {self.config.database!r}"
                    raise _RefusedByProxy(f"{where}: HTTP {response.status} of something in front of it")
        raise PermanentError(f"CouchDB answers HTTP {response.status}: {word}")


def _encoded(doc: Doc) -> bytes | Rejected:
    try:
        return _encode(doc)
    except (ValueError, RecursionError):  # a lone surrogate, a thousand levels
        return Rejected("it cannot be written as JSON: half a character, or too many levels")


def _chunks(bodies: list[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for body in bodies:
        if chunk and (len(chunk) >= BULK_ROWS or size + len(body) > BULK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(body)
        size += len(body)
    if chunk:
        yield chunk


def _result(row: dict[str, Any], size: int, has_quorum: bool) -> WriteResult:
    if isinstance(row.get("rev"), str) and "error" not in row:
        return Written(Rev(row["rev"]), size, has_quorum and row.get("accepted") is not True)
    error = str(row.get("error"))
    if error in _REJECTING:
        return Rejected(f"CouchDB answers {error}: {row.get('reason')}")
    return Conflict() if error == "conflict" else Conflict(fault=f"CouchDB answers {error}")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()

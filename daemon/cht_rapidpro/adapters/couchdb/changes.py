"""The `_changes` feed of a CHT database, as hints about documents that may hold something to send.

Longpoll with a `_selector`, evaluated by CouchDB. A filtered longpoll on a busy database may never end by itself and
gives no position while nothing matches (docs/couchdb.md#the-_changes-feed). So from time to time the caller drops it
and begins again from an `update_seq`; every wait here has a time limit, too. A missed change costs time and never a
message: the sweep of the view finds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec
import structlog

from cht_rapidpro.adapters.couchdb.client import Couch, Seq
from cht_rapidpro.adapters.couchdb.errors import UnreadableError, raise_for_status
from cht_rapidpro.adapters.http.bounded_body import TooLargeError, read_bounded
from cht_rapidpro.domain.settings import MEDIC, SETTINGS, TRANSLATIONS, concerns_settings
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.takeover import is_foreign
from cht_rapidpro.domain.task import TASK_LISTS, Doc, DocId, tasks
from cht_rapidpro.errors import TransientError

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# What another gateway has just sent: CHT's own one stores a number, others any text. Inside of $elemMatch not every
# operator works: $nor fails in CouchDB 3.5, $not in PouchDB.
_TAKEN: Final = tuple(map(str, (State.RECEIVED_BY_GATEWAY, State.FORWARDED_BY_GATEWAY, State.SENT)))
_REFS: Final[tuple[Mapping[str, str], ...]] = ({"$type": "number"}, {"$regex": "[^0-9]"})
SELECTOR: Final[Mapping[str, Any]] = {
    "$or": [
        *({name: {"$elemMatch": {"state": str(State.PENDING)}}} for name in TASK_LISTS),
        *(
            {name: {"$elemMatch": {"state": {"$in": _TAKEN}, "gateway_ref": ref}}}
            for name in TASK_LISTS
            for ref in _REFS
        ),
        {"_id": {"$in": [SETTINGS, MEDIC]}},
        {"_id": {"$gte": TRANSLATIONS[0], "$lte": TRANSLATIONS[1]}},
    ]
}
_ROWS: Final = 100
_BYTES: Final = 8 * 1024 * 1024
_IDLE_MS: Final = 50_000  # the server ends an idle longpoll after this time, which it caps at 60 s
_WAIT: Final = aiohttp.ClientTimeout(total=300, sock_connect=10)
_NO_SELECTOR: Final = frozenset({400, 405, 415, 501})


@dataclass(frozen=True, slots=True)
class Hint:
    """A changed document: its body as of that change (None: deleted) and the bytes of its JSON.

    `has_branches`: it has conflicts, which the body does not show.
    """

    doc_id: DocId
    doc: Doc | None
    size: int
    has_branches: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """The result of one longpoll, and the position to continue from."""

    hints: list[Hint]
    last_seq: Seq
    is_complete: bool = True  # False: documents were left out, a sweep has to find them


class _Row(msgspec.Struct):
    id: str
    deleted: bool = False
    doc: msgspec.Raw = msgspec.Raw(b"null")


class _Body(msgspec.Struct):
    results: list[_Row]
    last_seq: str | int


_decoder = msgspec.json.Decoder(_Body)


class ChangesFeed:
    """Follows one database; raises TransientError and OperatorActionRequiredError like every other call to CouchDB."""

    def __init__(self, couch: Couch) -> None:
        self._couch = couch
        self._selects = True
        self._unreadable_at: Seq | None = None
        self._has_failed = False

    async def wait(self, since: Seq) -> Changes:
        """Returns the next relevant changes after `since`; waits until there are any or the server ends the wait."""
        answer = await self._longpoll(since, selects=True) if self._selects else None
        if answer is not None:
            return answer
        answer = await self._longpoll(since, selects=False)
        if answer is None:
            raise TransientError(f"CouchDB refuses the feed from position {str(since)[:40]!r}")
        if self._selects:
            self._selects = False
            log.warning("feed.unfiltered", reason="this CouchDB cannot filter by _selector: every change is read")
        return answer

    async def _longpoll(self, since: Seq, *, selects: bool) -> Changes | None:
        """Returns None if the server does not understand the request.

        If the documents are too large, or one of them could not be decoded twice, only their ids are read.
        """
        try:
            return await self._request(since, selects=selects, docs=True)
        except TooLargeError:
            pass
        except UnreadableError:
            if self._unreadable_at != since:
                self._unreadable_at = since
                raise
        return await self._request(since, selects=selects, docs=False)

    async def _request(self, since: Seq, *, selects: bool, docs: bool) -> Changes | None:
        # After a failure the request does not wait for a change, so that the end of an outage is noticed at once.
        feed, self._has_failed = "normal" if self._has_failed else "longpoll", True
        params: dict[str, str | int] = {
            "feed": feed,
            "include_docs": "true" if docs else "false",
            "conflicts": "true" if docs else "false",
            "since": since,
            "limit": _ROWS,
            "timeout": _IDLE_MS,
        }
        if selects:
            params["filter"] = "_selector"
        with self._couch.edge("_changes", is_timed=False):  # it waits for something to change
            async with self._couch.session.post(
                f"{self._couch.url}/_changes",
                params=params,
                json={"selector": SELECTOR} if selects else {},
                timeout=_WAIT,
            ) as response:
                if response.status in _NO_SELECTOR:
                    return None
                raise_for_status(response, self._couch.config)
                body = _decoder.decode(await read_bounded(response, _BYTES))
        self._has_failed = False
        hints = [hint for row in body.results if _matters(hint := _hint(row))]
        return Changes(hints, Seq(str(body.last_seq)), is_complete=docs or not body.results)


def _hint(row: _Row) -> Hint:
    try:
        doc = None if row.deleted else msgspec.json.decode(row.doc)
    except (ValueError, RecursionError):
        doc = None  # the sweep also finds it, and logs it
    has_branches = isinstance(doc, dict) and bool(doc.pop("_conflicts", None))
    return Hint(DocId(row.id), doc if isinstance(doc, dict) else None, len(bytes(row.doc)), has_branches)


def _matters(hint: Hint) -> bool:
    """Evaluates SELECTOR for a server that cannot."""
    if concerns_settings(hint.doc_id):
        return True
    return hint.doc is not None and any(
        task.get("state") == State.PENDING or (task.get("state") in _TAKEN and is_foreign(task))
        for task in tasks(hint.doc)
    )

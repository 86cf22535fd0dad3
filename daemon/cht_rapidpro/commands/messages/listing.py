"""`messages list`: the messages in a state, from CouchDB's view, numbers masked, texts left out.

Bounded in rows read and rows shown, and says so where there are more: a database of a million messages must neither
fill a terminal nor keep CouchDB busy.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from cht_rapidpro.adapters.couchdb.client import MESSAGES_BY_STATE, PAGE
from cht_rapidpro.commands.messages.site import Site, now
from cht_rapidpro.domain import phone
from cht_rapidpro.domain.reconcile import is_same_number
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import DocId, due, message_fields, messages, milliseconds, tasks, timestamp
from cht_rapidpro.telemetry.logs import masked_number

READ: Final = 50_000  # rows
TO_BE_SENT: Final = (State.PENDING, State.FORWARDED_TO_GATEWAY)
_SENDABLE: Final = "pending-or-forwarded"  # the view's own name


@dataclass(frozen=True, slots=True)
class Wanted:
    """`states` empty: what is to be sent. `older`: seconds that a message has been due; `number`: in any spelling."""

    states: tuple[State, ...]
    older: float | None
    doc: str | None
    number: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class Listed:
    """`due`: ms since the epoch, None where that cannot be read; `number`: whole, to be masked where it is shown."""

    doc: DocId
    uuid: str
    state: str
    due: int | None
    number: str

    def plain(self) -> dict[str, Any]:
        """As JSON types, for a log or a ticket: the number masked."""
        moment = None if self.due is None else timestamp(self.due)
        number = masked_number(self.number) if self.number else None
        return {"message": self.uuid, "doc": self.doc, "state": self.state, "due": moment, "to": number}


async def listed(site: Site, wanted: Wanted) -> tuple[list[Listed], bool]:
    """The messages, oldest due first (what is settled: newest first), and whether there may be more."""
    latest = None if wanted.older is None else now() - round(wanted.older * 1000)
    number = wanted.number and (phone.normalize(wanted.number, site.values) or wanted.number)
    found: dict[tuple[str, str, str], Listed] = {}
    read = 0
    rows = _of_doc(site, wanted) if wanted.doc else _of_view(site, wanted, latest)
    async with aclosing(rows):  # type: ignore[type-var]
        async for row in rows:
            read += 1
            is_late = latest is None or (row.due is not None and row.due <= latest)
            if is_late and (not number or is_same_number(row.number, number)):
                if len(found) == wanted.limit and (row.doc, row.uuid, row.state) not in found:
                    return list(found.values()), True
                found[row.doc, row.uuid, row.state] = row
            if read == READ:
                return list(found.values()), True
    return list(found.values()), False


async def _of_doc(site: Site, wanted: Wanted) -> AsyncIterator[Listed]:
    doc_id = DocId(wanted.doc or "")
    for doc in (await site.writer.latest([doc_id])).values():
        for task in tasks(doc):
            if not wanted.states or task.get("state") in wanted.states:
                for each in messages(task):
                    yield Listed(doc_id, each.uuid, str(task.get("state")), due(task, doc), each.to)


async def _of_view(site: Site, wanted: Wanted, latest: int | None) -> AsyncIterator[Listed]:
    for state in wanted.states or (_SENDABLE,):
        is_newest_first = state not in (*TO_BE_SENT, _SENDABLE, State.SCHEDULED)
        oldest: list[Any] = [state]
        newest: list[Any] = [state, {} if latest is None else latest]
        start, stop = (newest, oldest) if is_newest_first else (oldest, newest)
        pages = site.couch.pages(MESSAGES_BY_STATE, start, stop, PAGE, descending=is_newest_first)
        async with aclosing(pages):
            async for page in pages:
                for row in page:
                    fields = message_fields(row["value"])
                    uuid, to = fields["uuid"], fields["to"]
                    moment = None if row["key"][1] is None else milliseconds(row["key"][1])
                    yield Listed(
                        DocId(row["id"]),
                        "" if uuid is None else str(uuid),
                        state,
                        moment,
                        "" if to is None else str(to),
                    )

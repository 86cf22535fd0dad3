"""Asks RapidPro what it has of one message, in a few requests; a question that is not answered whole is a problem.

`Trace.candidates` are what an operator would look for in RapidPro's interface: broadcasts of this text and number,
made since the first claim, that no task holds.
"""

from collections.abc import Mapping
from typing import Any, Final

from cht_rapidpro.adapters.rapidpro.client import Listing, Page, Rows
from cht_rapidpro.commands.messages.site import Site
from cht_rapidpro.domain.claim import first_claimed, orders
from cht_rapidpro.domain.delivery import read_message_row
from cht_rapidpro.domain.outgoing import SmsIdentity, pair_of
from cht_rapidpro.domain.reconcile import Listed, is_same_number, read_listed, taken_by
from cht_rapidpro.domain.task import MessageId, Task, gateway_ref, history, messages, milliseconds
from cht_rapidpro.domain.trace import Trace, is_like, rows_of
from cht_rapidpro.errors import TransientError
from cht_rapidpro.jobs.outgoing.broadcast_lookup import SKEW, holders_in

_PAGES: Final = 40  # 10,000 broadcasts
_OF_ONE: Final = 4  # pages of one broadcast's messages


async def trace_of(site: Site, task: Task, uuid: MessageId) -> Trace:
    """What RapidPro shows of the message, now."""
    found = next((each for each in messages(task) if each.uuid == uuid), None)
    ref = gateway_ref(task)
    if found is None or not (ref or first_claimed(task)):
        return Trace(base=site.base)
    if not site.base:
        return Trace(problem=site.why_no_base)
    pair = pair_of(found, site.values)
    try:
        broadcast = await find_broadcast(site, ref) if ref else None
        rows = await _rows(site, Listing.MESSAGES, {"broadcast": ref}) if ref.isdigit() else []
        read = [row for each in rows if (row := read_message_row(each)) is not None and row.broadcast == ref]
        is_shown = broadcast is not None or read
        candidates = () if is_shown else tuple(await _candidates(site, task, pair))
    except TransientError as error:
        return Trace(problem=str(error), base=site.base)
    return Trace(broadcast, rows_of(pair, read), candidates, base=site.base)


async def find_broadcast(site: Site, ref: str) -> Listed | None:
    """The broadcast of this id; None where RapidPro shows none. Raises TransientError where it cannot be asked."""
    if not ref.isdigit():
        return None
    found = [read_listed(row) for row in await _rows(site, Listing.BROADCASTS, {"id": ref})]
    return next((each for each in found if each is not None and each.id == ref), None)


async def is_taken(site: Site, broadcast: Listed, pair: SmsIdentity, but: MessageId) -> bool:
    """Whether another message holds the broadcast's place for this number."""
    return not await _free(site, [broadcast], pair, but)


async def _candidates(site: Site, task: Task, pair: SmsIdentity) -> list[Listed]:
    first = first_claimed(task) or _first_entry(task)
    if first is None:
        raise TransientError("its history tells no time since when to look: look in RapidPro by hand")
    like: list[Listed] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        site.requests.spend()
        page = await site.rapidpro.list_broadcasts(site.base, first - SKEW, None, cursor)
        if not isinstance(page, Page):
            raise TransientError(str(page))
        like += [broadcast for broadcast in page.broadcasts if is_like(broadcast, pair)]
        cursor = page.cursor
        if cursor is None:
            former = {ref for _, ref in orders(task)}
            uuid = messages(task)[0].uuid
            return await _free(site, [each for each in like if each.id not in former], pair, uuid)
    raise TransientError(f"more than {_PAGES * 250:,} broadcasts were made since then: look in RapidPro by hand")


def _first_entry(task: Task) -> int | None:
    stamps = [milliseconds(entry.get("timestamp")) for entry in history(task) if isinstance(entry, dict)]
    return min((stamp for stamp in stamps if stamp is not None), default=None)


async def _free(site: Site, listed: list[Listed], pair: SmsIdentity, but: MessageId) -> list[Listed]:
    """Those whose place for this number no other task has."""
    holding = await site.couch.holders([broadcast.id for broadcast in listed])
    ids = sorted({doc_id for found in holding.values() for doc_id in found})
    refs = {broadcast.id for broadcast in listed}
    holders = [
        holder
        for doc in (await site.writer.latest(ids)).values()
        for holder in holders_in(doc, refs, site.values)
        if all(key[1] != but for key, _ in holder.messages)
    ]
    taken = {ref for ref, urn in taken_by(holders, listed, {}) if is_same_number(urn, pair.urn)}
    return [broadcast for broadcast in listed if broadcast.id not in taken]


async def _rows(site: Site, listing: Listing, query: Mapping[str, str]) -> list[Any]:
    rows: list[Any] = []
    cursor: str | None = None
    for _ in range(_OF_ONE):
        site.requests.spend()
        page = await site.rapidpro.list_rows(site.base, listing, query, cursor)
        if not isinstance(page, Rows):
            raise TransientError(f"{listing}.json: {page}")
        rows += page.rows
        cursor = page.cursor
        if cursor is None:
            return rows
    raise TransientError(f"{listing}.json has more than {_OF_ONE} pages for {dict(query)}")

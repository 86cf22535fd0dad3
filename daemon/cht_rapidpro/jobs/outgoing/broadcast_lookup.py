"""Looks up in RapidPro what became of ambiguous messages: one listing for all of them.

A verdict is given only where it is certain. A broadcast counts for a message when no other task has it: not a settled
task (by CouchDB's view), not an unsettled one of this daemon, not one that another daemon is sending. A listing that
failed or was cut decides nothing (docs/exactly-once.md#look-up-ambiguous-messages).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.rapidpro.client import Page, RapidPro
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.claim import claim_of, orders
from cht_rapidpro.domain.outgoing import BroadcastId, SmsIdentity, Throttled, pair_of
from cht_rapidpro.domain.reconcile import (
    BroadcastQuery,
    Listed,
    NotFound,
    RecipientSlot,
    RefOwner,
    Verdict,
    first_of,
    match,
    taken_by,
    windows,
)
from cht_rapidpro.domain.rivals import Contested, contested
from cht_rapidpro.domain.takeover import FreeBroadcasts
from cht_rapidpro.domain.task import Doc, DocId, MessageKey, gateway_ref, message_fields, messages, read_message, tasks
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.documents.writer import Writer
from cht_rapidpro.jobs.outgoing.claimed_task import ClaimedTask

SKEW: Final = 900_000  # ms by which clocks may differ: this machine's earlier and now, RapidPro's, another daemon's
_PAGES: Final = 1000
_REFS: Final = 200  # refs a view request
_SENDABLE: Final = "pending-or-forwarded"  # the view's own name for it


@dataclass(frozen=True, slots=True)
class Blocked:
    """Another daemon holds a claim on a message with the same number and text: broadcasts cannot be assigned yet."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An ambiguous message, of a task under this daemon's claim. `until`: loop time; a later broadcast is another
    message's.
    """

    key: MessageKey
    pair: SmsIdentity
    held: ClaimedTask
    until: float


class Lookup:
    """`request_time`: seconds a request may take; `me`: the instance id of our own claims."""

    def __init__(
        self,
        couch: Couch,
        writer: Writer,
        rapidpro: RapidPro,
        me: str,
        request_time: float,
        wall_clock: Callable[[], int],
    ) -> None:
        self._couch = couch
        self._writer = writer
        self._rapidpro = rapidpro
        self._me = me
        self._request_time = request_time
        self._wall_clock = wall_clock

    async def ask(
        self,
        base: str,
        asked: Sequence[Asked],
        known: Mapping[MessageKey, RecipientSlot],
        settings: Mapping[str, Any],
        closed: Collection[DocId] = (),
    ) -> dict[MessageKey, Verdict | Blocked | Contested] | str:
        """A verdict for each message, or why RapidPro could not be asked.

        `known`: broadcasts of this daemon's other messages, by the URNs that were posted, settled or not. `closed`:
        documents that take no claim, so that no daemon can settle their messages. Open claims are read before the
        settled tasks, so that a task that is settled in between is seen as settled. They are read before the listing,
        too: a task that is settled in between may have a first broadcast that is younger than the listing, and its
        gateway_ref does not tell the others.
        """
        now = await self._clock(base)
        queries = [self._question(item, now) for item in asked]
        pairs = {item.pair for item in asked}
        claimed = (await self._alike(pairs, (), settings, closed)).blocked
        found: dict[BroadcastId, Listed] = {}
        for after, before in windows(queries):
            part = await self._list(base, after, before)
            if isinstance(part, str):
                return part
            found |= part
        listed = list(found.values())
        alike = await self._alike(pairs, {one.id for one in listed}, settings, closed)
        holders = list(dict.fromkeys([*await self._holders(listed, settings), *alike.hidden]))
        # A claim drops the gateway_ref: a task that has one again was settled by another instance, and needs no
        # broadcast.
        settled = {key for holder in holders for key, _ in holder.messages}
        verdicts: dict[MessageKey, Verdict] = {query.key: NotFound() for query in queries if query.key in settled}
        open_queries = [query for query in queries if query.key not in settled]
        taken = taken_by(holders, listed, known, alike.former)
        earliest = min((query.earliest for query in queries), default=now)
        taken_in = settled.union(query.key for query in queries)
        rivals = [BroadcastQuery(key, pair, earliest) for key, pair in alike.rivals if key not in taken_in]
        before = now - round(self._request_time * 1000)
        verdicts |= match([*open_queries, *rivals], listed, taken, adoptable_before=before)
        told = verdicts | contested(open_queries, rivals, verdicts)
        blocked = claimed | alike.blocked
        return {item.key: Blocked() if item.pair in blocked else told[item.key] for item in asked}

    def _question(self, item: Asked, now: int) -> BroadcastQuery:
        """Returns the window in which the broadcast can have been made. `now`: RapidPro's clock.

        RapidPro's clock and the loop time that has passed bound the window. Stamps in documents and this machine's wall
        clock only widen it.
        """
        loop_now = loop_time()
        began = item.held.began
        start = now - round((loop_now - began.loop) * 1000)
        if item.held.rapidpro_began is not None:
            start = min(start, item.held.rapidpro_began)
        else:
            start = min(start, now - (self._wall_clock() - began.wall))
        if item.held.past is not None:
            written = item.held.past.sent_after(now)
            start = min(start, written, written + now - self._wall_clock())
        latest = now - round((loop_now - item.until) * 1000) + SKEW
        return BroadcastQuery(item.key, item.pair, start - SKEW, latest if latest < now else None)

    async def free(
        self, base: str, seconds: float, known: Mapping[MessageKey, RecipientSlot], settings: Mapping[str, Any]
    ) -> FreeBroadcasts | str:
        """The broadcasts of the last `seconds` that belong to no task, or why they could not be listed."""
        after = await self._clock(base) - round(seconds * 1000) - SKEW
        part = await self._list(base, after, None)
        if isinstance(part, str):
            return part
        listed = list(part.values())
        return FreeBroadcasts(listed, taken_by(await self._holders(listed, settings), listed, known))

    async def present(self, base: str) -> int | None:
        """RapidPro's present time in ms, asked for where it is not known; None where it does not tell."""
        await self._clock(base)
        return self.rapidpro_time()

    def rapidpro_time(self) -> int | None:
        """RapidPro's present time in ms, None before its first answer."""
        return self._rapidpro.clock()

    async def _clock(self, base: str) -> int:
        """Returns RapidPro's present time, which bounds the listing; this machine's time if RapidPro does not send
        it.
        """
        if self._rapidpro.clock() is None:
            await self._turn()
            await self._rapidpro.probe(base)
        return self._rapidpro.clock() or self._wall_clock()

    async def _turn(self) -> None:
        """Waits until the budget has room; a 429 closes it for as long as RapidPro says."""
        while pause := self._rapidpro.budget.delay(loop_time()):  # noqa: ASYNC110 - no event
            await asyncio.sleep(pause)

    async def _list(self, base: str, after: int, before: int | None) -> dict[BroadcastId, Listed] | str:
        """Every broadcast of a window, ms of RapidPro's clock, or why the listing is not complete."""
        found: dict[BroadcastId, Listed] = {}
        cursor: str | None = None
        seen: set[str] = set()
        for _ in range(_PAGES):
            await self._turn()
            page = await self._rapidpro.list_broadcasts(base, after, before, cursor)
            if isinstance(page, Throttled):
                continue
            if not isinstance(page, Page):
                return str(page)
            found.update((broadcast.id, broadcast) for broadcast in page.broadcasts)
            if page.cursor is None:
                return found
            if page.cursor in seen:
                return "RapidPro's paging repeats itself"
            seen.add(page.cursor)
            cursor = page.cursor
        return f"the listing has more than {_PAGES} pages"

    async def _holders(self, listed: Sequence[Listed], settings: Mapping[str, Any]) -> list[RefOwner]:
        """The tasks that hold one of these broadcasts as their gateway_ref."""
        refs = [broadcast.id for broadcast in listed]
        ids: set[DocId] = set()
        for start in range(0, len(refs), _REFS):
            holding = await until_it_works(self._couch.holders, refs[start : start + _REFS])
            ids.update(*holding.values())
        wanted = frozenset(refs)
        return [holder async for doc in self._docs(ids) for holder in holders_in(doc, wanted, settings)]

    async def _docs(self, ids: Collection[DocId]) -> AsyncIterator[Doc]:
        """Reads the documents in parts: a campaign of minutes is thousands of documents."""
        ordered = sorted(ids)
        while ordered:  # fewer of them if they are long
            part, ordered = ordered[: self._couch.rows_at_once], ordered[self._couch.rows_at_once :]
            for doc in (await until_it_works(self._couch.read, part)).values():
                yield doc

    async def holders_of(self, broadcast: Listed, pair: SmsIdentity, settings: Mapping[str, Any]) -> int:
        """How many tasks hold this broadcast for a message of this pair, and not for another one of their messages."""
        holders = await self._holders([broadcast], settings)
        return sum(first_of(holder, broadcast)[1] == pair for holder in holders)

    async def _alike(
        self,
        pairs: Collection[SmsIdentity],
        refs: Collection[BroadcastId],
        settings: Mapping[str, Any],
        closed: Collection[DocId],
    ) -> "_Alike":
        """Reads the sendable tasks with a message of one of these pairs, losing branches included.

        Another daemon that has a claim may know a broadcast that is not in any document yet. That claim is settled,
        renewed, or taken over in the end; then the two messages are looked up together.
        """
        found = _Alike()
        rows = await until_it_works(self._sendable_alike, pairs, settings)
        ids = sorted(rows)
        while ids:  # fewer at a time if they are long
            part, ids = ids[: self._couch.rows_at_once], ids[self._couch.rows_at_once :]
            docs = await self._writer.latest(part)
            for doc_id in part:
                if (doc := docs.get(doc_id)) is None:  # unreadable, or deleted just now
                    foreign = rows[doc_id]
                else:
                    foreign = [one for one in self._foreign_in(doc, settings) if one[1] in pairs]
                    found.hidden += holders_in(doc, refs, settings)
                    found.former += _former_in(doc, settings)
                if doc_id in closed:
                    found.rivals += foreign
                else:
                    found.blocked |= {pair for _, pair in foreign}
        return found

    async def _sendable_alike(
        self, pairs: Collection[SmsIdentity], settings: Mapping[str, Any]
    ) -> dict[DocId, list[tuple[MessageKey, SmsIdentity]]]:
        """The sendable messages of these pairs, by document."""
        found: dict[DocId, list[tuple[MessageKey, SmsIdentity]]] = {}
        async for page in self._couch.messages_in(_SENDABLE):
            for row in page:
                message = read_message(message_fields(row.value))
                if message is not None and (pair := pair_of(message, settings)) in pairs:
                    found.setdefault(row.doc_id, []).append(((row.doc_id, message.uuid), pair))
        return found

    def _foreign_in(self, doc: Doc, settings: Mapping[str, Any]) -> Iterable[tuple[MessageKey, SmsIdentity]]:
        for task in tasks(doc):
            claim = claim_of(task)
            if claim is not None and claim.instance != self._me:
                yield from (((doc["_id"], message.uuid), pair_of(message, settings)) for message in messages(task))


@dataclass(slots=True)
class _Alike:
    """What is known of messages like those that are looked up.

    `blocked`: the pairs of which another instance holds an unsettled claim, however old; `rivals`: messages that it
    holds in closed documents; `hidden`: the tasks whose broadcast only a losing branch names, which no view shows;
    `former`: the broadcasts that messages had before an operator ordered them to be sent again.
    """

    blocked: set[SmsIdentity] = field(default_factory=set)
    rivals: list[tuple[MessageKey, SmsIdentity]] = field(default_factory=list)
    hidden: list[RefOwner] = field(default_factory=list)
    former: list[RecipientSlot] = field(default_factory=list)


def holders_in(doc: Doc, refs: Collection[BroadcastId], settings: Mapping[str, Any]) -> Iterable[RefOwner]:
    for task in tasks(doc):
        if (ref := BroadcastId(gateway_ref(task))) in refs and (found := messages(task)):
            yield RefOwner(ref, tuple(((doc["_id"], message.uuid), pair_of(message, settings)) for message in found))


def _former_in(doc: Doc, settings: Mapping[str, Any]) -> Iterable[RecipientSlot]:
    for task in tasks(doc):
        refs = [BroadcastId(ref) for _, ref in orders(task) if ref]
        yield from ((ref, pair_of(message, settings).urn) for ref in refs for message in messages(task))

"""Makes documents of incoming messages and stores each exactly once, for webhooks, spool and backfill.

The `_id` comes from the message id, so CouchDB itself refuses a second document. A conflict is looked at: the same
message is stored already, another one under the same id (a flow that waits sends one `run.uuid` several times) gets the
second id that belongs to it. Without the comparison a reused id would lose a message.

A webhook's message whose id is time-ordered is written straight away. Every other message is looked up first: one of
the spool or of the backfill, since a write to the `_id` of a deleted document would bring it back, and deleted counts
as stored; and one whose `_id` has the day of arrival, since it may have come on the day before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from cht_rapidpro.adapters.couchdb.client import Conflict, Couch, Rejected, Written
from cht_rapidpro.domain.incoming import (
    REPEATED_WITHIN,
    AlreadyStored,
    InboundMessage,
    Saved,
    days_around,
    doc_id,
    former_id,
    id_text,
    is_incoming,
    is_near_midnight,
    is_of,
    is_ordered,
    is_sent_by,
    legacy_keys,
    second_id,
    shown_id,
)
from cht_rapidpro.domain.miswiring import ONE_ID, Miswiring
from cht_rapidpro.domain.records import Sms, build_record
from cht_rapidpro.domain.settings import AppSettings
from cht_rapidpro.domain.task import Doc, DocId

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Outcome = Saved | AlreadyStored | Rejected

_ROUNDS: Final = 5  # two ids, and a fault of the moment with each
_UNDECIDED: Final = Rejected("CouchDB neither stores the document nor has one of its id")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a message belongs, and under which other ids it may stand already: those of other days, a former one."""

    own: DocId
    others: set[DocId]
    is_second: bool = False

    @property
    def ids(self) -> set[DocId]:
        return {self.own, *self.others}


class RecordWriter:
    """`check_legacy_ids`: what CHT's own gateway has stored under an `_id` of its own counts as stored, too.

    `notice` is told where one id is sent for several people.
    """

    def __init__(self, couch: Couch, notice: Callable[[Miswiring], None], *, check_legacy_ids: bool) -> None:
        self._couch = couch
        self._notice = notice
        self._check_legacy_ids = check_legacy_ids

    async def record(
        self, arrivals: Sequence[InboundMessage], settings: AppSettings, *, repeated: bool
    ) -> list[Outcome]:
        """One outcome a message. `repeated`: they may have been stored before.

        Raises TransientError or OperatorActionRequiredError; then none, some or all are stored, and they are to be
        recorded again as
        `repeated`.
        """
        batch = _Batch(self._couch, arrivals, settings, self._notice, repeated=repeated)
        if self._check_legacy_ids:
            batch.settle_legacy(await self._couch.incoming_with(_keys(arrivals)))
        await batch.record()
        return batch.outcomes


def _keys(arrivals: Sequence[InboundMessage]) -> list[str | int | float]:
    return [key for arrival in arrivals for key in legacy_keys(arrival.id)]


class _Batch:
    """The messages of one call, on their way to an outcome each; `known`: what is stored under an id, None: deleted.

    `repeated`: they may have been stored before; then what came on later days is asked for, too.
    """

    def __init__(
        self,
        couch: Couch,
        arrivals: Sequence[InboundMessage],
        settings: AppSettings,
        notice: Callable[[Miswiring], None],
        *,
        repeated: bool,
    ) -> None:
        self._couch = couch
        self._notice = notice
        self._arrivals = arrivals
        self._settings = settings
        self._repeated = repeated
        self._outcomes: dict[int, Outcome] = {}
        self._places = {number: self._first_place(arrival) for number, arrival in enumerate(arrivals)}  # no outcome yet
        self._known: dict[DocId, Doc | None] = {}

    @property
    def outcomes(self) -> list[Outcome]:
        return [self._outcomes[number] for number in range(len(self._arrivals))]

    def settle_legacy(self, docs: Sequence[Doc]) -> None:
        found: dict[str, list[Doc]] = {}
        for doc in filter(is_incoming, docs):
            found.setdefault(id_text(doc["sms_message"].get("gateway_ref")), []).append(doc)
        for number, arrival in enumerate(self._arrivals):
            if any(is_of(doc, arrival) for doc in found.get(id_text(arrival.id), [])):
                self._settle(number, AlreadyStored())

    async def record(self) -> None:
        to_look_up = [number for number, place in self._places.items() if self._repeated or place.others]
        for _ in range(_ROUNDS):
            await self._look_up(to_look_up)
            await self._write()
            if not self._places:
                return
            to_look_up = list(self._places)
        for number in list(self._places):
            self._settle(number, _UNDECIDED)

    def _first_place(self, arrival: InboundMessage) -> _Place:
        former = {former_id(arrival.id)} if self._repeated else set()
        if is_ordered(arrival.id):
            return _Place(doc_id(arrival.id, arrival.at), former)
        own, *others = [doc_id(each.id, each.at) for each in self._days(arrival)]
        return _Place(own, {*others, *former})

    def _second_place(self, arrival: InboundMessage) -> _Place:
        own, *others = map(second_id, self._days(arrival))
        return _Place(own, set(others), is_second=True)

    def _days(self, arrival: InboundMessage) -> list[InboundMessage]:
        return days_around(arrival, later=REPEATED_WITHIN if self._repeated else 1)

    async def _look_up(self, numbers: Sequence[int]) -> None:
        """Compares each with what is stored under its ids; what goes on under its second id is looked up there, too."""
        while numbers:
            ids = {each for number in numbers if number in self._places for each in self._places[number].ids}
            self._known |= await self._couch.look_up(sorted(ids - self._known.keys()))
            numbers = [number for number in numbers if number in self._places and self._goes_on(number)]

    def _goes_on(self, number: int) -> bool:
        """Settles what is stored; whether it is another message than the one of its id, and has its second id now."""
        arrival, place = self._arrivals[number], self._places[number]
        taken = [each for each in (place.own, *sorted(place.others)) if each in self._known]
        if not taken:
            return False
        docs = [doc for each in taken if (doc := self._known[each]) is not None]
        is_stored = any(is_of(doc, arrival) for doc in docs)
        # What was deleted cannot be compared: it counts as the same message where that may come again.
        if is_stored or place.is_second or (self._repeated and len(docs) < len(taken)):
            log.info("incoming.duplicate", doc=taken[0], gateway_ref=shown_id(arrival.id))
            self._settle(number, AlreadyStored())
            return False
        if any(not is_sent_by(doc, arrival) for doc in docs):
            self._notice(ONE_ID)
        self._places[number] = second = self._second_place(arrival)
        log.warning("incoming.id_reused", doc=second.own, first=taken[0], gateway_ref=shown_id(arrival.id))
        return True

    async def _write(self) -> None:
        """The first message of each id; the others of the same id are compared with it in the next round."""
        firsts: dict[DocId, int] = {}
        claimed: set[DocId] = set()
        for number, place in self._places.items():
            if not claimed & place.ids:
                firsts[place.own] = number
                claimed |= place.ids
        docs = [self._document(number) for number in firsts.values()]
        stored: dict[int, Doc] = {}
        for doc, result in zip(docs, await self._couch.write(docs), strict=True):
            match result:
                case Written(rev):
                    stored[firsts[doc["_id"]]] = {**doc, "_rev": rev}
                case Conflict():
                    pass  # the next round looks
                case Rejected():
                    self._settle(firsts[doc["_id"]], result)
        await self._take(stored)

    async def _take(self, stored: Mapping[int, Doc]) -> None:
        earlier = await self._clear_midnight(stored)
        for number, doc in stored.items():
            self._known[doc["_id"]] = doc
            given = shown_id(self._arrivals[number].id)
            if number in earlier:
                log.info("incoming.duplicate", doc=earlier[number], gateway_ref=given)
                self._settle(number, AlreadyStored())
            else:
                log.info("incoming.stored", doc=doc["_id"], gateway_ref=given)
                self._settle(number, Saved())

    async def _clear_midnight(self, stored: Mapping[int, Doc]) -> dict[int, DocId]:
        """Deletes the later one where two daemons have stored a message at once, each under another day.

        Each has looked before it wrote, and looks again afterwards, so at least one of them sees both. Returns the
        earlier documents, by the number of the message whose own is deleted.
        """
        near = [each for each in stored if self._places[each].others and is_near_midnight(self._arrivals[each])]
        found = await self._couch.read(sorted({doc_id for each in near for doc_id in self._places[each].others}))
        earlier: dict[int, DocId] = {}
        later: list[Doc] = []
        for number in near:
            others = (found[each] for each in self._places[number].others if each in found)
            same = [other for other in others if is_of(other, self._arrivals[number])]
            first, *rest = sorted([stored[number], *same], key=lambda doc: str(doc["_id"]))
            later += rest
            if first["_id"] != stored[number]["_id"]:
                earlier[number] = DocId(first["_id"])
        await self._couch.write([{"_id": doc["_id"], "_rev": doc["_rev"], "_deleted": True} for doc in later])
        return earlier

    def _settle(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome
        self._places.pop(number, None)

    def _document(self, number: int) -> Doc:
        arrival = self._arrivals[number]
        sms = Sms(sender=arrival.sender, message=arrival.content, gateway_ref=arrival.id)
        return {**build_record(self._settings.rules, sms, arrival.at), "_id": self._places[number].own}

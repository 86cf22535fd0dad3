"""The feed: sweeps bring every message through a bounded queue, however many wait; hints make it fast."""

import asyncio
import itertools
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from cht_rapidpro.adapters.couchdb.client import PAGE, Couch
from cht_rapidpro.config.schema import Cht, Rapidpro
from cht_rapidpro.domain.task import DocId
from cht_rapidpro.jobs.documents.writer import DocumentCache
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.deferred import HeldBack
from cht_rapidpro.jobs.outgoing.feed import Feed
from cht_rapidpro.jobs.outgoing.send_queue import CAPACITY, Candidate, SendQueue
from cht_rapidpro.jobs.outgoing.unsendable import Unsendable
from demo.database import Doc
from demo.medic import SETTINGS, data_record, message, task
from tests.support.fault_proxy import until
from tests.support.stub_server import HALF_A_BODY, HTML, Raw, Reply, Request, Scripted, couchdb_at, scripted
from tests.support.virtual_time import jump

INTERVAL: Final = 5.0
INFO, VIEW, CHANGES, DOCS = "GET medic", "GET messages_by_state", "POST _changes", "POST _all_docs"


@dataclass(frozen=True)
class Row:
    """Of the view: when it is due, its document, and the uuid of its message ("": none)."""

    due: int
    doc_id: str
    uuid: str

    def json(self) -> Doc:
        value = {"id": self.uuid, "to": "+254712345678", "content": "hello"} if self.uuid else {}
        return {"id": self.doc_id, "key": ["pending-or-forwarded", self.due], "value": value}


def rows_due(*dues: int) -> list[Row]:
    return [Row(due, f"doc-{due}", f"m-{due}") for due in dues]


@dataclass
class Medic:
    """A CouchDB with settings, a view `messages_by_state` of any size, and a feed.

    A change is a document, or None for one that no selector of ours matches; the position is the number of changes.
    """

    rows: list[Row] = field(default_factory=list)  # as the view sorts them
    sends: bool = True
    faults: list[Reply | Raw | None] = field(default_factory=list)  # in place of the next answers of the view
    arrives: Callable[[Request], None] = lambda _: None  # called before a request is looked at
    leaves: Callable[[Request], None] = lambda _: None  # called when its answer stands, before it is sent

    def __post_init__(self) -> None:
        self._keys = [(row.due, row.doc_id) for row in self.rows]
        self._there = bytearray(b"\1" * len(self.rows))
        self._index = bytes(self._there)
        self.updates = 0
        self._log: list[Doc | None] = []
        self._changed = asyncio.Event()

    def show(self, number: int, *, there: bool) -> None:
        """Whether the view has this row."""
        self._there[number] = there

    def add(self, row: Row) -> None:
        """The last one of the view."""
        self.rows.append(row)
        self._keys.append((row.due, row.doc_id))
        self._there.append(1)

    def shows(self, number: int) -> bool:
        return bool(self._there[number])

    @property
    def position(self) -> str:
        return f"{len(self._log)}-x"

    def change(self, doc: Doc | None) -> None:
        self._log.append(doc)
        self._changed.set()
        self._changed = asyncio.Event()

    async def __call__(self, request: Request) -> Reply | Raw:
        self.arrives(request)
        match request.name:
            case "GET medic":
                reply: Reply | Raw = Reply({"update_seq": self.position})
            case "POST _all_docs":
                reply = Reply({"total_rows": 1, "offset": 0, "rows": [{"id": "settings", "doc": self.settings()}]})
            case "GET _all_docs":  # the translations
                reply = Reply({"total_rows": 1, "offset": 0, "rows": []})
            case "GET messages_by_state":
                fault = self.faults.pop(0) if self.faults else None
                reply = fault or self._page(request.query)
            case _:
                reply = await self._longpoll(request.query)
        self.leaves(request)
        return reply

    def settings(self) -> Doc:
        service = "cht-rapidpro" if self.sends else "medic-gateway"
        return {"_id": "settings", "settings": {**SETTINGS, "sms": {"outgoing_service": service}}}

    def _page(self, query: Mapping[str, str]) -> Reply:
        """As CouchDB reads a view: from the first row at or after key and document, `skip` over, at most `limit`."""
        if query.get("update") != "false":
            self._index = bytes(self._there)
            self.updates += 1
        start, skip, limit = json.loads(query["startkey"]), int(query["skip"]), int(query["limit"])
        at = bisect_left(self._keys, (start[1], query.get("startkey_docid", ""))) if len(start) > 1 else 0
        rows = [self.rows[number].json() for number in itertools.islice(self._numbers(at), skip, skip + limit)]
        return Reply({"total_rows": len(self.rows), "offset": 0, "rows": rows})

    def _numbers(self, first: int) -> Iterator[int]:
        """Of the rows that the index has."""
        while (first := self._index.find(1, first)) >= 0:
            yield first
            first += 1

    async def _longpoll(self, query: Mapping[str, str]) -> Reply:
        since = int(query["since"].removesuffix("-x"))
        while not (docs := [doc for doc in self._log[since:] if doc]):
            await self._changed.wait()
        rows: list[Doc] = [{"seq": "x", "id": doc["_id"], "changes": []} for doc in docs]
        if query["include_docs"] == "true":
            rows = [{**row, "doc": doc} for row, doc in zip(rows, docs, strict=True)]
        return Reply({"results": rows, "last_seq": self.position})


@dataclass
class Running:
    """A feed at work, with what it fills."""

    server: Scripted
    settings: SettingsWatch
    send_queue: SendQueue = field(default_factory=SendQueue)
    cache: DocumentCache = field(default_factory=DocumentCache)

    def count(self, name: str) -> int:
        return self.server.names.count(name)

    def positions(self) -> list[str]:
        return [request.query["since"] for request in self.server.named(CHANGES)]

    def waiting(self) -> list[int]:
        return [candidate.due for candidate in self.send_queue.take(CAPACITY)]


@asynccontextmanager
async def following(medic: Medic, interval: float = INTERVAL) -> AsyncIterator[Running]:
    """The feed begins when the settings have been read."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(scripted(medic))
        couch = await stack.enter_async_context(Couch(couchdb_at(server)))
        settings = SettingsWatch(couch, Cht(), Rapidpro(url="http://127.0.0.1:9"))
        running = Running(server, settings)
        jobs = [asyncio.create_task(settings.run())]
        try:
            await until(lambda: settings.settings is not None)
            feed = Feed(couch, settings, running.send_queue, Unsendable(HeldBack()), running.cache, interval)
            jobs.append(asyncio.create_task(feed.run()))
            yield running
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)


SAME: Final = 35_000


def very_many_rows() -> list[Row]:
    """100,000: 30,000 of one due time, 5,000 of these in one document; every 500th holds no message."""

    def row(number: int) -> Row:
        due = SAME if SAME <= number < SAME + 30_000 else number
        doc_id = "large" if 40_000 <= number < 45_000 else f"doc-{number // 3:05}"
        return Row(due, doc_id, f"m-{number}" if number % 500 else "")

    return sorted(map(row, range(100_000)), key=lambda row: (row.due, row.doc_id))


class Relay:
    """Claims what waits, slower than it is read. A message that an old index still shows cannot be claimed."""

    def __init__(self, medic: Medic, send_queue: SendQueue) -> None:
        self._medic = medic
        self._numbers = {row.uuid: number for number, row in enumerate(medic.rows)}
        self._send_queue = send_queue
        self.longest = self.missed = 0
        self.delivered: Counter[str] = Counter()
        send_queue.subscribe(self._note_length)

    def _note_length(self) -> None:
        self.longest = max(self.longest, len(self._send_queue))

    def work(self) -> int:
        """Returns how many it has delivered so far."""
        if not self._send_queue.low.is_set():
            self._deliver(self._send_queue.take(192))
        return len(self.delivered)

    def _deliver(self, taken: list[Candidate]) -> None:
        for candidate in taken:
            number = self._numbers[candidate.uuid]
            if self._medic.shows(number):
                self._medic.show(number, there=False)
                self.delivered[candidate.uuid] += 1
            else:
                self.missed += 1
        self._send_queue.forget(candidate.key for candidate in taken)


async def test_a_hundred_thousand_messages_pass_through_a_list_of_a_thousand() -> None:
    """Invariant 6: each comes once, whatever leaves the view between two pages, and the index is rarely updated."""
    medic = Medic(very_many_rows())
    async with following(medic, interval=3600) as running:
        relay = Relay(medic, running.send_queue)
        await until(lambda: relay.work() == 99_800, deadline=600)
    assert set(relay.delivered.values()) == {1}
    assert [row.uuid for number, row in enumerate(medic.rows) if medic.shows(number)] == [""] * 200
    assert relay.longest == CAPACITY
    assert relay.missed < len(medic.rows) / 20
    assert running.count(VIEW) < 3 * len(medic.rows) / PAGE, "not a page more with every sweep"
    assert medic.updates < 60, "for the document of 5,000 messages, and where the pages end"


async def test_while_pages_of_an_old_index_are_read_what_the_feed_shows_is_not_lost() -> None:
    """There is no room for it when it comes, and no page has it: the sweep after them does."""
    medic = Medic(rows_due(*range(2 * CAPACITY)))
    async with following(medic, interval=3600) as running:
        await until(lambda: len(running.send_queue) == CAPACITY)
        medic.add(Row(3 * CAPACITY, "late", "late"))
        medic.change(data_record(task(message("late", uuid="late"), due=3 * CAPACITY), doc_id="late"))
        await until(lambda: running.positions()[-1] == medic.position)
        relay = Relay(medic, running.send_queue)
        await until(lambda: relay.work() == 2 * CAPACITY + 1)
    assert set(relay.delivered.values()) == {1}


async def test_a_change_between_the_position_and_the_sweep_is_not_lost() -> None:
    """The view was read before the change, and its answer arrives after it."""
    record = data_record(task(message("just now"), due=7), doc_id="report")
    medic = Medic(rows_due(5))

    def change(request: Request) -> None:
        if request.name == VIEW:
            medic.leaves = lambda _: None
            medic.change(record)

    medic.leaves = change
    async with following(medic) as running:
        await until(lambda: len(running.send_queue) == 2)
        names = running.server.names
        assert names.index(INFO) < names.index(VIEW)
        assert set(running.positions()) <= {"0-x", "1-x"}
        assert running.waiting() == [5, 7]
        assert running.cache.get(DocId("report"), 0) == record


async def test_after_each_sweep_the_follower_goes_on_from_the_position_before_it() -> None:
    medic = Medic()
    async with following(medic) as running:
        for position in ("0-x", "2-x", "4-x"):
            await until(_followed_from(position, running))
            for _ in range(2):
                medic.change(None)
    for position in ("2-x", "4-x"):
        first = [request.query.get("since") for request in running.server.requests].index(position)
        assert [name for name in running.server.names[:first] if name != CHANGES][-2:] == [INFO, VIEW]


async def test_a_follower_that_was_answered_since_the_last_sweep_goes_on_undisturbed() -> None:
    """It has a position of its own: an idle database is spared two requests a sweep."""
    medic = Medic()
    async with following(medic) as running:
        await until(lambda: running.positions() == ["0-x", "0-x"])
        for number in range(1, 4):
            medic.change(data_record(task(message("hello"))))
            await until(lambda: running.positions()[-1] == f"{number}-x")  # noqa: B023 - used at once
            views = running.count(VIEW)
            jump(INTERVAL)
            await until(lambda: running.count(VIEW) == views + 1)  # noqa: B023
        assert running.positions() == ["0-x", "0-x", "1-x", "2-x", "3-x"]
        assert running.count(INFO) == 1
        await until(lambda: _hurry() and running.count(INFO) == 2)


def _followed_from(position: str, running: Running) -> Callable[[], bool]:
    return lambda: _hurry() and running.positions()[-1:] == [position]


def _hurry() -> bool:
    """For `until`: lets a fifth of the interval pass at each look."""
    jump(INTERVAL / 5)
    return True


async def test_a_sweep_goes_on_after_errors() -> None:
    page_again = None
    medic = Medic(rows_due(*range(PAGE + 1)), faults=[Reply(status=500), page_again, HTML, page_again, HALF_A_BODY])
    async with following(medic) as running:
        await until(lambda: _hurry() and len(running.send_queue) == PAGE + 1)
        assert running.waiting() == list(range(PAGE + 1))
    starts = [json.loads(request.query["startkey"])[1:] for request in running.server.named(VIEW)]
    assert starts[:7] == [[], [], [PAGE - 1], [], [PAGE - 1], [], [PAGE - 1]]


async def test_messages_that_are_known_do_not_end_a_sweep() -> None:
    """A page of them may hide a new one behind it; here the first has been taken and the others wait."""
    medic = Medic(rows_due(*range(PAGE + 1)))
    medic.show(PAGE, there=False)
    async with following(medic) as running:
        await until(lambda: running.count(VIEW) == 2)  # the second page was empty
        running.send_queue.take(1)
        medic.show(PAGE, there=True)
        await until(lambda: _hurry() and len(running.send_queue) == PAGE)
        assert running.waiting() == list(range(1, PAGE + 1))


async def test_while_sending_is_off_nothing_waits_and_the_view_is_not_read() -> None:
    medic = Medic(rows_due(1, 2, 3))
    async with following(medic) as running:
        await until(lambda: len(running.send_queue) == 3)
        medic.sends = False
        medic.change(medic.settings())
        await until(lambda: len(running.send_queue) == 0)
        views, sweeps = running.count(VIEW), running.count(INFO)
        medic.change(data_record(task(message("not ours"), due=4)))
        await until(lambda: _hurry() and running.count(INFO) > sweeps)
        assert (len(running.send_queue), running.count(VIEW)) == (0, views)
        medic.sends = True
        medic.change(medic.settings())
        await until(lambda: len(running.send_queue) == 3)
        assert running.waiting() == [1, 2, 3]


async def test_documents_too_large_for_the_feed_bring_a_sweep_at_once() -> None:
    medic = Medic(rows_due(1))
    medic.show(0, there=False)
    async with following(medic, interval=3600) as running:
        await until(lambda: running.count(VIEW) == 1)
        medic.show(0, there=True)
        medic.change({**data_record(task(message("hello"))), "text": "x" * (9 * 1024 * 1024)})
        await until(lambda: len(running.send_queue) == 1)


async def test_every_tenth_sweep_reads_the_settings_again() -> None:
    async with following(Medic()) as running:
        await until(lambda: _hurry() and running.count(DOCS) == 2)
    names = running.server.names
    assert names[: names.index(DOCS, names.index(DOCS) + 1)].count(VIEW) == 10

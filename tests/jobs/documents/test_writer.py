"""The writer: edits gathered into few writes, each decided anew on every revision, each answered to its own caller."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.domain.claim import ClaimTasks, Instance, settle
from cht_rapidpro.domain.edit import Edit, each
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Change, DocId, MessageId
from cht_rapidpro.errors import PermanentError
from cht_rapidpro.jobs.documents.writer import DocumentCache, Writer
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from tests.conftest import TOKEN
from tests.support.daemon import configure, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump

ME = Instance("f" * 32, "test")
UUID = MessageId("m-1")
CLAIM = ClaimTasks(ME, {UUID}, now=1_800_000_000_000)
READ, WRITE = "POST _all_docs", "POST _bulk_docs"


@pytest.fixture
async def writer(gate: Gate, medic: Database) -> AsyncIterator[Writer]:
    """A running writer behind the gate."""
    config = configure(gate, medic, "http://127.0.0.1:9", TOKEN)
    async with Couch(config.couchdb) as couch:
        writer = Writer(couch)
        job = asyncio.create_task(writer.run())
        yield writer
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job


def append(word: str) -> Edit:
    """An edit that shows in the document, and in which order it was applied."""
    return lambda doc: {**doc, "words": [*doc.get("words", []), word]}


async def stored(medic: Database, *names: str) -> list[DocId]:
    await medic.bulk([{"_id": name} for name in names])
    return [DocId(name) for name in names]


async def apply_all(writer: Writer, *edits: tuple[DocId, Edit]) -> list[Any]:
    """What becomes of edits that come at the same moment."""
    async with asyncio.timeout(60):
        return await asyncio.gather(*(writer.apply(doc_id, edit) for doc_id, edit in edits), return_exceptions=True)


async def test_edits_of_one_document_become_one_revision(writer: Writer, gate: Gate, medic: Database) -> None:
    (doc_id,) = await stored(medic, "report")
    words = [str(number) for number in range(10)]
    results = await apply_all(writer, *((doc_id, append(word)) for word in words))
    doc = await medic.get(doc_id)
    assert (doc["words"], doc["_rev"][:2]) == (words, "2-")
    assert results == [doc] * 10
    assert gate.requests == [READ, WRITE]


async def test_edits_that_may_wait_share_a_write_and_others_take_them_along(gate: Gate, medic: Database) -> None:
    names = [f"report-{number}" for number in range(6)]
    await medic.bulk([data_record(task(message("hello", uuid=UUID)), doc_id=name) for name in names])
    first, *later, claimed = map(DocId, names)
    edit = each(UUID, lambda found: {**found, "state": "sent"})
    async with Couch(configure(gate, medic, "http://127.0.0.1:9", TOKEN).couchdb) as couch:
        writer = Writer(couch, gathering=3600.0)
        job = asyncio.create_task(writer.run())
        await writer.apply_to_task(first, edit, may_wait=True)
        assert gate.requests == [READ, WRITE], "the first is written at once"
        async with asyncio.TaskGroup() as group:
            for doc_id in later:
                group.create_task(writer.apply_to_task(doc_id, edit, may_wait=True))
                await asyncio.sleep(0.01)
            assert gate.requests == [READ, WRITE]
            await writer.apply(claimed, append("claimed"))
        assert gate.requests == [READ, WRITE, READ, WRITE]
        await end(job)


async def test_edits_of_many_documents_go_in_one_request(writer: Writer, gate: Gate, medic: Database) -> None:
    doc_ids = await stored(medic, *(f"report-{number}" for number in range(20)))
    results = await apply_all(writer, *((doc_id, append(doc_id)) for doc_id in doc_ids))
    assert [(doc["_id"], doc["words"]) for doc in results] == [(doc_id, [doc_id]) for doc_id in doc_ids]
    assert gate.requests == [READ, WRITE]


async def test_edits_that_arrive_during_a_write_go_with_the_next(writer: Writer, gate: Gate, medic: Database) -> None:
    first, *others = await stored(medic, "first", "a", "b", "c")
    held = asyncio.Event()

    async def hold() -> None:
        await held.wait()

    gate.before(WRITE, hold)
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.apply(first, append("one")))
        await until(lambda: WRITE in gate.requests)
        for doc_id in [first, *others]:
            group.create_task(writer.apply(doc_id, append("two")))
        await asyncio.sleep(0)
        assert gate.requests == [READ, WRITE], "one write in flight at a time"
        held.set()
    assert gate.requests == [READ, WRITE, READ, WRITE]
    assert (await medic.get("first"))["words"] == ["one", "two"]


async def test_nothing_is_written_where_nothing_changes_or_nothing_is(
    writer: Writer, gate: Gate, medic: Database
) -> None:
    same, gone = await stored(medic, "same", "gone")
    await medic.delete(gone)
    results = await apply_all(writer, (same, lambda doc: doc), (gone, append("x")), (DocId("never"), append("x")))
    assert results == [await medic.get(same), None, None]
    assert gate.requests == [READ]


def touch(medic: Database, doc_id: str) -> Callable[[], Awaitable[None]]:
    """Somebody else's edit."""

    async def edit() -> None:
        await medic.edit(doc_id, append("theirs"))

    return edit


@pytest.mark.parametrize("times", [1, 3])
async def test_after_a_conflict_the_edit_decides_anew(times: int, writer: Writer, gate: Gate, medic: Database) -> None:
    doc_id, neighbour = await stored(medic, "report", "neighbour")
    gate.before(WRITE, touch(medic, doc_id), times)
    await apply_all(writer, (doc_id, append("ours")), (neighbour, append("ours")))
    assert (await medic.get(doc_id))["words"] == ["theirs"] * times + ["ours"]
    assert (await medic.get(neighbour))["_rev"][:2] == "2-", "written once, a neighbour's conflict is not its own"
    assert gate.requests == [READ, WRITE] * (times + 1)


async def test_a_stale_copy_costs_a_conflict_and_nothing_else(writer: Writer, gate: Gate, medic: Database) -> None:
    (doc_id,) = await stored(medic, "report")
    writer.cache.put(await medic.get(doc_id), 100, asyncio.get_running_loop().time())
    await touch(medic, doc_id)()
    await writer.apply(doc_id, append("ours"))
    assert (await medic.get(doc_id))["words"] == ["theirs", "ours"]
    assert gate.requests == [WRITE, READ, WRITE]


async def test_a_fresh_copy_spares_the_read_and_an_old_one_does_not(
    writer: Writer, gate: Gate, medic: Database
) -> None:
    (doc_id,) = await stored(medic, "report")
    for age, requests in [(0, [READ, WRITE]), (1.9, [WRITE]), (2.1, [READ, WRITE])]:
        gate.requests.clear()
        jump(age)
        await writer.apply(doc_id, append("ours"), max_age=2)
        assert gate.requests == requests, age


EDITS: dict[str, tuple[Edit, list[str]]] = {
    "claim": (CLAIM, ["pending", "forwarded-to-gateway"]),
    "settle": (
        settle(ME, UUID, Change(State.RECEIVED_BY_GATEWAY, "Queued", "7"), 1_800_000_000_000),
        ["pending", "received-by-gateway"],
    ),
}


@pytest.mark.parametrize(("edit", "history"), EDITS.values(), ids=EDITS)
async def test_a_lost_answer_leaves_no_second_entry_in_the_history(
    edit: Edit, history: list[str], writer: Writer, gate: Gate, medic: Database
) -> None:
    await medic.put(data_record(task(message("hello", uuid=UUID)), doc_id="report"))
    writer.cache.put(await medic.get("report"), 100, asyncio.get_running_loop().time())

    async def lose_the_first() -> None:
        gate.loses_answers = gate.requests.count(WRITE) == 1

    gate.before(WRITE, lose_the_first, times=2)
    (doc,) = await apply_all(writer, (DocId("report"), edit))
    assert doc == await medic.get("report")
    assert [entry["state"] for entry in doc["tasks"][0]["state_history"]] == history
    assert (states(doc), doc["_rev"][:2]) == (history[-1:], "2-")
    assert [request for request in gate.requests if "POST" in request] == [WRITE, READ], "it looks before it writes"


async def test_a_refusal_is_its_own_callers_alone(writer: Writer, medic: Database) -> None:
    refuse = "function (doc) { if ((doc.words || []).indexOf('bad') >= 0) throw({forbidden: 'not that word'}); }"
    await medic.put({"_id": "_design/strict", "validate_doc_update": refuse})
    bad, good = await stored(medic, "bad", "good")
    refused, kept = await apply_all(writer, (bad, append("bad")), (good, append("good")))
    assert isinstance(refused, PermanentError)
    assert "not that word" in str(refused)
    assert kept["words"] == ["good"]
    assert (await writer.apply(bad, append("good"))) == await medic.get(bad), "the next edit of it is not spoilt"


async def test_a_cancelled_caller_cancels_no_other_caller(writer: Writer, gate: Gate, medic: Database) -> None:
    (doc_id,) = await stored(medic, "report")
    leaving, staying = (asyncio.create_task(writer.apply(doc_id, append(word))) for word in ("left", "stays"))

    async def leave() -> None:
        leaving.cancel()

    gate.before(WRITE, leave)
    assert await staying == await medic.get(doc_id)
    assert leaving.cancelled()


def copy(name: str, size: int) -> Doc:
    """Of so many bytes as JSON."""
    return {"_id": name, "fill": "x" * (size - len('{"_id":"a","fill":""}'))}


def test_copies_are_bounded_in_bytes() -> None:
    """Invariant 6: the oldest seen go first, a replaced one counts once, one larger than the bound is not kept."""
    cache = DocumentCache(limit=100_000)

    def kept() -> str:
        return "".join(name for name in "abcdef" if cache.get(DocId(name), 0) is not None)

    steps = [("a", 40_000, "a"), ("b", 40_000, "ab"), ("a", 50_000, "ab"), ("c", 20_000, "ac"), ("d", 90_000, "d")]
    for name, size, expected in steps:
        cache.put(copy(name, size), size, now=1)
        assert kept() == expected, name
    cache.put(copy("e", 101_000), 101_000, now=1)
    assert kept() == "d"
    cache.put(copy("f", 99_000), 99_000, now=1)
    assert kept() == "f"
    assert cache.get(DocId("f"), seen_since=1.5) is None


def test_copies_take_what_they_count() -> None:
    """Invariant 6: as objects a document takes five times its JSON; what is bounded is memory, ids and all."""
    limit = 200_000
    cache = DocumentCache(limit)
    record = data_record(task(message("Reminder")))
    tracemalloc.start()
    try:
        for number in range(2000):
            cache.put({**record, "_id": f"{number:032}"}, 1, now=1)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.get(DocId(f"{1999:032}"), 0) == {**record, "_id": f"{1999:032}"}
    assert kept < 1.3 * limit

"""The adapter to CouchDB: what it writes, byte by byte, and what it makes of everything that goes wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.changes import ChangesFeed
from cht_rapidpro.adapters.couchdb.client import (
    BULK_BYTES,
    Conflict,
    Couch,
    MessageRow,
    Rejected,
    Seq,
    Written,
)
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.claim import ClaimTasks, Instance
from cht_rapidpro.domain.task import Doc, DocId, MessageId
from cht_rapidpro.errors import GatewayError
from cht_rapidpro.jobs.documents.writer import Writer
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from tests.support.stub_server import (
    HTML,
    Raw,
    Reply,
    Request,
    Scripted,
    by_name,
    couchdb_at,
    exact,
    scripted,
)
from tests.support.virtual_time import jump

# Every number here loses something in a double, in orjson, or in a decoder that prefers integers to floats.
ODD: Final = r"""{
  "_id": "report", "_rev": "1-a", "": {"": ""}, "empty": [{}, [], "", null, false],
  "id": 123456789012345678901234567890, "beyond double": 9007199254740993, "minus": -9007199254740993,
  "whole": 1.0, "minus zero": -0.0, "small": 1e-7, "tenth": 0.1, "large": 1.7976931348623157e308, "tiny": 5e-324,
  "\u00e9\ud83d\ude00\u2028\u0000": "escaped \"\\\/\b\f\n\r\t \u202e\ufeff\uffff\ud83d\udc69\u200d\ud83d\ude80 \u0000",
  "raw": "hé 😀 مرحبا", "deep": [[[[{"n": [18446744073709551616, {"": -1e-10}]}]]]],
  "tasks": [
    {"messages": [{"uuid": "other", "to": "+1", "message": "b"}], "state": "scheduled", "due": 9007199254740993,
     "state_history": []},
    {"messages": [{"uuid": "wanted", "to": "+1", "message": "a", "n": 0.30000000000000004, "": 2.0}],
     "state": "pending", "gateway_ref": 7, "due": 1700000000000.5, "group": 12345678901234567890123,
     "state_history": [{"state": "pending", "timestamp": "2026-01-01T00:00:00.000Z", "by": 1e-7, "": 1.0}]},
    "not a task", 9007199254740993
  ],
  "scheduled_tasks": {"not": -0.0}
}""".encode()
OWNED: Final = ("state", "state_details", "state_history", "gateway_ref")
CLAIM: Final = ClaimTasks(Instance("f" * 32, "test"), {MessageId("wanted")}, now=0)
ROW: Final = b'{"rows":[{"id":"report","key":"report","value":{"rev":"1-a"},"doc":%s}],"total_rows":1,"offset":0}'
CHANGE: Final = b'{"results":[{"seq":"2-x","id":"report","changes":[{"rev":"1-a"}],"doc":%s}],"last_seq":"2-x"}'
STORED: Final = Reply([{"ok": True, "id": "report", "rev": "2-b"}], 201)


@pytest.fixture
async def couch(couchdb: CouchDBServer, medic: Database) -> AsyncIterator[Couch]:
    """The adapter on the database `medic`."""
    config = Couchdb(couchdb.url, medic.name, couchdb.user, password=Secret(couchdb.password))
    async with Couch(config) as couch:
        yield couch


def holding(doc: bytes) -> Callable[[Request], Awaitable[Reply | Raw]]:
    """A CouchDB with one document, these very bytes."""
    replies = {"POST _all_docs": Reply(ROW % doc), "POST _changes": Reply(CHANGE % doc), "POST _bulk_docs": STORED}
    return by_name(replies)


async def claim_after_a_read(couch: Couch) -> None:
    await _apply(Writer(couch))


async def claim_after_a_hint(couch: Couch) -> None:
    writer = Writer(couch)
    (hint,) = (await ChangesFeed(couch).wait(Seq("1-x"))).hints
    assert hint.doc is not None
    writer.cache.put(hint.doc, hint.size, asyncio.get_running_loop().time())
    await _apply(writer)


async def _apply(writer: Writer) -> None:
    writing = asyncio.create_task(writer.run())
    async with asyncio.timeout(20):
        await writer.apply(DocId("report"), CLAIM)
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing


@pytest.mark.parametrize(
    ("claim", "requests"),
    [
        (claim_after_a_read, ["POST _all_docs", "POST _bulk_docs"]),
        (claim_after_a_hint, ["POST _changes", "POST _bulk_docs"]),
    ],
)
async def test_a_claim_changes_no_digit_of_what_is_not_ours(
    claim: Callable[[Couch], Awaitable[None]], requests: list[str]
) -> None:
    """Invariant 5, from CouchDB's bytes to CouchDB's bytes."""
    async with scripted(holding(ODD)) as server, Couch(couchdb_at(server)) as couch:
        await claim(couch)
    assert server.names == requests
    before, (after,) = exact(ODD), exact(server.requests[-1].body)["docs"]
    told, claimed = before["tasks"][1], after["tasks"][1]
    assert claimed["state"] == "forwarded-to-gateway"
    assert claimed["state_history"][:-1] == told["state_history"]
    for owned in OWNED:
        told.pop(owned, None)
        claimed.pop(owned, None)
    assert after == before


NUMBERS: Final = st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]))
VALUES: Final = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


@settings(max_examples=50)
@given(fields=st.dictionaries(TEXTS.filter(lambda name: not name.startswith("_")), VALUES))
async def test_no_document_at_all_loses_anything_on_its_way_through(fields: dict[str, Any]) -> None:
    doc = json.dumps({**fields, "_id": "report", "_rev": "1-a"}).encode()
    async with scripted(holding(doc)) as server, Couch(couchdb_at(server)) as couch:
        await couch.write(list((await couch.read([DocId("report")])).values()))
    assert exact(server.requests[-1].body)["docs"] == [exact(doc)]


def test_the_comparison_itself_sees_a_lost_digit() -> None:
    assert exact("9007199254740993") != exact("9007199254740992")
    assert exact("1.0") != exact("1")
    assert exact("-0.0") != exact("0.0")
    assert exact("1e-7") == exact("0.0000001") == (False, Decimal("0.0000001"))


def numbered(count: int, size: int = 0) -> list[Doc]:
    return [{"_id": str(number), "text": "x" * size} for number in range(count)]


def ids(request: Request) -> list[str]:
    return [doc["_id"] for doc in request.json["docs"]]


async def store_all(request: Request) -> Reply | Raw:
    return Reply([{"ok": True, "id": doc_id, "rev": f"1-{doc_id}"} for doc_id in ids(request)], 201)


@pytest.mark.parametrize(
    ("docs", "rows"),
    [
        (numbered(1100), [500, 500, 100]),
        (numbered(5, BULK_BYTES * 2 // 5), [2, 2, 1]),
        ([*numbered(1), {"_id": "huge", "text": "x" * (BULK_BYTES + 1)}, *numbered(2)], [1, 1, 2]),
        ([], []),
    ],
    ids=["by rows", "by bytes", "a document over the bound goes alone", "nothing"],
)
async def test_bulk_docs_is_cut(docs: list[Doc], rows: list[int]) -> None:
    async with scripted(store_all) as server, Couch(couchdb_at(server)) as couch:
        results = await couch.write(docs)
    assert [len(ids(request)) for request in server.requests] == rows
    assert all(len(request.body) <= BULK_BYTES + 1000 for request in server.requests if len(ids(request)) > 1)
    assert [getattr(result, "rev", None) for result in results] == [f"1-{doc['_id']}" for doc in docs]


@pytest.mark.parametrize("status", [400, 413])
@pytest.mark.parametrize("bad", [{0}, {3}, {6}, {2, 3}], ids=str)
async def test_a_document_that_spoils_the_whole_request_is_found(status: int, bad: set[int]) -> None:
    async def script(request: Request) -> Reply | Raw:
        if any(int(doc_id) in bad for doc_id in ids(request)):
            return Reply({"error": "spoilt", "reason": "a private word"}, status)
        return await store_all(request)

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        results = await couch.write(numbered(7))
        assert couch.health.error is None, "a bad document is not CouchDB's trouble"
    assert [isinstance(result, Rejected) for result in results] == [number in bad for number in range(7)]
    assert {result.reason for result in results if isinstance(result, Rejected)} == {
        f"CouchDB answers HTTP {status}: spoilt"
    }
    stored = [doc_id for request in server.requests if not bad & set(map(int, ids(request))) for doc_id in ids(request)]
    assert sorted(stored) == [str(number) for number in range(7) if number not in bad], "each once"


async def test_a_write_too_large_for_a_proxy_goes_in_smaller_requests() -> None:
    async def script(request: Request) -> Reply | Raw:
        return Reply(HTML.body, 413, {}, HTML.content_type) if len(ids(request)) > 2 else await store_all(request)

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        results = await couch.write(numbered(7))
    assert all(isinstance(result, Written) for result in results)
    assert len(results) == 7


async def test_each_row_has_its_own_result(couch: Couch, medic: Database) -> None:
    """Against the real thing: stored, not the latest revision, refused by a validation function."""
    refuse = "function (doc) { if (doc._id === '2') throw({forbidden: 'not this one'}); }"
    await medic.put({"_id": "_design/strict", "validate_doc_update": refuse})
    await medic.put({"_id": "1"})
    stored, conflict, refused, last = await couch.write(numbered(4))
    assert isinstance(stored, Written)
    assert isinstance(last, Written)
    assert (await medic.get("0"))["_rev"] == stored.rev
    assert stored.size == len('{"_id":"0","text":""}')
    assert (conflict, refused) == (Conflict(), Rejected("CouchDB answers forbidden: not this one"))


async def test_read_leaves_out_what_is_not_there(couch: Couch, medic: Database) -> None:
    here, gone = data_record(doc_id="here"), data_record(doc_id="gone")
    await medic.bulk([here, gone])
    await medic.delete("gone")
    found = await couch.read([DocId("gone"), DocId("here"), DocId("never")])
    assert found == {"here": await medic.get("here")}
    assert await couch.read([]) == {}


async def test_messages_come_in_pages_oldest_first_with_the_rows_that_hold_no_message(
    couch: Couch, medic: Database
) -> None:
    sms = {number: message(f"text {number}", uuid=f"m-{number}") for number in range(4)}
    await medic.bulk(
        [
            data_record(task(sms[1], due=20), {"state": "pending", "due": 20}, task(sms[0], due=10), doc_id="a"),
            data_record(task(sms[2], state="forwarded-to-gateway", due=20), doc_id="b"),
            data_record(
                task(sms[3], due="2026-01-01T00:00:00Z"), task(message("cleared"), state="cleared"), doc_id="c"
            ),
        ]
    )
    rows = await _messages(couch, 100)
    assert [(row.doc_id, row.due) for row in rows] == [("a", 10), ("a", 20), ("a", 20), ("b", 20), ("c", 1767225600000)]
    assert MessageRow(DocId("a"), 20, {}) in rows
    assert {row.value["id"] for row in rows if row.value} == {"m-0", "m-1", "m-2", "m-3"}
    assert rows[0].value == {"id": "m-0", "to": "+254712345678", "content": "text 0"}
    for page_size in (1, 2, 3, 5):
        paged = await _messages(couch, page_size)
        assert [row for number, row in enumerate(paged) if row not in paged[:number]] == rows


@pytest.mark.parametrize("page_size", [1, 2, 100])
async def test_pages_go_on_at_a_due_and_a_document(couch: Couch, medic: Database, page_size: int) -> None:
    """So many have one due time that the ones before are not counted again."""
    await medic.bulk(
        data_record(*(task(message(f"text {number}"), due=due) for number in range(2)), doc_id=f"doc-{due}-{place}")
        for due in (10, 20)
        for place in range(3)
    )
    await _messages(couch, 100)  # brings the index up to date
    pages = couch.messages_in("pending-or-forwarded", page_size, since=(10, DocId("doc-10-1")))
    found = [row.doc_id async for page in pages for row in page]
    assert list(dict.fromkeys(found)) == ["doc-10-1", "doc-10-2", "doc-20-0", "doc-20-1", "doc-20-2"]
    assert all(found.count(doc_id) >= 2 for doc_id in found)


async def test_rows_that_leave_the_view_between_two_pages_hide_no_other_row(couch: Couch, medic: Database) -> None:
    """Hundreds of tasks have one due time, and the relay settles some of them while the sweep reads on."""
    docs = [data_record(task(message(f"text {number}"), due=10), doc_id=f"doc-{number}") for number in range(9)]
    await medic.bulk(docs)
    seen = set()
    async for page in couch.messages_in("pending-or-forwarded", 4):
        seen |= {row.doc_id for row in page}
        for doc_id in ("doc-0", "doc-1", "doc-2"):
            await medic.edit(doc_id, lambda doc: {**doc, "tasks": [{**doc["tasks"][0], "state": "sent"}]})
    assert seen == {doc["_id"] for doc in docs}


async def _messages(couch: Couch, page_size: int) -> list[MessageRow]:
    return [row async for page in couch.messages_in("pending-or-forwarded", page_size) for row in page]


async def test_health_is_told_on_its_edges() -> None:
    up, down, refused = Reply({"update_seq": "1-x"}), Reply(status=503), Reply(status=401)
    expected = {
        "up": (up, []),
        "down": (down, ["dependency.lost"]),
        "still down": (down, []),
        "worse": (refused, ["dependency.refused"]),
        "still refused": (refused, []),
        "better, not well": (down, []),
        "well": (up, ["dependency.recovered"]),
        "still well": (up, []),
        "down again": (down, ["dependency.lost"]),
    }
    replies = [reply for reply, _ in expected.values()]
    told = {}
    async with _answering(replies) as server, Couch(couchdb_at(server)) as couch:
        for step in expected:
            with capture_logs() as logs, suppress(GatewayError):
                await couch.update_seq()
            told[step] = [entry["event"] for entry in logs]
            jump(120)  # for so long a refused password is held back
    assert told == {step: events for step, (_, events) in expected.items()}


@asynccontextmanager
async def _answering(replies: list[Reply]) -> AsyncIterator[Scripted]:
    """One answer after the other."""
    left = iter(replies)

    async def script(_: Request) -> Reply | Raw:
        return next(left)

    async with scripted(script) as server:
        yield server

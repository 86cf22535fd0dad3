"""The feed as hints: what gives one, what gives none, and that no fault of it loses the position."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.changes import ChangesFeed, Hint
from cht_rapidpro.adapters.couchdb.client import Couch, Seq
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.claim import ClaimTasks, Instance
from cht_rapidpro.domain.task import DocId, MessageId
from cht_rapidpro.errors import OperatorActionRequiredError, TransientError
from demo.couchdb import CouchDBServer
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from tests.support.stub_server import HTML, RESET, Raw, Reply, Request, always, couchdb_at, scripted

ME = Instance("f" * 32, "test")
MEBIBYTE = 1024 * 1024


@pytest.fixture
async def couch(couchdb: CouchDBServer, medic: Database) -> AsyncIterator[Couch]:
    """The adapter on the database `medic`."""
    config = Couchdb(couchdb.url, medic.name, couchdb.user, password=Secret(couchdb.password))
    async with Couch(config) as couch:
        yield couch


def pending(doc_id: str) -> Doc:
    return data_record(task(message("hello", uuid=f"m-{doc_id}")), doc_id=doc_id)


async def follow(feed: ChangesFeed, since: Seq, last: str) -> list[Hint]:
    """The hints after `since` up to the one about the document `last`."""
    hints: list[Hint] = []
    while not hints or hints[-1].doc_id != last:
        changes = await feed.wait(since)
        since = changes.last_seq
        hints += changes.hints
    return hints


async def test_the_feed_hints_at_pending_tasks_and_settings_alone(couch: Couch, medic: Database) -> None:
    await medic.put(pending("claimed"))
    since = await couch.update_seq()
    nothing = data_record(task(message("x"), state="scheduled"), task(message("x"), state="forwarded-to-gateway"))
    await medic.bulk(
        [nothing, pending("a task"), data_record(doc_id="scheduled", scheduled_tasks=[task(message("x"))])]
    )
    claim = ClaimTasks(ME, {MessageId("m-claimed")}, now=1)
    await couch.write([claim((await couch.read([DocId("claimed")]))[DocId("claimed")])])
    await medic.put({"_id": "messages-fr", "type": "translations"})
    await medic.put({"_id": "messages", "tasks": "none"})
    await medic.edit("_design/medic", lambda doc: {**doc, "build_info": {"version": "4.0.0"}})
    await medic.edit("settings", lambda doc: {**doc, "settings": {}})
    await medic.put(pending("last"))
    hints = await follow(ChangesFeed(couch), since, last="last")
    assert {hint.doc_id for hint in hints} == {
        "a task",
        "scheduled",
        "_design/medic",
        "settings",
        "messages-fr",
        "last",
    }
    (told,) = [hint for hint in hints if hint.doc_id == "a task"]
    assert told.doc == await medic.get("a task")
    assert told.size > len(str(told.doc["tasks"]))


async def test_deleted_settings_are_a_hint_and_a_deleted_record_is_none(couch: Couch, medic: Database) -> None:
    await medic.put(pending("gone"))
    since = await couch.update_seq()
    for doc_id in ("gone", "settings", "messages-sw"):
        await medic.delete(doc_id)
    await medic.put(pending("last"))
    hints = await follow(ChangesFeed(couch), since, last="last")
    assert [(hint.doc_id, hint.doc is None) for hint in hints] == [
        ("settings", True),
        ("messages-sw", True),
        ("last", False),
    ]


async def test_from_one_last_seq_to_the_next_every_document_comes_once(couch: Couch, medic: Database) -> None:
    since = await couch.update_seq()
    names = [f"report-{number:03}" for number in range(250)]
    for first in range(0, 250, 50):
        await medic.bulk([pending(name) for name in names[first : first + 50]])
    hints = await follow(ChangesFeed(couch), since, last=names[-1])
    assert sorted(hint.doc_id for hint in hints) == names


def row(doc: Doc | None, doc_id: str = "") -> Doc:
    """A change as CouchDB tells it; None: of a deleted document."""
    told: dict[str, Any] = {"seq": "2-x", "id": doc_id or (doc or {})["_id"], "changes": [{"rev": "1-a"}]}
    return {**told, "doc": doc} if doc else {**told, "deleted": True, "doc": {"_id": doc_id, "_deleted": True}}


def body(*rows: Doc, last_seq: object = "2-x") -> Reply:
    return Reply({"results": rows, "last_seq": last_seq, "pending": 0})


async def test_a_server_without_selector_is_noticed_once_and_filtered_here() -> None:
    scheduled = data_record(task(message("later"), state="scheduled"), doc_id="scheduled")
    unfiltered = body(row(scheduled), row(None, "gone"), row(None, "settings"), row(pending("report")), last_seq=7)

    async def script(request: Request) -> Reply | Raw:
        return Reply({"error": "bad_request"}, 400) if "filter" in request.query else unfiltered

    with capture_logs() as logs:
        async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
            feed = ChangesFeed(couch)
            for _ in range(2):
                changes = await feed.wait(Seq("1-x"))
                assert [hint.doc_id for hint in changes.hints] == ["settings", "report"]
                assert changes.last_seq == "7", "CouchDB 1 counts"
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("feed.unfiltered", "warning")]
    assert ["filter" in request.query for request in server.requests] == [True, False, False]
    assert all("limit" in request.query and request.query["since"] == "1-x" for request in server.requests)


async def test_a_missing_database_needs_an_operator_and_is_not_taken_for_a_server_without_selector() -> None:
    replies = [Reply({"error": "not_found", "reason": "Database does not exist."}, 404)] * 2
    replies += [body(row(pending("report")))]

    async def script(request: Request) -> Reply | Raw:
        return replies.pop(0)

    with capture_logs() as logs:
        async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
            feed = ChangesFeed(couch)
            for _ in range(2):
                with pytest.raises(OperatorActionRequiredError, match=r"HTTP 404, the database .* is missing"):
                    await feed.wait(Seq("1-x"))
            assert [hint.doc_id for hint in (await feed.wait(Seq("1-x"))).hints] == ["report"]
    assert "filter" in server.requests[-1].query
    assert [entry["event"] for entry in logs] == ["dependency.refused", "dependency.recovered"]


DROPPED = Raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"results":[\r\n  \n\r\n')


@pytest.mark.parametrize(
    "fault",
    [
        DROPPED,
        RESET,
        HTML,
        Reply({"results": [{}], "last_seq": "1-x"}),
        Reply(b""),
    ],
    ids=["dropped mid-body", "reset", "a proxy's page", "a row without id", "empty"],
)
async def test_after_a_fault_the_same_position_gives_the_same_changes(fault: Reply | Raw) -> None:
    replies = [fault, body(row(pending("report")))]

    async def script(request: Request) -> Reply | Raw:
        return replies.pop(0)

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        feed = ChangesFeed(couch)
        with pytest.raises(TransientError):
            await feed.wait(Seq("1-x"))
        changes = await feed.wait(Seq("1-x"))
    assert [hint.doc_id for hint in changes.hints] == ["report"]
    assert [request.query["since"] for request in server.requests] == ["1-x", "1-x"]


async def test_documents_beyond_the_bound_are_left_to_the_sweep_and_the_position_goes_on() -> None:
    """Documents of many megabytes exist; a feed that met the same ones again and again would never get past them."""
    large = {**pending("report"), "text": "x" * (9 * MEBIBYTE)}
    with_docs, without = (
        [row(large), row(None, "gone")],
        [{"seq": "2-x", "id": "report", "changes": []}, row(None, "settings")],
    )

    async def script(request: Request) -> Reply | Raw:
        return body(*(with_docs if request.query["include_docs"] == "true" else without))

    with capture_logs() as logs:
        async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
            changes = await ChangesFeed(couch).wait(Seq("1-x"))
    assert (changes.is_complete, changes.last_seq) == (False, "2-x")
    assert [hint.doc_id for hint in changes.hints] == ["settings"]
    assert (len(server.requests), logs) == (2, [])


async def test_an_answer_that_is_too_large_even_without_documents_is_transient() -> None:
    """A server that ignores `limit`, or a page that never ends."""
    async with scripted(always(Reply(b" " * (9 * MEBIBYTE)))) as server, Couch(couchdb_at(server)) as couch:
        with pytest.raises(TransientError):
            await ChangesFeed(couch).wait(Seq("1-x"))


async def test_a_position_that_couchdb_refuses_is_transient() -> None:
    """The next sweep brings a new one; until then nothing may crash, nor may the filter be given up."""
    with capture_logs() as logs:
        async with scripted(always(Reply({"error": "bad_request"}, 400))) as server, Couch(couchdb_at(server)) as couch:
            with pytest.raises(TransientError, match="refuses the feed from position 'junk'"):
                await ChangesFeed(couch).wait(Seq("junk"))
    assert not [entry for entry in logs if entry["event"] == "feed.unfiltered"]


async def test_after_a_failure_it_asks_once_without_waiting() -> None:
    """Or an outage that is over would last until something changes."""
    asked: list[str] = []

    async def script(request: Request) -> Reply | Raw:
        asked.append(request.query["feed"])
        return RESET if len(asked) == 2 else Reply({"results": [], "last_seq": "7"})

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        feed = ChangesFeed(couch)
        await feed.wait(Seq("1"))
        with pytest.raises(TransientError):
            await feed.wait(Seq("7"))
        await feed.wait(Seq("7"))
        await feed.wait(Seq("7"))
    assert asked == ["longpoll", "longpoll", "normal", "longpoll"]

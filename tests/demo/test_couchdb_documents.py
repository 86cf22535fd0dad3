"""Writes and views as the gateway uses them: on the stand-in, and on the CouchDB of $COUCHDB_URL."""

import asyncio
from typing import Any

import aiohttp
import pytest

from demo.couchdb import CouchDBServer
from demo.database import Database, DatabaseError
from demo.medic import data_record, message, task

Doc = dict[str, Any]


async def status_of(request: Any) -> int:
    with pytest.raises(DatabaseError) as caught:
        await request
    return caught.value.status


async def test_bulk_rows_are_in_the_order_of_the_documents(database: Database) -> None:
    rev = await database.put({"_id": "c", "n": 0})
    await database.put({"_id": "b", "n": 2})
    rows = await database.bulk(
        [
            {"_id": "z", "n": 1},
            {"_id": "b", "n": 0},
            {"n": 3},
            {"_id": "c", "_rev": rev, "n": 4},
            {"_id": "a", "n": 5},
        ]
    )
    assert [(row["id"], row.get("error")) for row in rows] == [
        ("z", None),
        ("b", "conflict"),
        (rows[2]["id"], None),
        ("c", None),
        ("a", None),
    ]
    assert [(await database.get(row["id"]))["n"] for row in rows] == [1, 2, 3, 4, 5]


async def test_one_malformed_document_refuses_the_whole_bulk(database: Database) -> None:
    assert await status_of(database.bulk([{"_id": "good"}, {"_id": "bad", "_unknown": 1}])) == 400
    assert await status_of(database.get("good")) == 404


async def test_only_the_latest_revision_may_be_replaced(database: Database) -> None:
    doc: Doc = {"_id": "a/ü?", "n": 1}
    rev = await database.put(doc)
    assert await status_of(database.put(doc)) == 409
    assert await status_of(database.put({**doc, "_rev": "1-00000000000000000000000000000000"})) == 409
    assert await status_of(database.request("DELETE", "a%2F%C3%BC%3F")) == 409
    await database.put({**doc, "_rev": rev, "n": 2})
    assert (await database.get(doc["_id"]))["n"] == 2


async def test_a_deleted_document_is_known_as_such_and_comes_back_when_written(database: Database) -> None:
    await database.put({"_id": "a"})
    await database.delete("a")
    assert await status_of(database.get("a")) == 404

    rows = (await database.request("POST", "_all_docs", body={"keys": ["a", "never"]}))["rows"]
    assert rows[0]["value"]["deleted"] is True
    assert rows[1]["error"] == "not_found"

    await database.put({"_id": "a", "again": True})
    assert (await database.get("a"))["again"] is True


async def test_local_documents_have_no_conflicts_and_no_changes(database: Database) -> None:
    await database.put({"_id": "_local/position", "n": 1})
    await database.put({"_id": "_local/position", "n": 2})
    await database.put({"_id": "_local/position", "n": 3, "_rev": "0-9"})
    assert (await database.get("_local/position"))["n"] == 3
    assert (await database.changes())["results"] == []


async def test_edit_survives_other_writers(database: Database) -> None:
    await database.put({"_id": "counter", "n": 0})
    await asyncio.gather(*(database.edit("counter", lambda doc: {**doc, "n": doc["n"] + 1}) for _ in range(5)))
    assert (await database.get("counter"))["n"] == 5


async def test_view_is_paged_by_key_and_skip_over_many_equal_keys(medic: Database) -> None:
    """A thousand reminders may share one due time, so a page begins inside a run of equal keys."""
    due = [1000, 2000, 2000, 2000, 2000, 2000, 3000]
    await medic.bulk(data_record(task(message("Hello"), due=ms), doc_id=f"doc{n}") for n, ms in enumerate(due))

    seen: list[Doc] = []
    startkey, skip = ["pending-or-forwarded"], 0
    while page := await medic.view(
        "medic",
        "messages_by_state",
        startkey=startkey,
        endkey=["pending-or-forwarded", {}],
        skip=skip,
        limit=2,
    ):
        seen += page
        startkey = seen[-1]["key"]
        skip = sum(row["key"] == startkey for row in seen)

    assert [row["key"][1] for row in seen] == due
    assert len({row["id"] for row in seen}) == len(due)


async def test_view_answers_to_several_keys_in_their_order(medic: Database) -> None:
    refs = {"a": "17", "b": 17, "c": "18"}
    await medic.bulk(
        data_record(task(message("Hi", uuid=name), gateway_ref=ref), doc_id=name) for name, ref in refs.items()
    )
    rows = await medic.view("medic-sms", "messages_by_gateway_ref", keys=["17", 17, "none"])
    assert [(row["key"], row["value"]) for row in rows] == [("17", "a"), (17, "b")]


async def test_requests_without_a_login_are_refused_except_for_up(couchdb: CouchDBServer, database: Database) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(database.url) as response:
            assert response.status == 401
        async with session.get(f"{couchdb.url}/_up") as response:
            assert response.status == 200


async def test_database_is_created_once_and_deleted_once(database: Database) -> None:
    assert await status_of(database.create()) == 412
    await database.destroy()
    assert await status_of(database.destroy()) == 404
    assert await status_of(database.get("a")) == 404
    await database.create()

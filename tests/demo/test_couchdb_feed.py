"""`_changes` as the gateway follows it: on the stand-in, and on the CouchDB that $COUCHDB_URL names."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from demo.couchdb import CouchDBServer
from demo.database import Database, DatabaseError
from demo.medic import data_record, message, task

Doc = dict[str, Any]

HAS_PENDING = {"$elemMatch": {"state": "pending"}}
SELECTOR = {
    "$or": [
        {"tasks": HAS_PENDING},
        {"scheduled_tasks": HAS_PENDING},
        {"_id": {"$in": ["settings", "_design/medic"]}},
    ]
}
FOREVER_MS = 60_000


async def update_seq(database: Database) -> str:
    return str((await database.request("GET"))["update_seq"])


async def follow(database: Database, since: str, timeout_ms: int = FOREVER_MS, limit: int = 100) -> Doc:
    return await database.changes(
        selector=SELECTOR, feed="longpoll", include_docs="true", since=since, timeout=timeout_ms, limit=limit
    )


def ids(answer: Doc) -> list[str]:
    return [row["id"] for row in answer["results"]]


def pending(doc_id: str) -> Doc:
    return data_record(task(message("Hello")), doc_id=doc_id)


async def edit_settings(database: Database) -> None:
    await database.edit("settings", lambda doc: {**doc, "settings": {}})


async def edit_design(database: Database) -> None:
    await database.edit("_design/medic", lambda doc: {**doc, "build_info": {"version": "4.0.0"}})


WRITES: dict[str, tuple[str, Callable[[Database], Awaitable[object]]]] = {
    "a pending task": ("report", lambda db: db.put(pending("report"))),
    "a pending scheduled task": (
        "plan",
        lambda db: db.put(data_record(doc_id="plan", scheduled_tasks=[task(message("Later"))])),
    ),
    "an edit by _id": ("settings", edit_settings),
    "a design document": ("_design/medic", edit_design),
    "a deletion by _id": ("settings", lambda db: db.delete("settings")),
}


@pytest.mark.parametrize(("doc_id", "write"), WRITES.values(), ids=WRITES.keys())
async def test_longpoll_delivers_what_matches_and_nothing_else(
    medic: Database, doc_id: str, write: Callable[[Database], Awaitable[object]]
) -> None:
    since = await update_seq(medic)
    following = asyncio.create_task(follow(medic, since))

    await medic.put(data_record(task(message("Sent before"), state="sent"), doc_id="other"))
    await write(medic)
    answer = await following

    latest = await medic.request("POST", "_all_docs", body={"keys": [doc_id]})
    assert ids(answer) == [doc_id]
    row = answer["results"][0]
    assert row["doc"]["_rev"] == latest["rows"][0]["value"]["rev"]
    assert row.get("deleted", False) == latest["rows"][0]["value"].get("deleted", False)
    assert ids(await follow(medic, answer["last_seq"], timeout_ms=1)) == []


async def test_longpoll_answers_at_once_with_what_is_already_there(database: Database) -> None:
    since = await update_seq(database)
    await database.bulk(pending(name) for name in ("a", "b"))
    assert sorted(ids(await follow(database, since))) == ["a", "b"]


async def test_timeout_ends_an_idle_longpoll_with_a_position_that_misses_nothing(database: Database) -> None:
    since = await update_seq(database)
    await database.put(data_record(doc_id="nothing to send"))

    idle = await follow(database, since, timeout_ms=50)
    assert idle["results"] == []

    await database.put(pending("later"))
    assert ids(await follow(database, idle["last_seq"])) == ["later"]


async def test_limit_cuts_the_answer_and_last_seq_continues_it(database: Database) -> None:
    since = await update_seq(database)
    names = [f"doc{number}" for number in range(5)]
    await database.bulk(pending(name) for name in names)

    pages = []
    while page := await follow(database, since, timeout_ms=1, limit=2):
        if not page["results"]:
            break
        pages.append(ids(page))
        since = page["last_seq"]

    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted(name for page in pages for name in page) == names


async def test_update_seq_is_a_position_after_which_every_write_is_delivered(database: Database) -> None:
    await database.put(pending("before"))
    since = await update_seq(database)
    await database.put(pending("after"))
    assert ids(await database.changes(since=since)) == ["after"]
    assert sorted(ids(await database.changes())) == ["after", "before"]


@pytest.mark.parametrize("since", ["junk", "17"])
async def test_a_position_is_opaque(database: Database, since: str) -> None:
    """A bare integer too is refused, so a client that computes with positions is found out."""
    with pytest.raises(DatabaseError) as caught:
        await database.changes(since=since)
    assert caught.value.status == 400


async def test_position_of_a_database_that_was_created_anew_starts_from_the_beginning(
    database: Database,
) -> None:
    await database.bulk(pending(name) for name in ("a", "b", "c"))
    since = await update_seq(database)
    await database.destroy()
    await database.create()
    await database.put(pending("new"))
    assert ids(await database.changes(since=since)) == ["new"]


async def test_a_dropped_longpoll_leaves_the_database_usable(database: Database) -> None:
    since = await update_seq(database)
    dropped = [asyncio.create_task(follow(database, since)) for _ in range(20)]
    await follow(database, since, timeout_ms=1)
    for following in dropped:
        following.cancel()
    await asyncio.gather(*dropped, return_exceptions=True)

    await database.put(pending("a"))
    assert ids(await follow(database, since)) == ["a"]


async def test_continuous_feed_beats_and_ends_with_last_seq_when_the_database_is_deleted(
    couchdb: CouchDBServer, database: Database
) -> None:
    headers = {"Authorization": aiohttp.encode_basic_auth(couchdb.user, couchdb.password)}
    params = {"feed": "continuous", "heartbeat": "20"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{database.url}/_changes", params=params) as response,
    ):
        assert await response.content.readline() == b"\n"
        await database.put({"_id": "a"})
        assert (await next_row(response))["id"] == "a"
        await database.destroy()
        assert "last_seq" in await next_row(response)
        assert await response.content.read() == b""
    await database.create()


async def next_row(response: aiohttp.ClientResponse) -> Doc:
    while (line := await response.content.readline()) == b"\n":
        pass
    row: Doc = json.loads(line)
    return row

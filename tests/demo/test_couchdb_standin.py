"""The life of the stand-in's process, and where a server is looked for."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from cht_rapidpro.errors import ConfigError, GatewayError
from demo.couchdb import (
    CouchDBStandin,
    ExternalCouchDB,
    couchdb_server,
    server_from_environment,
)
from demo.database import Database

LIMIT_S = 30.0  # far beyond what any of these waits takes; only a hang meets it


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_acknowledged_writes_survive_the_end_of_the_process(tmp_path: Path, end: str) -> None:
    standin = CouchDBStandin(data_dir=tmp_path / "data")
    await standin.start()
    url = standin.url
    try:
        async with Database(standin, "medic") as database:
            await database.create()
            rev = await database.put({"_id": "a", "n": 1})
            rows = await database.bulk([{"_id": "z"}, {"_id": "a", "n": 2}, {"_id": "b"}])
            assert [(row["id"], row.get("error")) for row in rows] == [
                ("z", None),
                ("a", "conflict"),
                ("b", None),
            ]
            since = (await database.request("GET"))["update_seq"]

            await (standin.stop() if end == "stop" else standin.kill())
            await standin.start()

            assert standin.url == url
            assert (await database.get("a"))["_rev"] == rev
            assert (await database.changes(since=since))["results"] == []
            await database.put({"_id": "later"})
            assert [row["id"] for row in (await database.changes(since=since))["results"]] == ["later"]
    finally:
        await standin.stop()


async def test_a_following_client_notices_the_end_of_the_server() -> None:
    async with CouchDBStandin() as standin, Database(standin, "medic") as database:
        await database.create()
        following = asyncio.create_task(database.changes(feed="longpoll"))
        await database.changes(feed="longpoll", timeout=1)
        await standin.kill()
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(following, LIMIT_S)


PARENT = """
import time
from demo.couchdb import StandinProcess
with StandinProcess() as standin:
    print(standin.url, flush=True)
    time.sleep(600)
"""


async def test_the_process_ends_with_its_parent() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout
    url = urlsplit((await asyncio.wait_for(parent.stdout.readline(), LIMIT_S)).decode().strip())
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    parent.kill()
    await parent.wait()
    with suppress(ConnectionResetError):  # closed in whichever way
        assert await asyncio.wait_for(reader.read(), LIMIT_S) == b""
    writer.close()


async def test_without_node_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GatewayError, match=r"node .*make install.*COUCHDB_URL"):
        await CouchDBStandin().start()


async def test_a_taken_port_is_an_error() -> None:
    async with CouchDBStandin() as standin:
        other = CouchDBStandin(port=urlsplit(standin.url).port or 0)
        with pytest.raises(GatewayError, match="did not start"):
            await other.start()


async def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUCHDB_URL", "http://me:p%40ss@couch.example:5984/")
    async with couchdb_server() as server:
        assert server == ExternalCouchDB("http://couch.example:5984", "me", "p@ss")
        assert "p@ss" not in repr(server)


@pytest.mark.parametrize("value", ["localhost:5984", "http://couch.example:5984", "http://me@couch.example"])
def test_a_server_without_scheme_or_credentials_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUCHDB_URL", value)
    with pytest.raises(ConfigError, match="COUCHDB_URL"):
        server_from_environment()


async def test_without_it_a_standin_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COUCHDB_URL", raising=False)
    async with couchdb_server() as server, Database(server, "medic") as database:
        await database.create()
        await database.put({"_id": "a"})

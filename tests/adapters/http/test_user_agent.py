"""Whoever is asked can see in its log who has asked."""

from importlib.metadata import version

from cht_rapidpro.adapters.couchdb.changes import ChangesFeed
from cht_rapidpro.adapters.couchdb.client import Couch, Seq
from cht_rapidpro.adapters.couchdb.inspection import Inspection
from cht_rapidpro.adapters.rapidpro.transport import Transport
from cht_rapidpro.config.schema import Rapidpro
from cht_rapidpro.config.secrets import Secret
from tests.support.stub_server import Reply, always, couchdb_at, scripted


async def test_every_request_names_the_gateway_and_its_version() -> None:
    async with scripted(always(Reply({"update_seq": "1", "results": [], "last_seq": "1"}))) as server:
        async with Couch(couchdb_at(server)) as couch:
            await couch.update_seq()
            await ChangesFeed(couch).wait(Seq("0"))
            await couch.write([])
        async with Inspection(couchdb_at(server)) as inspection:
            await inspection.get("")
        async with Transport(Rapidpro()) as transport:
            await transport.request("POST", f"{server.url}/api/v2/broadcasts.json", Secret("token"), b"{}")
    assert len(server.requests) >= 4
    assert {request.headers["User-Agent"] for request in server.requests} == {f"cht-rapidpro/{version('cht-rapidpro')}"}

"""No secret follows a redirect: whatever asks, the other host hears nothing, and the trouble has a name."""

from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.changes import ChangesFeed
from cht_rapidpro.adapters.couchdb.client import Couch, Seq
from cht_rapidpro.adapters.couchdb.inspection import Inspection, Seen
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Vault
from cht_rapidpro.adapters.rapidpro.transport import Reply as RapidProReply
from cht_rapidpro.adapters.rapidpro.transport import Transport
from cht_rapidpro.commands.check.couchdb import check_couchdb
from cht_rapidpro.config.schema import Rapidpro
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.task import DocId
from cht_rapidpro.errors import OperatorActionRequiredError
from tests.support.stub_server import PASSWORD, Reply, Request, Scripted, always, couchdb_at, scripted

REDIRECTS = (300, 301, 302, 303, 304, 305, 307, 308)

Call = Callable[[Couch], Awaitable[object]]


async def _pages(couch: Couch) -> None:
    async for _ in couch.messages_in("pending-or-forwarded"):
        pass


CALLS: dict[str, Call] = {
    "update_seq": lambda couch: couch.update_seq(),
    "messages_in": _pages,
    "holders": lambda couch: couch.holders(["1"]),
    "look_up": lambda couch: couch.look_up([DocId("a")]),
    "ids": lambda couch: couch.ids("a", "b"),
    "incoming_with": lambda couch: couch.incoming_with(["1"]),
    "write": lambda couch: couch.write([{"_id": "a", "secret": "Dear Amina"}]),
    "feed": lambda couch: ChangesFeed(couch).wait(Seq("0")),
    "vault.read": lambda couch: Vault(couch).read([CredentialName.OUTGOING]),
    "vault.write": lambda couch: Vault(couch).write(CredentialName.OUTGOING, Secret("token")),
}


def redirecting(elsewhere: Scripted, status: int) -> Callable[[Request], Awaitable[Reply]]:
    """A server whose every answer leads to another host."""
    host = elsewhere.url.replace("127.0.0.1", "localhost")

    async def script(request: Request) -> Reply:
        return Reply(status=status, headers={"Location": host + request.target})

    return script


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("call", CALLS)
async def test_nothing_that_is_meant_for_couchdb_goes_elsewhere(call: str, status: int) -> None:
    async with scripted(always(Reply({"update_seq": "1"}))) as elsewhere:
        async with scripted(redirecting(elsewhere, status)) as server, Couch(couchdb_at(server)) as couch:
            with capture_logs() as logs, pytest.raises(OperatorActionRequiredError) as caught:
                await CALLS[call](couch)
        assert elsewhere.requests == []
        assert len(server.requests) == 1
    told = str(caught.value)
    assert f"HTTP {status}, it redirects to the host 'localhost'" in told
    assert "[couchdb] url" in told
    assert "?" not in told
    assert [entry["event"] for entry in logs] == ["dependency.refused"]
    assert PASSWORD not in str(logs)


@pytest.mark.parametrize("location", ["", "http://[", "/medic/", "//user:pass@other/x?token=1"])
async def test_any_address_that_a_redirect_names_is_only_told_by_its_host(location: str) -> None:
    async with scripted(always(Reply(status=302, headers={"Location": location}))) as server:
        async with Couch(couchdb_at(server)) as couch:
            with pytest.raises(OperatorActionRequiredError, match="HTTP 302, it redirects") as caught:
                await couch.update_seq()
        assert len(server.requests) == 1
    assert "pass@" not in str(caught.value)
    assert "token" not in str(caught.value)


@pytest.mark.parametrize("status", REDIRECTS)
async def test_the_check_follows_none_and_says_so(status: int) -> None:
    async with scripted(always(Reply())) as elsewhere:
        async with scripted(redirecting(elsewhere, status)) as server:
            config = couchdb_at(server)
            async with Inspection(config) as inspection:
                seen = await inspection.post("medic/_bulk_docs", {"docs": []})
                assert isinstance(seen, Seen)
                findings = [finding async for finding in check_couchdb(inspection, config, lambda: 0)]
        assert elsewhere.requests == []
    assert [finding.about for finding in findings] == ["couchdb.reachable"]
    assert "redirects" in findings[0].says


@pytest.mark.parametrize("status", REDIRECTS)
async def test_rapidpros_token_stays_too(status: int) -> None:
    async with scripted(always(Reply())) as elsewhere:
        async with scripted(redirecting(elsewhere, status)) as server, Transport(Rapidpro()) as transport:
            for method, data in (("GET", None), ("POST", b"{}")):
                reply = await transport.request(method, f"{server.url}/api/v2/x.json", Secret("token"), data)
                assert isinstance(reply, RapidProReply)
                assert reply.status == status
        assert elsewhere.requests == []

"""The connection with RapidPro: which fault means "surely not sent" and which "perhaps", and where the token goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.rapidpro.client import Listing
from cht_rapidpro.domain.outgoing import Ambiguous, Answer, NotSent, Trouble
from tests.adapters.rapidpro.known_client import BROADCAST, CREATED, PER_HOUR, TOKEN, client, html
from tests.support.stub_server import RESET, Raw, Reply, Request, always, couchdb_at, scripted
from tests.support.virtual_time import jump


def half(status: int) -> Raw:
    """Half a body, the half that names the broadcast."""
    return Raw(b'HTTP/1.1 %d Said\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"id": 7,' % status)


# An answer whose body is not whole, what it means, and whether RapidPro counts the request.
BROKEN_BODIES: Final[dict[str, tuple[Reply | Raw, Answer, bool]]] = {
    "201 with half a body": (half(201), Ambiguous("a success without a broadcast id"), True),
    "201 without end": (Reply(b" " * 9_000_000, 201), Ambiguous("a success without a broadcast id"), True),
    "400 with half a body": (half(400), Trouble("HTTP 400 that is not RapidPro's JSON"), False),
}


@pytest.mark.parametrize(("reply", "answer", "counted"), BROKEN_BODIES.values(), ids=BROKEN_BODIES)
async def test_a_broken_body_leaves_the_status_alone_to_count(
    reply: Reply | Raw, answer: Answer, counted: bool
) -> None:
    async with scripted(always(reply)) as server, client() as rapidpro:
        assert await rapidpro.post_broadcast(server.url, BROADCAST) == answer
        assert (rapidpro.budget.open, rapidpro.budget.left(0)) == (0, PER_HOUR - counted)
    assert server.names == ["POST broadcasts.json"], "sent once, whatever the answer"


@pytest.mark.parametrize(
    "fault",
    [RESET, Raw(b"HTTP/1.1 201 Crea"), Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Raw(b"HTTP/1.1 201 Created\r\n\x00\r\n\r\n")],
    ids=["reset", "half a head", "another protocol", "a broken head"],
)
async def test_a_fault_after_the_request_has_left_leaves_it_in_doubt(fault: Raw) -> None:
    async with scripted(always(fault)) as server, client() as rapidpro:
        assert isinstance(await rapidpro.post_broadcast(server.url, BROADCAST), Ambiguous)
        assert rapidpro.budget.left(0) == PER_HOUR - 1
        assert rapidpro.health.error is None, "it is about one message"
    assert server.names == ["POST broadcasts.json"]


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A RapidPro that takes the request and never answers; the event is set when the request is there."""
    arrived = asyncio.Event()

    async def script(_: Request) -> Reply | Raw:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable: nobody sets that event")

    async with scripted(script) as server:
        yield server.url, arrived


async def test_silence_beyond_the_timeout_leaves_it_in_doubt() -> None:
    async with silent() as (url, arrived), client(timeout=30) as rapidpro, asyncio.TaskGroup() as group:
        post = group.create_task(rapidpro.post_broadcast(url, BROADCAST))
        await arrived.wait()
        assert rapidpro.budget.open == 1
        jump(29)
        await asyncio.sleep(0)
        assert not post.done()
        jump(1.1)
        assert isinstance(await post, Ambiguous)


async def test_a_cancelled_request_is_counted_and_no_longer_open() -> None:
    async with silent() as (url, arrived), client() as rapidpro:
        post = asyncio.create_task(rapidpro.post_broadcast(url, BROADCAST))
        await arrived.wait()
        post.cancel()
        with pytest.raises(asyncio.CancelledError):
            await post
        assert (rapidpro.budget.open, rapidpro.budget.left(0)) == (0, PER_HOUR - 1)


async def test_a_closed_port_means_surely_not_sent() -> None:
    async with scripted(always(CREATED)) as gone:
        pass
    with capture_logs() as logs:
        async with client() as rapidpro:
            answers = [await rapidpro.post_broadcast(gone.url, BROADCAST) for _ in range(2)]
            assert (rapidpro.budget.open, rapidpro.budget.left(0)) == (0, PER_HOUR)
    assert [type(answer) for answer in answers] == [NotSent, NotSent]
    assert [entry["event"] for entry in logs] == ["dependency.lost"]


async def test_https_to_a_plain_port_needs_an_operator() -> None:
    with capture_logs() as logs:
        async with scripted(always(CREATED)) as server, client() as rapidpro:
            answer = await rapidpro.post_broadcast(server.url.replace("http:", "https:"), BROADCAST)
    assert isinstance(answer, Trouble)
    assert server.requests == []
    (told,) = logs
    assert (told["event"], "check [rapidpro] url and ca_file" in told["error"]) == ("dependency.refused", True)


async def test_the_request_is_as_rapidpro_needs_it() -> None:
    async with scripted(always(CREATED)) as server, client() as rapidpro:
        await rapidpro.post_broadcast(f"{server.url}/below", BROADCAST)
    (request,) = server.requests
    assert request.target == "/below/api/v2/broadcasts.json"
    assert request.headers["Authorization"] == f"Token {TOKEN}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Content-Length"] == str(len(request.body)), "a chunked body is read as empty"
    assert "Transfer-Encoding" not in request.headers
    assert request.json == {"urns": ["tel:+254712345678"], "text": "Njoo kliniki é 😀"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_token_does_not_follow_a_redirect(status: int) -> None:
    async with scripted(always(CREATED)) as elsewhere, client() as rapidpro:
        moved = Reply(status=status, headers={"Location": f"{elsewhere.url}/api/v2/broadcasts.json"})
        async with scripted(always(moved)) as server:
            answers = [await rapidpro.post_broadcast(server.url, BROADCAST), await rapidpro.probe(server.url)]
    assert answers == [Trouble(f"HTTP {status} that is not RapidPro's JSON")] * 2
    assert elsewhere.requests == []


async def test_a_request_without_a_body_carries_the_token_alone() -> None:
    async with scripted(always(Reply({"uuid": "0"}))) as server, client() as rapidpro:
        await rapidpro.probe(server.url)
    (request,) = server.requests
    assert (request.name, request.target) == ("GET workspace.json", "/api/v2/workspace.json")
    assert (request.headers["Authorization"], request.body) == (f"Token {TOKEN}", b"")


async def test_a_listing_is_asked_for_with_its_filters_and_the_cursor() -> None:
    async with scripted(always(Reply({"results": []}))) as server, client() as rapidpro:
        query = {"after": "2026-11-22T07:37:45.550Z", "folder": "sent"}
        await rapidpro.list_rows(server.url, Listing.MESSAGES, query, "c1")
    (request,) = server.requests
    assert request.target == "/api/v2/messages.json?after=2026-11-22T07:37:45.550Z&folder=sent&cursor=c1"
    assert request.headers["Authorization"] == f"Token {TOKEN}"


async def test_the_environments_proxy_is_used_for_rapidpro_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        scripted(always(CREATED)) as proxy,
        scripted(always(Reply({"update_seq": "1-x"}))) as server,
        client() as rapidpro,
        Couch(couchdb_at(server)) as couch,
    ):
        monkeypatch.setenv("http_proxy", proxy.url)
        await rapidpro.post_broadcast("http://rapidpro.test", BROADCAST)
        assert await couch.update_seq() == "1-x"
        (proxied,) = proxy.requests
        assert proxied.target == "http://rapidpro.test/api/v2/broadcasts.json"
        assert server.names == ["GET medic"]
        monkeypatch.setenv("NO_PROXY", "rapidpro.example, 127.0.0.1")
        await rapidpro.post_broadcast(server.url, BROADCAST)
    assert (server.names[1:], len(proxy.requests)) == (["POST broadcasts.json"], 1)


async def test_a_proxy_that_lets_nothing_through_means_surely_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(always(html(502))) as proxy, client() as rapidpro:
        monkeypatch.setenv("https_proxy", proxy.url)
        assert isinstance(await rapidpro.post_broadcast("https://rapidpro.test", BROADCAST), NotSent)
    async with client() as rapidpro:
        assert isinstance(await rapidpro.post_broadcast("https://rapidpro.test", BROADCAST), NotSent), "proxy away"
    assert all(TOKEN not in str(request.headers) for request in proxy.requests)

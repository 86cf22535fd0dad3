"""The adapter to RapidPro: which fault means "surely not sent" and which "perhaps", and where the token goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.rapidpro.client import BadCursor, ListFailure, Listing, RapidPro, Rows
from cht_rapidpro.config.schema import Rapidpro
from cht_rapidpro.config.secret_store import Keyring, Secrets
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.budget import Scope
from cht_rapidpro.domain.outgoing import (
    Ambiguous,
    Answer,
    Broadcast,
    BroadcastId,
    Created,
    NotSent,
    Refused,
    Throttled,
    Trouble,
    Urn,
)
from tests.support.stub_server import HTML, RESET, Raw, Reply, Request, always, couchdb_at, scripted
from tests.support.virtual_time import jump

TOKEN: Final = "a-token-to-guard"
BROADCAST: Final = Broadcast((Urn("tel:+254712345678"),), "Njoo kliniki é 😀")
PER_HOUR: Final = 100
CREATED: Final = Reply({"id": 7, "status": "queued", "urns": []}, 201)
SUSPENDED: Final = {"non_field_errors": ["Sorry, your workspace is currently suspended."]}


@pytest.fixture(autouse=True)
def no_proxy_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def client(timeout: float = 30.0) -> AsyncIterator[RapidPro]:
    keyring = Keyring(Secrets(rapidpro_token=Secret(TOKEN)))
    async with RapidPro(Rapidpro(timeout=timeout, requests_per_hour=PER_HOUR), keyring) as rapidpro:
        yield rapidpro


def half(status: int) -> Raw:
    """Half a body, the half that names the broadcast."""
    return Raw(b'HTTP/1.1 %d Said\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"id": 7,' % status)


def html(status: int) -> Reply:
    return Reply(b"<html></html>", status, content_type="text/html")


def throttled(retry_after: str = "") -> Reply:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return Reply({"detail": "Request was throttled."}, 429, headers)


# What came back, what it means, and whether RapidPro counts the request.
ANSWERS: Final[dict[str, tuple[Reply | Raw, Answer, bool]]] = {
    "201": (CREATED, Created(BroadcastId("7"), "queued"), True),
    "200 of older versions": (Reply({"id": 7}), Created(BroadcastId("7"), ""), True),
    "201 with half a body": (half(201), Ambiguous("a success without a broadcast id"), True),
    "201 without id": (Reply({"uuid": "0"}, 201), Ambiguous("a success without a broadcast id"), True),
    "201 with a list": (Reply([CREATED.body], 201), Ambiguous("a success without a broadcast id"), True),
    "201 of a proxy": (html(201), Ambiguous("a success without a broadcast id"), True),
    "201 without end": (Reply(b" " * 9_000_000, 201), Ambiguous("a success without a broadcast id"), True),
    "204": (Reply(status=204), Ambiguous("a success without a broadcast id"), True),
    "bad number": (
        Reply({"urns": {"0": ["Invalid URN: x."]}}, 400),
        Refused("Invalid URN: x.", {0: "Invalid URN: x."}),
        True,
    ),
    "blank text": (Reply({"text": {"eng": ["Blank."]}}, 400), Refused("Blank.", is_about_text=True), True),
    "suspended": (Reply(SUSPENDED, 400), Trouble(f"HTTP 400: {SUSPENDED['non_field_errors'][0]}"), False),
    "400 of a proxy": (html(400), Trouble("HTTP 400 that is not RapidPro's JSON"), False),
    "400 with half a body": (half(400), Trouble("HTTP 400 that is not RapidPro's JSON"), False),
    "403": (Reply({"detail": "Invalid token"}, 403), Trouble("HTTP 403: Invalid token"), False),
    "404": (html(404), Trouble("HTTP 404 that is not RapidPro's JSON"), False),
    "413": (html(413), Trouble("HTTP 413 that is not RapidPro's JSON"), False),
    "429 for seven seconds": (throttled("7"), Throttled(7.0), False),
    "429 without a time": (throttled(), Throttled(None), False),
    "429 with a date": (throttled("Sun, 22 Nov 2026 23:00:00 GMT"), Throttled(None), False),
    "408": (html(408), Ambiguous("HTTP 408"), True),
    "500": (html(500), Ambiguous("HTTP 500"), True),
    "502 that names an id": (Reply(CREATED.body, 502), Ambiguous("HTTP 502"), True),
}


@pytest.mark.parametrize(("reply", "answer", "counted"), ANSWERS.values(), ids=ANSWERS)
async def test_every_answer_has_its_meaning(reply: Reply | Raw, answer: Answer, counted: bool) -> None:
    async with scripted(always(reply)) as server, client() as rapidpro:
        assert await rapidpro.post_broadcast(server.url, BROADCAST) == answer
        later = asyncio.get_running_loop().time() + 60
        assert (rapidpro.budget.open, rapidpro.budget.left(later)) == (0, PER_HOUR - counted)
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


async def test_https_to_a_plain_port_is_our_trouble() -> None:
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


@pytest.mark.parametrize("status", [200, 400, 403, 404, 500])
@pytest.mark.parametrize("key", ["detail", "text", "urns", "non_field_errors", "status"])
async def test_a_server_that_quotes_the_token_gets_it_into_no_result(key: str, status: int) -> None:
    """A reason goes into the log, the state of a task and the page."""
    quoting = Reply({"id": 1, key: [f"the token {TOKEN} may not", {"0": TOKEN}]}, status)
    async with scripted(always(quoting)) as server, client() as rapidpro:
        with capture_logs() as logs:
            results = [
                await rapidpro.post_broadcast(server.url, BROADCAST),
                await rapidpro.probe(server.url),
                await rapidpro.list_broadcasts(server.url, 0, None, None),
            ]
    assert TOKEN not in f"{results} {logs} {rapidpro.health.error!r}"


async def test_the_token_is_in_no_log_and_no_answer() -> None:
    quoting = Reply({"detail": f"Invalid token {TOKEN}"}, 403)
    with capture_logs() as logs:
        async with scripted(always(quoting)) as server, client() as rapidpro:
            await rapidpro.post_broadcast(server.url, BROADCAST)
            assert TOKEN not in f"{logs} {rapidpro.health.error!r} {rapidpro!r} {vars(rapidpro)}"
    assert [entry["event"] for entry in logs] == ["dependency.refused"]


async def test_429s_of_requests_in_flight_together_are_told_once() -> None:
    with capture_logs() as logs:
        async with scripted(always(throttled("7"))) as server, client() as rapidpro:
            await asyncio.gather(*(rapidpro.post_broadcast(server.url, BROADCAST) for _ in range(4)))
            now = asyncio.get_running_loop().time()
            assert 6 < rapidpro.budget.delay(now) <= 7
    assert [(entry["event"], entry["retry_after"]) for entry in logs] == [("rapidpro.throttled", 7.0)]


PROBES: Final[dict[str, tuple[Reply | Raw, Answer | None]]] = {
    "well": (Reply({"uuid": "0", "name": "Clinic"}), None),
    "bad token": (Reply({"detail": "Invalid token"}, 403), Trouble("HTTP 403: Invalid token")),
    "throttled": (throttled("7"), Throttled(7.0)),
    "a proxy's page": (HTML, Ambiguous("a success without a broadcast id")),
    "500": (html(500), Ambiguous("HTTP 500")),
}


@pytest.mark.parametrize(("reply", "answer"), PROBES.values(), ids=PROBES)
async def test_probe_asks_for_the_workspace(reply: Reply | Raw, answer: Answer | None) -> None:
    async with scripted(always(reply)) as server, client() as rapidpro:
        assert await rapidpro.probe(server.url) == answer
    (request,) = server.requests
    assert (request.name, request.target) == ("GET workspace.json", "/api/v2/workspace.json")
    assert (request.headers["Authorization"], request.body) == (f"Token {TOKEN}", b"")


@pytest.mark.parametrize(
    ("reply", "hides"),
    [
        (Reply({"id": 7, "urns": None}, 201), True),
        (CREATED, False),
        (Reply({"id": 7}, 201), None),
        (html(500), None),
        (Reply({"urns": {"0": ["Invalid URN: x."]}}, 400), None),
        (Reply({"uuid": "0", "anon": True}), True),
        (Reply({"uuid": "0", "anon": False}), False),
    ],
)
async def test_whether_a_workspace_hides_its_urns_is_learned_from_its_answers(reply: Reply, hides: bool | None) -> None:
    async with scripted(always(reply)) as server, client() as rapidpro:
        assert rapidpro.hides_urns(server.url) is None
        if "anon" in str(reply.body):
            await rapidpro.probe(server.url)
        else:
            await rapidpro.post_broadcast(server.url, BROADCAST)
        assert rapidpro.hides_urns(server.url) is hides
        assert rapidpro.hides_urns("http://elsewhere.test") is None


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


ROWS: Final = Reply({"next": "http://elsewhere.test/api/v2/messages.json?cursor=c2&after=x", "results": [{"id": 1}]})
LISTINGS: Final[dict[str, tuple[Reply | Raw, Rows | ListFailure]]] = {
    "a page": (ROWS, Rows([{"id": 1}], "c2")),
    "the last page": (Reply({"next": None, "results": []}), Rows([], None)),
    "a position that RapidPro forgot": (Reply({"detail": "Invalid cursor"}, 404), BadCursor()),
    "a wrong path": (html(404), Trouble("HTTP 404 that is not RapidPro's JSON")),
    "a role that may not list": (Reply({"detail": "No."}, 403), Trouble("HTTP 403: No.")),
    "throttled": (throttled("7"), Throttled(7.0)),
    "a proxy's page": (HTML, Ambiguous("a success without a broadcast id")),
    "no results": (Reply({"next": None}), Ambiguous("a listing without results")),
    "500": (html(500), Ambiguous("HTTP 500")),
}


@pytest.mark.parametrize(("reply", "answer"), LISTINGS.values(), ids=LISTINGS)
async def test_a_page_of_messages_is_asked_for_and_counted_for_itself(
    reply: Reply | Raw, answer: Rows | ListFailure
) -> None:
    async with scripted(always(reply)) as server, client() as rapidpro:
        query = {"after": "2026-11-22T07:37:45.550Z", "folder": "sent"}
        assert await rapidpro.list_rows(server.url, Listing.MESSAGES, query, "c1") == answer
        assert rapidpro.budget.left(0) == PER_HOUR, "the scope of the broadcasts is another one"
        assert rapidpro.health.error is None, "and what is wrong with listing says nothing about sending"
    (request,) = server.requests
    assert request.target == "/api/v2/messages.json?after=2026-11-22T07:37:45.550Z&folder=sent&cursor=c1"
    assert request.headers["Authorization"] == f"Token {TOKEN}"


async def test_a_429_closes_the_scope_that_it_is_about() -> None:
    async with scripted(always(throttled("7"))) as server, client() as rapidpro:
        await rapidpro.list_rows(server.url, Listing.RUNS, {}, None)
        now = asyncio.get_running_loop().time()
        delays = {scope: rapidpro.budgets[scope].delay(now) > 0 for scope in Scope}
    assert delays == {Scope.GENERAL: False, Scope.MESSAGES: False, Scope.RUNS: True}

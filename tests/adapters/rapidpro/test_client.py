"""The client of RapidPro's API: what each answer means, and what is counted, remembered and logged of it.

What happens on the connection is in `test_transport.py`.
"""

import asyncio
from typing import Final

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.rapidpro.client import BadCursor, ListFailure, Listing, Rows
from cht_rapidpro.domain.budget import Scope
from cht_rapidpro.domain.outgoing import Ambiguous, Answer, BroadcastId, Created, Refused, Throttled, Trouble
from tests.adapters.rapidpro.known_client import BROADCAST, CREATED, PER_HOUR, TOKEN, client, html, throttled
from tests.support.http_answer import BASE, answering
from tests.support.stub_server import HTML, Reply, always, scripted

SUSPENDED: Final = {"non_field_errors": ["Sorry, your workspace is currently suspended."]}

# What came back, what it means, and whether RapidPro counts the request.
ANSWERS: Final[dict[str, tuple[Reply, Answer, bool]]] = {
    "201": (CREATED, Created(BroadcastId("7"), "queued"), True),
    "200 of older versions": (Reply({"id": 7}), Created(BroadcastId("7"), ""), True),
    "201 without id": (Reply({"uuid": "0"}, 201), Ambiguous("a success without a broadcast id"), True),
    "201 with a list": (Reply([CREATED.body], 201), Ambiguous("a success without a broadcast id"), True),
    "201 of a proxy": (html(201), Ambiguous("a success without a broadcast id"), True),
    "204": (Reply(status=204), Ambiguous("a success without a broadcast id"), True),
    "bad number": (
        Reply({"urns": {"0": ["Invalid URN: x."]}}, 400),
        Refused("Invalid URN: x.", {0: "Invalid URN: x."}),
        True,
    ),
    "blank text": (Reply({"text": {"eng": ["Blank."]}}, 400), Refused("Blank.", is_about_text=True), True),
    "suspended": (Reply(SUSPENDED, 400), Trouble(f"HTTP 400: {SUSPENDED['non_field_errors'][0]}"), False),
    "400 of a proxy": (html(400), Trouble("HTTP 400 that is not RapidPro's JSON"), False),
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
async def test_each_answer_to_a_broadcast_has_one_meaning(reply: Reply, answer: Answer, counted: bool) -> None:
    with answering(reply) as asked:
        async with client() as rapidpro:
            assert await rapidpro.post_broadcast(BASE, BROADCAST) == answer
            later = asyncio.get_running_loop().time() + 60
            assert (rapidpro.budget.open, rapidpro.budget.left(later)) == (0, PER_HOUR - counted)
    assert asked.names == ["POST broadcasts.json"], "sent once, whatever the answer"


@pytest.mark.parametrize("status", [200, 400, 403, 404, 500])
@pytest.mark.parametrize("key", ["detail", "text", "urns", "non_field_errors", "status"])
async def test_a_server_that_quotes_the_token_gets_it_into_no_result(key: str, status: int) -> None:
    """A reason goes into the log, the state of a task and the page."""
    quoting = Reply({"id": 1, key: [f"the token {TOKEN} may not", {"0": TOKEN}]}, status)
    with answering(quoting):
        async with client() as rapidpro:
            with capture_logs() as logs:
                results = [
                    await rapidpro.post_broadcast(BASE, BROADCAST),
                    await rapidpro.probe(BASE),
                    await rapidpro.list_broadcasts(BASE, 0, None, None),
                ]
    assert TOKEN not in f"{results} {logs} {rapidpro.health.error!r}"


async def test_the_token_is_in_no_log_and_no_answer() -> None:
    quoting = Reply({"detail": f"Invalid token {TOKEN}"}, 403)
    with capture_logs() as logs, answering(quoting):
        async with client() as rapidpro:
            await rapidpro.post_broadcast(BASE, BROADCAST)
            assert TOKEN not in f"{logs} {rapidpro.health.error!r} {rapidpro!r} {vars(rapidpro)}"
    assert [entry["event"] for entry in logs] == ["dependency.refused"]


async def test_429s_of_requests_in_flight_together_are_told_once() -> None:
    with capture_logs() as logs:
        async with scripted(always(throttled("7"))) as server, client() as rapidpro:
            await asyncio.gather(*(rapidpro.post_broadcast(server.url, BROADCAST) for _ in range(4)))
            now = asyncio.get_running_loop().time()
            assert 6 < rapidpro.budget.delay(now) <= 7
    assert [(entry["event"], entry["retry_after"]) for entry in logs] == [("rapidpro.throttled", 7.0)]


PROBES: Final[dict[str, tuple[Reply, Answer | None]]] = {
    "well": (Reply({"uuid": "0", "name": "Clinic"}), None),
    "bad token": (Reply({"detail": "Invalid token"}, 403), Trouble("HTTP 403: Invalid token")),
    "throttled": (throttled("7"), Throttled(7.0)),
    "a proxy's page": (HTML, Ambiguous("a success without a broadcast id")),
    "500": (html(500), Ambiguous("HTTP 500")),
}


@pytest.mark.parametrize(("reply", "answer"), PROBES.values(), ids=PROBES)
async def test_a_probe_fails_with_the_meaning_of_its_answer(reply: Reply, answer: Answer | None) -> None:
    with answering(reply) as asked:
        async with client() as rapidpro:
            assert await rapidpro.probe(BASE) == answer
    assert asked.names == ["GET workspace.json"]


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
    with answering(reply):
        async with client() as rapidpro:
            assert rapidpro.hides_urns(BASE) is None
            if "anon" in str(reply.body):
                await rapidpro.probe(BASE)
            else:
                await rapidpro.post_broadcast(BASE, BROADCAST)
            assert rapidpro.hides_urns(BASE) is hides
            assert rapidpro.hides_urns("http://elsewhere.test") is None


ROWS: Final = Reply({"next": "http://elsewhere.test/api/v2/messages.json?cursor=c2&after=x", "results": [{"id": 1}]})
LISTINGS: Final[dict[str, tuple[Reply, Rows | ListFailure]]] = {
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
async def test_each_answer_to_a_listing_has_one_meaning(reply: Reply, answer: Rows | ListFailure) -> None:
    with answering(reply) as asked:
        async with client() as rapidpro:
            assert await rapidpro.list_rows(BASE, Listing.MESSAGES, {"folder": "sent"}, "c1") == answer
            assert rapidpro.budget.left(0) == PER_HOUR, "messages.json has a scope of its own"
            assert rapidpro.health.error is None, "a refused listing says nothing about sending"
    assert asked.names == ["GET messages.json"]


async def test_a_429_closes_the_scope_that_it_is_about() -> None:
    with answering(throttled("7")):
        async with client() as rapidpro:
            await rapidpro.list_rows(BASE, Listing.RUNS, {}, None)
            now = asyncio.get_running_loop().time()
            delays = {scope: rapidpro.budgets[scope].delay(now) > 0 for scope in Scope}
    assert delays == {Scope.GENERAL: False, Scope.MESSAGES: False, Scope.RUNS: True}

"""Scripted trouble looks like the real thing to a client, and the simulator knows what took effect."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from demo.rapidpro import Answer, Delay, Fault, HalfBody, Hang, RapidPro, Reset

from . import client

BODY = {"urns": ["tel:+254712345678"], "text": "Habari"}
FOREVER = 3600.0


@pytest.fixture
async def rapidpro() -> AsyncIterator[RapidPro]:
    async with RapidPro(token="secret") as simulator:
        yield simulator


@pytest.fixture
async def api(rapidpro: RapidPro) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(rapidpro) as session:
        yield session


async def status(api: aiohttp.ClientSession, body: object = BODY) -> int:
    async with api.post("broadcasts.json", json=body, allow_redirects=False) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, "<h1>Server Error (500)</h1>"),
        Answer(502, "<h1>Bad Gateway</h1>"),
        Answer(408),
        Answer(400, "<h1>Bad Request</h1>"),
        Answer(404, "<h1>Not Found</h1>"),
        Answer(301, headers={"Location": "https://elsewhere.example/"}),
        Answer(429, '{"detail":"Request was throttled."}', "application/json", {"Retry-After": "7"}),
        Answer(403, '{"detail":"Invalid token"}', "application/json"),
    ],
    ids=lambda answer: str(answer.status),
)
async def test_an_answer_that_is_not_the_apis(
    rapidpro: RapidPro, api: aiohttp.ClientSession, answer: Answer, after: bool
) -> None:
    rapidpro.fail(Fault("POST broadcasts", answer, after=after))
    async with api.post("broadcasts.json", json=BODY, allow_redirects=False) as response:
        assert (response.status, await response.text()) == (answer.status, answer.body)
        assert response.headers["Content-Type"] == answer.content_type
        assert answer.headers.items() <= response.headers.items()
    assert len(rapidpro.broadcasts) == after
    assert await status(api) == 201  # once is once
    assert [call.status for call in rapidpro.calls] == [answer.status, 201]
    assert [call.faulty for call in rapidpro.calls] == [True, False]
    assert [call.broadcast for call in rapidpro.calls] == ([1, 2] if after else [None, 1])


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("trouble", "seen"),
    [
        (Reset(), (aiohttp.ServerDisconnectedError, ConnectionResetError, aiohttp.ClientOSError)),
        (HalfBody(), (aiohttp.ClientPayloadError,)),
        (Hang(seconds=0.01), (aiohttp.ServerDisconnectedError, ConnectionResetError, aiohttp.ClientOSError)),
    ],
    ids=["reset", "half_body", "hang_ends"],
)
async def test_no_whole_answer(
    rapidpro: RapidPro,
    api: aiohttp.ClientSession,
    trouble: Reset | HalfBody | Hang,
    seen: tuple[type[Exception], ...],
    after: bool,
) -> None:
    rapidpro.fail(Fault("any", trouble, after=after))
    with pytest.raises(seen):
        await status(api)
    assert len(rapidpro.broadcasts) == after
    assert await status(api) == 201


async def test_a_late_answer_is_the_right_one(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    rapidpro.fail(Fault("POST broadcasts", Delay(0.05)))
    rapidpro.wire.latency = 0.05
    start = asyncio.get_running_loop().time()
    assert await status(api) == 201
    assert asyncio.get_running_loop().time() - start >= 0.1


async def test_a_fault_hits_the_requests_that_it_names_as_often_as_it_says(
    rapidpro: RapidPro, api: aiohttp.ClientSession
) -> None:
    rapidpro.fail(Fault("GET messages", Answer(503), times=None))
    rapidpro.fail(Fault("POST broadcasts", Answer(502), times=2, contains="é"))
    rapidpro.fail(Fault("POST broadcasts", Answer(504), contains="+254712345679"))
    other = {"urns": ["tel:+254712345679"], "text": "plain"}
    accented = BODY | {"text": "café"}
    bodies = [BODY, accented, other, other, accented, accented]
    assert [await status(api, body) for body in bodies] == [201, 502, 504, 201, 502, 201]
    rapidpro.clear_faults()
    async with api.get("messages.json") as response:
        assert response.status == 200


async def arrival(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    """Ask until the POST is in the log."""
    async with asyncio.timeout(30):
        while all(call.method != "POST" for call in rapidpro.calls):
            await listed(api)


async def listed(api: aiohttp.ClientSession) -> int:
    async with api.get("broadcasts.json") as response:
        return len((await response.json())["results"])


@pytest.mark.parametrize("after", [False, True])
async def test_a_call_that_hangs(rapidpro: RapidPro, api: aiohttp.ClientSession, after: bool) -> None:
    rapidpro.fail(Fault("POST broadcasts", Hang(), after=after))
    call = asyncio.create_task(status(api))
    await arrival(rapidpro, api)
    assert (call.done(), await listed(api)) == (False, after)
    call.cancel()
    assert await status(api) == 201


async def test_a_client_that_hung_up_still_gets_its_broadcast(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    rapidpro.fail(Fault("POST broadcasts", Delay(0.2)))
    call = asyncio.create_task(status(api))
    await arrival(rapidpro, api)
    call.cancel()
    async with asyncio.timeout(30):
        while not await listed(api):
            assert call.cancelled()
    assert [call.broadcast for call in rapidpro.calls if call.method == "POST"] == [1]


async def test_stopping_does_not_wait_for_a_hanging_call() -> None:
    async with asyncio.timeout(60):
        async with RapidPro(token="secret") as rapidpro, client(rapidpro) as api:
            rapidpro.fail(Fault("POST broadcasts", Hang(FOREVER)))
            call = asyncio.create_task(status(api))
            await arrival(rapidpro, api)
            call.cancel()


async def test_the_call_log_is_bounded() -> None:
    async with RapidPro(token="secret", calls_kept=2) as rapidpro, client(rapidpro) as api:
        for name in ("runs", "messages", "workspace"):
            async with api.get(f"{name}.json?x=1&x=2") as response:
                assert response.status == 200
        assert [(call.target, dict(call.query)) for call in rapidpro.calls] == [
            ("GET messages", {"x": "2"}),
            ("GET workspace", {"x": "2"}),
        ]

"""The simulator as a process of its own, staged over `/control/…` and ended by SIGTERM."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

BODY = {"urns": ["tel:+254712345678"], "text": "Habari"}
OPTIONS = ["--token", "secret", "--progress", "0:wired", "3600:delivered"]


@pytest.fixture
async def process() -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-m", "demo.rapidpro", *OPTIONS]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest.fixture
async def session(process: asyncio.subprocess.Process) -> AsyncIterator[aiohttp.ClientSession]:
    assert process.stdout is not None
    url = json.loads(await process.stdout.readline())["url"]
    async with aiohttp.ClientSession(url, headers={"Authorization": "Token secret"}) as session:
        yield session


async def ask(session: aiohttp.ClientSession, method: str, path: str, body: object = None) -> Any:
    async with session.request(method, path, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_staged_from_outside(process: asyncio.subprocess.Process, session: aiohttp.ClientSession) -> None:
    fault = {"on": "POST broadcasts", "do": {"kind": "status", "status": 502, "body": "bad"}, "after": True}
    await ask(session, "POST", "/control/faults", fault)
    async with session.post("/api/v2/broadcasts.json", json=BODY) as response:
        assert (response.status, await response.text()) == (502, "bad")
    [broadcast] = await ask(session, "GET", "/control/broadcasts")
    assert (broadcast["id"], broadcast["urns"], broadcast["text"]) == (1, BODY["urns"], "Habari")
    [message] = await ask(session, "GET", "/control/messages")
    assert (message["broadcast"], message["status"]) == (1, "wired")
    await ask(session, "POST", "/control/move", {"broadcast": 1, "status": "delivered"})
    await ask(session, "POST", "/control/receive", {"urn": "tel:+254712345679", "text": "hi", "flow": "CHT"})
    rows = (await ask(session, "GET", "/api/v2/messages.json"))["results"]
    assert [(row["direction"], row["status"]) for row in rows] == [("in", "handled"), ("out", "delivered")]
    [post, listing] = await ask(session, "GET", "/control/calls")
    assert (post["method"], post["status"], post["broadcast"]) == ("POST", 502, 1)
    assert (listing["path"], listing["scope"]) == ("/api/v2/messages.json", "v2.messages")
    contact = {"urns": ["tel:+254712345670"], "name": "Cat", "status": "blocked"}
    assert (await ask(session, "POST", "/control/contacts", contact))["name"] == "Cat"
    await ask(session, "POST", "/control/faults", {"on": "any", "do": {"kind": "reset"}, "times": None})
    assert await ask(session, "GET", "/control") == {
        "broadcasts": 1,
        "messages": 2,
        "runs": 1,
        "calls": 2,
        "faults": 1,
    }
    await ask(session, "DELETE", "/control/faults")
    await ask(session, "PATCH", "/control/settings", {"requests_per_hour": 0, "latency": 0.0, "tokens": ["a"]})
    for token, status in (("secret", 403), ("a", 429)):
        headers = {"Authorization": f"Token {token}"}
        async with session.get("/api/v2/runs.json", headers=headers) as response:
            assert response.status == status
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "named"),
    [
        ("POST", "/control/faults", {"on": "any", "do": {"kind": "reset"}, "tmies": 2}, "tmies"),
        ("POST", "/control/faults", {"on": "GET nothing", "do": {"kind": "reset"}}, "GET nothing"),
        ("PATCH", "/control/settings", {"latence": 1}, "latence"),
        ("POST", "/control/move", {"broadcast": 7, "status": "sent"}, "7"),
    ],
)
async def test_a_mistake_is_named(
    session: aiohttp.ClientSession, method: str, path: str, body: object, named: str
) -> None:
    async with session.request(method, path, json=body) as response:
        assert response.status == 400
        assert named in await response.text()


@dataclass
class Endpoint:
    """A webhook that keeps what it is sent; `status`: its answer."""

    status: int = 200
    calls: list[tuple[dict[str, str], Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.calls.append((dict(request.headers), await request.json()))
        return web.json_response({"saved": 1}, status=self.status)


async def test_a_flow_calls_the_webhook_once_with_the_headers_of_the_engine(session: aiohttp.ClientSession) -> None:
    endpoint = Endpoint()
    application = web.Application()
    application.router.add_post("/webhook", endpoint.answer)
    async with TestServer(application) as server:
        webhook = {"url": str(server.make_url("/webhook")), "key": "secret key", "id_is": "message"}
        await ask(session, "PATCH", "/control/settings", {"webhook": webhook})
        sent = {"urn": "tel:+254712345679", "text": "PREG Amina 12", "flow": "CHT"}
        message = await ask(session, "POST", "/control/receive", sent)
        endpoint.status = 503
        await ask(session, "PATCH", "/control/settings", {"webhook": {**webhook, "id_is": "run", "mode": "simulation"}})
        await ask(session, "POST", "/control/receive", sent)
        await ask(session, "POST", "/control/receive", {**sent, "flow": None})
    [(headers, body), (tried, in_run)] = endpoint.calls
    assert body == {"id": message["uuid"], "from": "+254712345679", "content": "PREG Amina 12"}
    wanted = {"Authorization": "Token secret key", "X-Mailroom-Mode": "normal", "Content-Type": "application/json"}
    assert {name: headers[name] for name in wanted} == wanted
    assert "Transfer-Encoding" not in headers
    assert tried["X-Mailroom-Mode"] == "simulation"
    [_, run] = (await ask(session, "GET", "/api/v2/runs.json"))["results"][::-1]
    assert in_run["id"] == run["uuid"]

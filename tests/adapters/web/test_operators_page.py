"""The operator's page over HTTP: its policy, its stream, and that however many look, it is drawn once a second."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from cht_rapidpro.adapters.web.admin import Admin
from cht_rapidpro.adapters.web.operators_page import MAX_LISTENERS, OperatorsPage
from cht_rapidpro.domain.history import Event, History, MessageEvent, MessageRef
from cht_rapidpro.telemetry.metrics import Metrics
from tests.page.sight import NOW, view
from tests.support.fault_proxy import until
from tests.support.virtual_time import jump


@dataclass
class Shown:
    """A listener with the page, and a client; `drawn`: how often its state was asked for."""

    url: str = ""
    history: History = field(default_factory=History)
    status: dict[str, Any] = field(default_factory=lambda: dict(view().status))
    drawn: int = 0
    admin: Admin = field(init=False)
    client: aiohttp.ClientSession = field(init=False)

    def snapshot(self) -> dict[str, Any]:
        self.drawn += 1
        return self.status

    async def get(self, path: str = "/", **headers: str) -> tuple[aiohttp.ClientResponse, str]:
        async with self.client.get(f"{self.url}{path}", headers=headers) as answer:
            return answer, await answer.text()

    async def listen(self) -> aiohttp.ClientResponse:
        return await self.client.get(f"{self.url}/events")


@asynccontextmanager
async def showing() -> AsyncIterator[Shown]:
    shown = Shown()
    shown.admin = Admin("127.0.0.1:0", shown.snapshot, Metrics())
    OperatorsPage(shown.snapshot, shown.history, lambda: NOW).add_to(shown.admin.application)
    connector = aiohttp.TCPConnector(limit=0)
    async with shown.admin, aiohttp.ClientSession(connector=connector) as shown.client:
        shown.url = f"http://{shown.admin.address}"
        yield shown


async def news(stream: aiohttp.ClientResponse) -> dict[str, str]:
    """The next event of a stream."""
    line = await stream.content.readline()
    assert await stream.content.readline() == b"\n"
    parts: dict[str, str] = json.loads(line.removeprefix(b"data: "))
    return parts


async def test_the_page_is_whole_by_itself_and_forbids_all_else() -> None:
    async with showing() as shown:
        answer, text = await shown.get()
        policy = answer.headers["Content-Security-Policy"]
        assert answer.content_type == "text/html"
        assert "All flows. 3 messages waiting, oldest 2 s." in text
        assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in text
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "style=" not in text
        for path, kind in (("/page.css", "text/css"), ("/page.js", "text/javascript")):
            answer, _ = await shown.get(path)
            assert (answer.content_type, answer.headers["X-Content-Type-Options"]) == (kind, "nosniff")


async def test_the_page_refuses_a_foreign_host() -> None:
    async with showing() as shown:
        for path in ("/", "/events", "/page.js"):
            answer, _ = await shown.get(path, Host="evil.example")
            assert answer.status == 421


async def test_a_search_finds_what_is_remembered_and_quotes_nothing_as_html() -> None:
    async with showing() as shown:
        about = MessageRef("doc-1", "uuid-1", "…678", "17")
        shown.history.note(Event(NOW, MessageEvent("outgoing", "sent", about)), now=0.0)
        for query in ("doc-1", "uuid-1", "17", " 17 "):
            _, text = await shown.get(f"/?q={query}")
            assert '<div id="found"><table>' in text
        _, text = await shown.get("/?q=%22%3E%3Cscript%3E%00%FF")
        assert "Nothing about it among the last 500 events" in text
        assert "<script>" not in text
        assert "q=" not in (await shown.get())[1]


async def test_a_listener_gets_all_parts_and_then_those_that_change() -> None:
    async with showing() as shown:
        stream = await shown.listen()
        assert stream.content_type == "text/event-stream"
        assert {"clock", "headline", "flow", "dependencies", "charts", "events"} <= (await news(stream)).keys()
        about = MessageRef("doc-1")
        shown.history.note(
            Event(NOW, MessageEvent("outgoing", "refused", about)), now=asyncio.get_running_loop().time()
        )
        jump(1.0)
        changed = await news(stream)
        assert "doc-1" in changed["events"]
        assert not changed.keys() & {"headline", "dependencies"}
        stream.close()


async def test_the_page_is_drawn_at_most_once_a_second_and_not_without_requests() -> None:
    async with showing() as shown:
        streams = [await shown.listen() for _ in range(3)]
        for stream in streams:
            await news(stream)
        for _ in range(10):
            await shown.get()
        assert shown.drawn == 1
        jump(1.0)
        for stream in streams:
            await news(stream)
        assert shown.drawn == 2
        for stream in streams:
            stream.close()

        async def is_still() -> bool:
            drawn = shown.drawn
            for _ in range(3):
                jump(60.0)
                await asyncio.sleep(0.02)
            return shown.drawn == drawn

        await until(is_still)


async def test_there_are_so_many_places_and_one_that_is_left_is_free_again() -> None:
    async with showing() as shown:
        streams = [await shown.listen() for _ in range(MAX_LISTENERS)]
        answer, _ = await shown.get("/events")
        assert answer.status == 503
        streams[0].close()

        async def is_free() -> bool:
            jump(1.0)
            stream = await shown.listen()
            stream.close()
            return stream.status == 200

        await until(is_free)
        for stream in streams:
            stream.close()


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_sites_page_takes_no_place(site: str) -> None:
    async with showing() as shown:
        answer, _ = await shown.get("/events", **{"Sec-Fetch-Site": site})
        assert answer.status == 403


async def test_a_reader_that_does_not_read_is_dropped() -> None:
    async with showing() as shown:
        host, _, port = shown.url.removeprefix("http://").partition(":")
        before = len(asyncio.all_tasks())
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in await reader.readline()
        assert len(asyncio.all_tasks()) > before
        shown.status["dependencies"] = [
            {"name": "couchdb", "condition": "lost", "for_seconds": 1, "last_error": "x" * 1_000_000}
        ]

        async def is_dropped() -> bool:
            jump(3.0)
            shown.status["dependencies"][0]["for_seconds"] += 1
            return len(asyncio.all_tasks()) == before

        await until(is_dropped)
        writer.close()


async def test_the_streams_end_at_once_when_the_listener_does() -> None:
    async with showing() as shown:
        stream = await shown.listen()
        await news(stream)
        before = asyncio.get_running_loop().time()
        await shown.admin.__aexit__(None, None, None)
        assert await stream.content.read() == b""
        assert asyncio.get_running_loop().time() - before < 0.5

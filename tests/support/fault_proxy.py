"""A door before CouchDB that a test can hold, close, or let things happen at.

An HTTP server of its own, between the gateway and the stand-in or a real CouchDB: everything passes unchanged unless
the test has asked for something. So that a test can say "just before the claim is written, somebody clears the task".
"""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from demo.couchdb import CouchDBServer
from tests.support.serving import serving

Hook = Callable[[], Awaitable[None]]
_LONG = 1024 * 1024
_HOP_BY_HOP = {"Transfer-Encoding", "Content-Length", "Connection", "Keep-Alive", "Content-Encoding", "Date", "Server"}


@dataclass
class Gate:
    """`url` takes CouchDB's place; `requests` are those that came, as `POST _bulk_docs`."""

    user: str
    password: str
    url: str = ""
    requests: list[str] = field(default_factory=list)
    is_closed: bool = False  # every connection is cut
    loses_answers: bool = False  # writes take effect, their answers do not arrive
    replies: Callable[[str, bytes], Awaitable[web.Response | None]] | None = None  # in CouchDB's place, to a request
    rewrites: Callable[[str, web.Response], web.Response] | None = None  # what CouchDB has answered
    _before: dict[str, list[Hook]] = field(default_factory=dict)

    def before(self, request: str, hook: Hook, times: int = 1) -> None:
        """Runs `hook` before each of the next `times` such requests is passed on."""
        self._before.setdefault(request, []).extend([hook] * times)

    def cuts(self) -> bool:
        return self.is_closed

    async def arrive(self, request: str) -> None:
        self.requests.append(request)
        hooks = self._before.get(request)
        if hooks:
            await hooks.pop(0)()


@asynccontextmanager
async def open_gate(couchdb: CouchDBServer) -> AsyncIterator[Gate]:
    """A gate before this server, open."""
    gate = Gate(couchdb.user, couchdb.password)
    async with aiohttp.ClientSession(auto_decompress=True) as session:

        async def handle(request: web.Request) -> web.StreamResponse:
            name = f"{request.method} {request.path.rpartition('/')[2]}"
            await gate.arrive(name)
            if gate.cuts():
                return _cut(request)
            sent = await request.read()
            if gate.replies is not None and (reply := await gate.replies(name, sent)) is not None:
                return reply
            headers = {key: value for key, value in request.headers.items() if key not in {"Host", "Content-Length"}}
            try:
                async with session.request(
                    request.method,
                    f"{couchdb.url}{request.raw_path}",
                    headers=headers,
                    data=io.BytesIO(sent),
                ) as answer:
                    body = await answer.read()
            except aiohttp.ClientError:
                return _cut(request)  # as from CouchDB itself
            if gate.cuts() or (gate.loses_answers and name == "POST _bulk_docs"):
                return _cut(request)
            kept = {key: value for key, value in answer.headers.items() if key not in _HOP_BY_HOP}
            response = web.Response(status=answer.status, headers=kept, body=body)
            if gate.rewrites is not None:
                response = gate.rewrites(name, response)
            if isinstance(response.body, bytes) and len(response.body) > _LONG:
                response.body = io.BytesIO(response.body)  # aiohttp warns of megabytes of plain bytes
            return response

        async with serving(handle) as gate.url:
            yield gate


def _cut(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def until(condition: Callable[[], bool | Awaitable[bool]], deadline: float = 60.0) -> None:
    """Returns as soon as the condition holds; TimeoutError when it never does.

    `deadline`: real seconds, so many that a laden machine is no reason to fail.
    """
    end = time.monotonic() + deadline  # not the loop's time: a test may jump
    while time.monotonic() < end:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError

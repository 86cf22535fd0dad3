"""An HTTP server whose every answer the test has written, byte by byte.

For what neither the stand-in nor a real server can be made to say: numbers that JavaScript cannot hold, half a body, a
proxy's page, a CouchDB without `_selector`. It keeps every request that came, since what was *not* sent is half of what
these tests prove.
"""

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from aiohttp import web

from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import Secret
from tests.support.serving import serving

PASSWORD: Final = "correct horse battery staple"


@dataclass(frozen=True)
class Request:
    """`name`: method and the last part of the path, as `POST _bulk_docs`; `target`: as it stood in the first line."""

    name: str
    target: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """A whole answer; a body that is not bytes is sent as JSON."""

    body: object = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    @property
    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Raw:
    """These bytes on the socket and then its end; without any, a reset."""

    data: bytes = b""


RESET: Final = Raw()
HALF_A_BODY: Final = Raw(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"id":7,')
HTML: Final = Reply(b"<html>Welcome to the proxy</html>", content_type="text/html")

Script = Callable[[Request], Awaitable[Reply | Raw]]


@dataclass
class Scripted:
    """A running server: `url` without a slash at its end."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [request.name for request in self.requests]

    def named(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.name == name]


@asynccontextmanager
async def scripted(script: Script, at: socket.socket | None = None) -> AsyncIterator[Scripted]:
    """Answers everything as the script says. `at`: a socket that has its address, where it must be known before."""
    server = Scripted()

    async def handle(request: web.Request) -> web.StreamResponse:
        name = f"{request.method} {request.path.rpartition('/')[2]}"
        seen = Request(name, str(request.raw_path), dict(request.query), dict(request.headers), await request.read())
        server.requests.append(seen)
        return _send(request, await script(seen))

    async with serving(handle, at) as server.url:
        yield server


def _send(request: web.Request, reply: Reply | Raw) -> web.StreamResponse:
    if isinstance(reply, Reply):
        return web.Response(
            body=reply.encoded, status=reply.status, headers=dict(reply.headers), content_type=reply.content_type
        )
    assert request.transport is not None
    if reply.data:
        request.transport.write(reply.data)
        request.transport.close()
    else:
        request.transport.abort()
    return web.Response()


def always(reply: Reply | Raw) -> Script:
    """The same answer to everything."""
    return by_name({}, otherwise=reply)


def by_name(replies: Mapping[str, Reply | Raw], otherwise: Reply | Raw = Reply(status=404)) -> Script:
    """An answer for each name of a request."""

    async def script(request: Request) -> Reply | Raw:
        return replies.get(request.name, otherwise)

    return script


def couchdb_at(server: Scripted) -> Couchdb:
    """The configuration that takes the server for a CouchDB."""
    return Couchdb(url=server.url, user="gateway", password=Secret(PASSWORD))


def exact(text: str | bytes) -> Any:
    """JSON with its numbers as they are written: integers as digits, others as sign and decimal value."""
    return json.loads(text, parse_int=str, parse_float=lambda number: (number[0] == "-", Decimal(number)))

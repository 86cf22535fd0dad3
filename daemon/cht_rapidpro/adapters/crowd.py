"""Servers that leave files to the rest of the daemon, however many connections are opened to them.

Each connection takes a file, and a process without files can neither reach CouchDB nor answer a request. So a server
keeps to a quarter of them: a connection more ends the oldest one that has no request.
"""

import resource
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from cht_rapidpro.adapters.server_log import OnceAMinute

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_MOST: Final = 10_000  # connections of one server
_BACKLOG: Final = 1024  # connections that wait to be taken; asyncio takes as many at once


class BoundedRunner(web.AppRunner):
    """`listener`: which of ours it is, as the log names it. `backlog`: for its sites."""

    def __init__(self, listener: str, application: web.Application, **kwargs: Any) -> None:
        super().__init__(application, **kwargs)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._listener = listener
        self._most = max(1, min(_MOST, files // 4))
        self._told = OnceAMinute()
        self.backlog = max(1, min(_BACKLOG, files // 8))

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        take = server.connection_made

        def connection_made(handler: RequestHandler, transport: object) -> None:
            take(handler, transport)  # type: ignore[arg-type]
            self._make_room(server, handler)

        server.connection_made = connection_made  # type: ignore[method-assign]
        return server

    def _make_room(self, server: web.Server, newest: RequestHandler) -> None:
        """aiohttp lists its connections in the order in which they came."""
        if len(server.connections) <= self._most:
            return
        others = [each for each in server.connections if each.transport is not None and not each.transport.is_closing()]
        if len(others) <= self._most:
            return
        idle = (each for each in others if each is not newest and each._current_request is None)
        next(idle, newest).force_close()
        if times := self._told.count("crowded"):
            log.warning("listener.crowded", listener=self._listener, connections=self._most, times=times)

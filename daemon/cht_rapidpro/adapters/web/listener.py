"""HTTP servers that leave files to the rest of the daemon, however many connections are opened to them.

Each connection takes a file, and a process without files can neither ask CouchDB nor answer a client. So a server takes
a connection only while it has fewer than a quarter of the files. The others wait in the kernel, where they take none,
until there is room: the connection that has been without a request for longest is ended for the next one.
"""

import asyncio
import math
import resource
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, cast

import structlog
from aiohttp import web

from cht_rapidpro.adapters.web.server_log import OnceAMinute, ServerLog
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.concurrency.timing import loop_time, wait_for_event

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_MOST: Final = 10_000  # connections of one server
_BACKLOG: Final = 1024  # connections that wait in the kernel
# Seconds without a request until a connection may be ended for another one: a flow sends its request at once, and of
# a thousand connections that send none all are through in the 15 s that a flow waits.
_IDLE: Final = 1.0
_PAUSE: Final = 1.0  # seconds after a connection that could not be taken

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener:
    """Serves `served` while it is entered, once it was told where. `name`: as the log names it.

    `served`: an application, or one handler for every request, which costs a third less.
    `options`: of aiohttp's server. `addresses`: as `getsockname()` gives them.
    """

    def __init__(
        self, name: str, served: web.Application | Handler, *, shutdown_timeout: float = 60.0, **options: Any
    ) -> None:
        self._name = name
        self._served = served
        self._options = {"access_log": None, "logger": ServerLog(name), **options}
        self._shutdown_timeout = shutdown_timeout
        self._runner: web.BaseRunner | None = None
        self._most = max(1, min(_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._open: dict[asyncio.BaseTransport | None, _Connection] = {}
        self._idle: dict[_Connection, float] = {}  # those without a request and since when (loop time), longest first
        self._changed = asyncio.Event()
        self._reported = OnceAMinute()
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._leaves_queue = False
        self.addresses: list[Any] = []

    def __len__(self) -> int:
        """The connections that are open."""
        return len(self._open)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._runner = self._new_runner()
            await self._runner.setup()
            stack.push_async_callback(self._runner.cleanup)
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.push_async_callback(self.stop_accepting)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Requests that have come are answered, within the `shutdown_timeout`."""
        await self._stack.__aexit__(kind, error, trace)

    def _new_runner(self) -> web.BaseRunner:
        if isinstance(self._served, web.Application):
            self._served.middlewares.insert(0, cast("Any", self._mark))
            return web.AppRunner(self._served, shutdown_timeout=self._shutdown_timeout, **self._options)
        server = web.Server(partial(self._mark, handler=self._served), **self._options)
        return web.ServerRunner(server, shutdown_timeout=self._shutdown_timeout)

    async def listen(self, host: str, port: int) -> None:
        """Raises OSError where it cannot."""
        bound = await asyncio.get_running_loop().create_server(self._connection, host, port, start_serving=False)
        sockets = [each.dup() for each in bound.sockets]
        bound.close()
        try:
            self.listen_at(sockets)
        except OSError:
            for each in sockets:
                each.close()
            raise

    def listen_at(self, sockets: Sequence[socket.socket], *, leaves_queue: bool = False) -> None:
        """`leaves_queue`: at the end, the connections that wait in the kernel are left to another process."""
        for each in sockets:
            each.setblocking(False)
            each.listen(_BACKLOG)
        self._sockets, self._leaves_queue = list(sockets), leaves_queue
        self.addresses = [each.getsockname() for each in sockets]
        self._accepting = [self._tasks.create_task(self._accept(each)) for each in sockets]

    async def stop_accepting(self) -> None:
        """Takes the connections that wait already, as far as there is room, and no other."""
        await end(*self._accepting)
        for each in self._sockets:
            with suppress(OSError):  # none waits, or one was aborted
                while not self._leaves_queue and len(self._open) < self._most:
                    accepted, _ = each.accept()
                    accepted.setblocking(False)
                    await self._connect(accepted)
            each.close()
        self._sockets, self._accepting = [], []

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._make_room()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:  # no file is left, for one
                if times := self._reported.count(error.errno):
                    log.error("listener.failed", listener=self._name, error=error.strerror, times=times)
                await asyncio.sleep(_PAUSE)
                continue
            # The end of this task must not end the connection.
            await asyncio.shield(self._tasks.create_task(self._connect(accepted)))

    async def _connect(self, accepted: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._connection, accepted)

    async def _make_room(self) -> None:
        while len(self._open) >= self._most:
            if times := self._reported.count("crowded"):
                log.warning("listener.crowded", listener=self._name, connections=self._most, times=times)
            wait = math.inf
            if longest := next(iter(self._idle), None):
                wait = self._idle[longest] + _IDLE - loop_time()
                if wait <= 0:
                    del self._idle[longest]
                    longest.abort()
                    wait = math.inf  # its end sets `changed`
            self._changed.clear()
            await wait_for_event(self._changed, wait)

    def _connection(self) -> "_Connection":
        server = self._runner.server if self._runner else None
        if server is None:
            raise RuntimeError("no server: the listener is not entered")
        return _Connection(self, server())

    def opened(self, connection: "_Connection") -> None:
        self._open[connection.transport] = connection
        self._rest(connection)

    def closed(self, connection: "_Connection") -> None:
        self._open.pop(connection.transport, None)
        self._idle.pop(connection, None)
        self._changed.set()

    def _rest(self, connection: "_Connection") -> None:
        self._idle[connection] = loop_time()
        self._changed.set()

    @web.middleware
    async def _mark(self, request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
        """A connection is not idle while a request of it is answered."""
        connection = self._open.get(request.transport)
        if connection is not None:
            self._idle.pop(connection, None)
        try:
            return await handler(request)
        finally:
            if connection is not None and connection.transport in self._open:
                self._rest(connection)


class _Connection(asyncio.Protocol):
    """Tells `listener` of a connection's beginning and end, and passes all on to `handler`, the HTTP server's."""

    def __init__(self, listener: Listener, handler: asyncio.Protocol) -> None:
        self._listener = listener
        self._handler = handler
        self.transport: asyncio.Transport | None = None

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self.transport = transport
        self._handler.connection_made(transport)
        self._listener.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._handler.connection_lost(exc)
        self._listener.closed(self)

    def data_received(self, data: bytes) -> None:
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

"""The admin listener: the daemon's status for people, for Prometheus and for monitoring.

It asks for no password, so it is for this machine only. A web page in a browser on this machine can send requests to
it, but can read the answers only if its own host name points here (DNS rebinding). So a request that names another host
is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import structlog
from aiohttp import web

from cht_rapidpro.adapters.web.listener import Listener
from cht_rapidpro.config.addresses import is_loopback, read_address
from cht_rapidpro.domain.findings import Finding, Level
from cht_rapidpro.telemetry.metrics import CONTENT_TYPE, Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_STOP_TIME: Final = 1.0  # seconds; an open event stream does not end by itself

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """Listens at `listen` while it is entered; "" means not at all. `address`: the bound address, None if there is
    none.

    `snapshot` returns the answer of `/status`. Its `state` and `paused` are the answer of `/ready`, which is 503 if its
    `stores` is False; its `figures` are the gauges of `/metrics`. More routes may be added to `application` before.
    """

    def __init__(self, listen: str, snapshot: Callable[[], Mapping[str, Any]], metrics: Metrics) -> None:
        self._listen = listen
        self._snapshot = snapshot
        self._metrics = metrics
        self.application = web.Application(middlewares=[self._refuse_other_hosts])
        self.address: str | None = None
        self._problem = ""
        router = self.application.router
        router.add_get("/health", self._health)
        router.add_get("/ready", self._ready)
        router.add_get("/metrics", self._show_metrics)
        router.add_get("/status", self._status)

    async def __aenter__(self) -> Self:
        """An address that cannot be listened at is one ERROR: messages go their way without it."""
        async with AsyncExitStack() as stack:
            self._listener = Listener("admin", self.application, shutdown_timeout=_STOP_TIME)
            await stack.enter_async_context(self._listener)
            if self._listen:
                await self._start()
            self._stack = stack.pop_all()
        return self

    async def _start(self) -> None:
        try:
            await self._listener.listen(*read_address(self._listen))
        except OSError as error:
            self._problem = error.strerror or str(error)
            log.error("admin.unavailable", listen=self._listen, error=self._problem)
        else:
            bound = self._listener.addresses[0]
            self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
            log.info("admin.listening", address=self.address)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def problems(self) -> Iterator[Finding]:
        """The finding that the admin listener does not listen; systemd's line and the log show it."""
        if self._problem:
            yield Finding(
                Level.BROKEN,
                "The admin listener does not listen.",
                advice=f"[admin] listen: {self._listen} cannot be listened at: {self._problem}. Name another address,"
                " or end the process that has it, and restart the daemon.",
            )

    @web.middleware
    async def _refuse_other_hosts(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _host(request.headers.get("Host", ""))
        if not is_loopback(host) and host != read_address(self._listen)[0].lower():
            raise web.HTTPMisdirectedRequest(text="This listener is called by the name of its own machine only.\n")
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        """A daemon that is broken for other reasons still takes webhooks, so a proxy must not turn them away."""
        snapshot = self._snapshot()
        status = HTTPStatus.OK if snapshot["stores"] else HTTPStatus.SERVICE_UNAVAILABLE
        return web.json_response({"state": snapshot["state"], "paused": snapshot["paused"]}, status=status)

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        body = await asyncio.to_thread(self._metrics.render, self._snapshot()["figures"])
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response(self._snapshot(), headers={"Cache-Control": "no-store"})


def _host(header: str) -> str:
    """Returns the host of a `Host` header, without its port, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()

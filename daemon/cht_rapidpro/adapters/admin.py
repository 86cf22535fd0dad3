"""The admin listener: how the daemon does, for people, for Prometheus and for whatever watches over it.

For this machine alone: it asks for no password. A page in a browser on this machine may send requests to it, too; what
it may not do is read the answers, unless its own name was made to point here (DNS rebinding). So a request that names
another host than this one is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import structlog
from aiohttp import web

from cht_rapidpro.adapters.crowd import BoundedRunner
from cht_rapidpro.adapters.server_log import ServerLog
from cht_rapidpro.config_values import is_loopback, read_address
from cht_rapidpro.metrics import CONTENT_TYPE, Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_STOP_TIME: Final = 1.0  # seconds; a stream that is open has no end of its own

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """Listens at `listen` while it is entered; "" means not at all. `address`: where it does, None if it does not.

    `snapshot` gives what `/status` answers; its `state` and `paused` are `/ready`'s, which is 503 where its `stores` is
    False, and its `figures` are the gauges of `/metrics`. More routes may be added to `application` before.
    """

    def __init__(self, listen: str, snapshot: Callable[[], Mapping[str, Any]], metrics: Metrics) -> None:
        self._listen = listen
        self._snapshot = snapshot
        self._metrics = metrics
        self.application = web.Application(middlewares=[self._refuse_other_hosts])
        self.address: str | None = None
        router = self.application.router
        router.add_get("/health", self._health)
        router.add_get("/ready", self._ready)
        router.add_get("/metrics", self._show_metrics)
        router.add_get("/status", self._status)

    async def __aenter__(self) -> Self:
        """An address that cannot be listened at is one ERROR: messages go their way without it."""
        self._runner = BoundedRunner(
            "admin", self.application, access_log=None, logger=ServerLog("admin"), shutdown_timeout=_STOP_TIME
        )
        if not self._listen:
            return self
        await self._runner.setup()
        host, port = read_address(self._listen)
        try:
            await web.TCPSite(self._runner, host, port, backlog=self._runner.backlog).start()
        except OSError as error:
            log.error("admin.unavailable", listen=self._listen, error=error.strerror)
        else:
            bound = self._runner.addresses[0]
            self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
            log.info("admin.listening", address=self.address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _refuse_other_hosts(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _host(request.headers.get("Host", ""))
        if not is_loopback(host) and host != read_address(self._listen)[0].lower():
            raise web.HTTPMisdirectedRequest(text="This listener is called by the name of its own machine only.\n")
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        """Broken for other reasons it still takes webhooks, so a proxy before it must not turn them away."""
        snapshot = self._snapshot()
        status = HTTPStatus.OK if snapshot["stores"] else HTTPStatus.SERVICE_UNAVAILABLE
        return web.json_response({"state": snapshot["state"], "paused": snapshot["paused"]}, status=status)

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        body = await asyncio.to_thread(self._metrics.render, self._snapshot()["figures"])
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response(self._snapshot(), headers={"Cache-Control": "no-store"})


def _host(header: str) -> str:
    """The host of a `Host` header, without its port, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()

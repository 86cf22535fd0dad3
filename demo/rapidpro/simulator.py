"""`RapidPro`: a workspace that listens on 127.0.0.1, with the strings that a test pulls.

Everything that a gateway may see of it goes over the socket. The Python side is for staging (faults,
contacts, statuses, incoming messages) and for looking at what RapidPro really holds.
"""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from aiohttp import web

from .api import Api
from .calls import Call
from .control import Control
from .faults import Fault
from .relay import Relay
from .throttle import Throttle
from .wire import Wire
from .workspace import Workspace

IDLE_SECONDS = 5.0  # the usual server closes idle connections early: a reused one may be dead
_NEVER = 1e9  # seconds
STOP_SECONDS = 1.0
CALLS_KEPT = 100_000


class RapidPro(Workspace):
    """Listens while the `async with` block runs; `port` 0 lets the kernel choose, `url` tells it.

    `country` ISO 3166 alpha-2; `latency` seconds before every answer; `requests_per_hour` for each scope, or
    for all calls together with `one_scope`; `clock` seconds since 1970, for timestamps, the Date header, the
    rate limit and the `progress` script: (seconds after creation, status) for each new message. Latency and
    delays are the event loop's time. With another `clock` than the real one idle connections stay open: a loop whose
    time jumps would close them in the middle of a request.
    """

    def __init__(
        self,
        token: str,
        *,
        country: str = "KE",
        requests_per_hour: int | None = None,
        one_scope: bool = False,
        latency: float = 0.0,
        clock: Callable[[], float] = time.time,
        progress: Sequence[tuple[float, str]] = (),
        page_size: int = 250,
        calls_kept: int = CALLS_KEPT,
        port: int = 0,
    ) -> None:
        super().__init__(token, country, clock, progress)
        self.throttle = Throttle(clock, requests_per_hour, one_scope=one_scope)
        self.wire = Wire(self, Api(self, self.throttle, page_size), latency, calls_kept)
        self.relay = Relay(self)
        self.url = ""
        self._port = port
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=False,
            keepalive_timeout=IDLE_SECONDS if clock is time.time else _NEVER,
            shutdown_timeout=STOP_SECONDS,
        )

    @property
    def calls(self) -> Sequence[Call]:
        return self.wire.calls

    def fail(self, fault: Fault) -> None:
        self.wire.faults.add(fault)

    def clear_faults(self) -> None:
        self.wire.faults.clear()

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=0)  # 0: no limit; a body over RapidPro's own is a 500
        application.add_routes(Control(self, self.throttle, self.wire, self.relay).routes())
        application.router.add_route("*", "/{path:.*}", self.wire.handle)
        application.on_shutdown.append(self.wire.stop)
        return application

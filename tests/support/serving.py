"""An HTTP server on a port of the kernel's, for whatever takes the place of a real one before the gateway."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

_NEVER = 1e9  # seconds: a loop whose time jumps would close idle connections in the middle of a request


@asynccontextmanager
async def serving(
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]], at: socket.socket | None = None
) -> AsyncIterator[str]:
    """Every request goes to `handle`, of any size; the URL of the server. `at`: a socket that has its address."""
    application = web.Application(client_max_size=0)
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, keepalive_timeout=_NEVER, shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        await (web.SockSite(runner, at) if at else web.TCPSite(runner, "127.0.0.1", 0)).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()

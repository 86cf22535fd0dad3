"""The control socket: how the commands of this machine reach the running daemon.

A unix socket in the state directory, only for the owner of that directory (mode 0600), who could also stop the
daemon. HTTP with JSON on both sides. A request that is refused is answered 409 with `{"error": sentence}`.
Invariant: the socket belongs to the process that holds the lock on the directory; one that a killed process left is
replaced.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import structlog
from aiohttp import web

from cht_rapidpro.adapters.http.error_words import in_words
from cht_rapidpro.adapters.web.listener import Listener
from cht_rapidpro.errors import PermanentError, TransientError

log: structlog.stdlib.BoundLogger = structlog.get_logger()

SOCKET: Final = "control.sock"
_STOP_TIME: Final = 1.0  # seconds
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
_ABSENT: Final = (errno.ENOENT, errno.ECONNREFUSED)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Control:
    """Listens in `folder` while it is entered. Routes are added before.

    A handler returns a JSON object, and raises PermanentError with a sentence for what it refuses. For handlers that
    need the request there is `application`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.application = web.Application(middlewares=[_refuse])

    def offer(self, method: str, path: str, answer: Callable[[], Mapping[str, Any]]) -> None:
        """Answers a request without a body."""

        async def handle(_request: web.Request) -> web.Response:
            return web.json_response(answer())

        self.application.router.add_route(method, path, handle)

    async def __aenter__(self) -> Self:
        """A socket that cannot be made is one ERROR: messages go their way without it."""
        async with AsyncExitStack() as stack:
            listener = Listener("control", self.application, shutdown_timeout=_STOP_TIME)
            await stack.enter_async_context(listener)
            try:
                listener.listen_at([await asyncio.to_thread(_listen, self._folder)])
            except OSError as error:
                log.error("control.unavailable", folder=str(self._folder), error=error.strerror)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)
        await asyncio.to_thread((self._folder / SOCKET).unlink, missing_ok=True)


@web.middleware
async def _refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except PermanentError as error:
        return web.json_response({"error": str(error)}, status=HTTPStatus.CONFLICT)


def _listen(folder: Path) -> socket.socket:
    """The socket has its mode before it has its name."""
    (folder / SOCKET).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)
        with _short(folder) as path:
            listening.bind(path)
    except BaseException:
        listening.close()
        raise
    return listening


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """The path of the socket through an open folder: the kernel takes 107 bytes, and a path may be longer."""
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{opened}/{SOCKET}"
    finally:
        os.close(opened)


async def ask(folder: Path, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The running daemon's answer to a request, such as `POST /drain`; None where no daemon listens in `folder`.

    Raises PermanentError with the daemon's sentence where it refuses, TransientError where it does not answer.
    """
    try:
        with _short(folder) as place:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(place), timeout=_TIMEOUT) as session,
                session.request(method, f"http://daemon{path}", json=body) as answer,
            ):
                status, found = answer.status, await answer.json()
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _ABSENT:
            return None
        raise TransientError(f"the running daemon does not answer at {folder / SOCKET}: {in_words(error)}") from error
    if not isinstance(found, dict):
        raise TransientError(f"what answers at {folder / SOCKET} is no cht-rapidpro")
    if status != HTTPStatus.OK:
        raise PermanentError(str(found.get("error", f"HTTP {status}")))
    return found

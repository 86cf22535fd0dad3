"""Serves the operator's page, and updates open pages by server-sent events.

Open pages must not slow down the relay: however many are open, the parts are drawn at most once a second, and not at
all while no page is open. A browser that does not read its stream is disconnected, and the number of streams is
limited.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from cht_rapidpro import page
from cht_rapidpro.concurrency.timing import loop_time, wait_for_event
from cht_rapidpro.domain.history import History
from cht_rapidpro.telemetry.logs import masked_id

if TYPE_CHECKING:
    from cht_rapidpro.page.drawing import Drawing

MAX_LISTENERS: Final = 8
_INTERVAL: Final = 1.0  # seconds between two drawings
_PATIENCE: Final = 5.0  # seconds that a browser may take for one event
_FILES: Final = {"page.css": "text/css", "page.js": "text/javascript"}
_CONTENTS: Final = {name: Path(page.__path__[0], name).read_bytes() for name in _FILES}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

Snapshot = Callable[[], Mapping[str, object]]


class OperatorsPage:
    """`snapshot`: the answer of /status. `wall_clock`: ms since the epoch."""

    def __init__(self, snapshot: Snapshot, history: History, wall_clock: Callable[[], int]) -> None:
        self._snapshot = snapshot
        self._history = history
        self._wall_clock = wall_clock
        self._drawn_at = -_INTERVAL
        self._drawing: Drawing | None = None
        self._listeners = 0
        self._stopping = asyncio.Event()

    def add_to(self, application: web.Application) -> None:
        application.router.add_get("/", self._page)
        application.router.add_get("/events", self._events, allow_head=False)
        for name in _FILES:
            application.router.add_get(f"/{name}", self._file)
        application.on_shutdown.append(self._stop)

    async def _page(self, request: web.Request) -> web.Response:
        drawing = await self._draw()
        text = drawing.document(masked_id(request.query.get("q", "").strip()[: page.LONGEST_QUERY]))
        return web.Response(text=text, content_type="text/html", headers=_HEADERS)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/")
        return web.Response(body=_CONTENTS[name], content_type=_FILES[name], charset="utf-8", headers=_HEADERS)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Refuses other sites' pages: they could not read the events, but could use up all the streams."""
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
            raise web.HTTPForbidden(text="Only the operator's page may open this stream.\n")
        if self._listeners >= MAX_LISTENERS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_LISTENERS} pages are open already.\n")
        self._listeners += 1
        try:
            return await self._stream(request)
        finally:
            self._listeners -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        known: Mapping[str, str] = {}
        while not self._stopping.is_set():
            parts = (await self._draw()).parts
            news, known = {name: part for name, part in parts.items() if known.get(name) != part}, parts
            try:
                async with asyncio.timeout(_PATIENCE):
                    await response.write(f"data: {json.dumps(news)}\n\n".encode())
            except (TimeoutError, ConnectionError):
                if request.transport is not None:
                    request.transport.abort()
                break
            await wait_for_event(self._stopping, _INTERVAL)
        return response

    async def _draw(self) -> "Drawing":
        if self._drawing is None:
            await asyncio.to_thread(_load)
        now = loop_time()
        if self._drawing is None or now - self._drawn_at >= _INTERVAL:
            self._drawn_at = now
            self._drawing = _load()(self._snapshot(), self._history, self._wall_clock(), now)
        return self._drawing

    async def _stop(self, _application: web.Application) -> None:
        self._stopping.set()


def _load() -> "type[Drawing]":
    """The page's own modules are in memory only once it was opened."""
    from cht_rapidpro.page.drawing import Drawing  # noqa: PLC0415 - see above

    return Drawing

"""The demo's daemon: installed in a folder of its own for as long as a context lasts, and what its log says.

The process never outlives the context, and the folder never outlives the process: an end by SIGTERM is waited for, and
a daemon that does not come to it is killed.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from demo.couchdb import CouchDBServer
from demo.process import Daemon

_STOP_TIMEOUT: Final = 60.0  # seconds; more than the daemon allows itself
_TROUBLE: Final = frozenset({"warning", "error", "critical"})
_LONG: Final = frozenset({"timestamp", "level", "event", "doc", "message"})


@asynccontextmanager
async def run_daemon(couchdb: CouchDBServer, database: str, rapidpro_url: str, token: str) -> AsyncIterator[Daemon]:
    """A running daemon between the two; at the end it is stopped and its folder deleted."""
    with (
        TemporaryDirectory(prefix="cht-rapidpro-demo-") as folder,
        socket.create_server(("127.0.0.1", 0)) as webhook,
    ):
        # A round a minute is right for a year and too slow for a show of seconds.
        sections = {"delivery": {"interval": "500ms"}}
        daemon = Daemon(Path(folder), couchdb, database, {"url": rapidpro_url}, token, sections, webhook)
        await daemon.start()
        try:
            yield daemon
        finally:
            await end(daemon)


async def end(daemon: Daemon) -> int:
    """SIGTERM, unless it has ended already; its exit code, negative for the signal that killed it."""
    try:
        async with asyncio.timeout(_STOP_TIMEOUT):
            return await daemon.stop()
    except TimeoutError:
        await daemon.kill()
        return await daemon.wait()


def tail(daemon: Daemon, count: int) -> list[str]:
    """The last lines of the log."""
    return daemon.log.read_text("utf-8").splitlines()[-count:]


def troubles(daemon: Daemon, count: int) -> list[str]:
    """The last events that are worse than INFO, in short."""
    return [_in_short(event) for event in daemon.events() if event.get("level") in _TROUBLE][-count:]


def _in_short(event: dict[str, Any]) -> str:
    data = " ".join(f"{key}={value}" for key, value in event.items() if key not in _LONG)
    return f"{event['level'].upper()} {event['event']} {data}"

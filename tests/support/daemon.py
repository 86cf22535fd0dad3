"""The daemon inside the test's own event loop: everything but the command line and the process."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from msgspec.structs import replace

from cht_rapidpro.config.schema import Admin, Config, Couchdb, Delivery, Incoming, Outgoing, Rapidpro
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.daemon import serve
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.task import timestamp
from cht_rapidpro.jobs.live_config.reload import Reload
from demo.database import Database, Doc
from demo.medic import message, task
from demo.process import note_sender
from demo.rapidpro import RapidPro
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

OFF = Delivery(enabled=False)


def configure(
    gate: Gate,
    medic: Database,
    rapidpro: RapidPro | str,
    token: str,
    *,
    delivery: Delivery = OFF,
    **keys: Any,
) -> Config:
    """`keys` of [rapidpro] and [outgoing] differ from the defaults, and `incoming` is that section whole.

    A test never waits for a sweep. Without `delivery` nothing is asked: a test of sending counts RapidPro's requests.
    """
    url = rapidpro if isinstance(rapidpro, str) else rapidpro.url
    own = {name: keys.pop(name) for name in ("requests_per_hour", "max_concurrency", "timeout") if name in keys}
    incoming = keys.pop("incoming", Incoming(listen="127.0.0.1:0"))
    return Config(
        couchdb=Couchdb(url=gate.url, database=medic.name, user=gate.user, password=Secret(gate.password)),
        rapidpro=Rapidpro(url=url, token=Secret(token), **own),
        outgoing=Outgoing(**keys),
        incoming=incoming,
        delivery=delivery,
        admin=Admin(listen=""),
    )


@asynccontextmanager
async def running(
    config: Config,
    me: Instance | None = None,
    reload: Reload | None = None,
    sockets: Sequence[socket.socket] = (),
    clock: Callable[[], int] = wall_clock,
    *,
    is_first: bool = False,
) -> AsyncIterator[asyncio.Event]:
    """Runs it for the length of the block and then does what SIGTERM does: it sets the event that is yielded.

    A crash of the daemon ends the block. `sockets`: where its webhook listens; a test knows their ports.
    Without a spool in the configuration it has one for the length of the block. `clock`: its wall clock, ms.
    `is_first`: another gateway has sent so far; else a state directory without a note gets one that says that we have.
    """
    stop = asyncio.Event()
    with TemporaryDirectory() as folder:
        spool = config.incoming.spool or str(Path(folder, "spool.sqlite3"))
        cht = replace(config.cht, state_dir=config.cht.state_dir or folder)
        if not is_first:
            note_sender(Path(cht.state_dir))
        config = replace(config, cht=cht, incoming=replace(config.incoming, spool=spool))
        reloads = reload or Reload(config, lambda: config, asyncio.Event())
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(config, me or Instance(uuid4().hex, "test"), stop, clock, reloads, sockets=sockets))
            try:
                yield stop
            finally:
                stop.set()


def claimed(owner: Instance, text: str, to: str = "+254712345678", *, ago: float = 0.0) -> Doc:
    """A task that an instance has claimed, so many seconds ago, and not settled."""
    made: Doc = task(message(text, to), state="forwarded-to-gateway", state_details=owner.details)
    moment = timestamp(int(wall_clock() - ago * 1000))
    made["state_history"] = [{"state": "forwarded-to-gateway", "state_details": owner.details, "timestamp": moment}]
    return made


def states(doc: Doc) -> list[str]:
    """The states of all tasks of a document."""
    return [task["state"] for name in ("tasks", "scheduled_tasks") for task in doc.get(name, [])]


async def reaches(medic: Database, doc_id: str, *expected: str, hurry: float = 0) -> Doc:
    """The document, as soon as its tasks are in these states; `hurry`: seconds to jump over at each look."""

    async def there() -> bool:
        jump(hurry)
        return states(await medic.get(doc_id)) == list(expected)

    await until(there)
    return await medic.get(doc_id)


async def passes(seconds: float, step: float, condition: Callable[[], Awaitable[bool]] | None = None) -> bool:
    """Lets so much virtual time pass, with a moment for the daemon after each step; True once the condition holds."""
    left, end = seconds, time.monotonic() + 60  # real seconds, for a laden machine
    while left > 0 or (condition is not None and time.monotonic() < end):
        jump(step if left > 0 else 0.0)
        left -= step
        await asyncio.sleep(0.05)
        if condition is not None and await condition():
            return True
    return condition is None

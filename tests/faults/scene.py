"""A scene of the crash matrix: a message or a group, database and RapidPro, the daemon that dies and a second one.

Between each daemon and CouchDB is a gate, so that a process can be caught at one write: it is stopped (SIGSTOP) there,
and so takes no further step until it is killed.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from demo.couchdb import CouchDBServer
from demo.database import Database, Doc
from demo.medic import create_medic, data_record, message, task
from demo.process import Daemon
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.faults import times
from tests.faults.wait import eventually
from tests.support.fault_proxy import Gate, open_gate, until

_WRITE: Final = "POST _bulk_docs"
_SWEEP: Final = "GET messages_by_state"
DEADLINE: Final = 30.0  # seconds for anything that a scene waits for
TEXT: Final = "hello"


@dataclass
class Instance:
    """A daemon and the gate between it and CouchDB."""

    daemon: Daemon
    gate: Gate

    def at_write(self, number: int, hook: Callable[[], Awaitable[None]]) -> None:
        """Lets the writes before this one pass."""
        self.gate.before(_WRITE, _nothing, times=number - 1)
        self.gate.before(_WRITE, hook)

    def hold_back(self, until_then: asyncio.Event) -> None:
        """Its first write waits: it may be the faster one, and shall not win."""

        async def wait() -> None:
            await until_then.wait()

        self.gate.before(_WRITE, wait)

    async def start(self) -> None:
        """Returns when it relays messages."""
        await self.daemon.start()
        await eventually(self._is_sending, DEADLINE, every=0.1)

    async def _is_sending(self) -> bool:
        return any(entry["event"] == "sending.enabled" for entry in self.daemon.events())

    async def looks_again(self) -> None:
        """It has swept twice more: if it had wanted to send something, it would have begun to."""
        swept = self.gate.requests.count(_SWEEP)
        await until(lambda: self.gate.requests.count(_SWEEP) >= swept + 2, DEADLINE)


def _record(people: int) -> Doc:
    """A text to so many people; RapidPro may be given them at once."""
    tasks = (task(message(TEXT, f"07123456{number:02}"), kept=[1, None]) for number in range(people))
    return data_record(*tasks, scheduled_tasks=[])


@dataclass
class Scene:
    """Messages on their way; `victim` has them and dies, `second` is another instance on the same database."""

    medic: Database
    rapidpro: RapidPro
    victim: Instance
    second: Instance
    record: Doc

    async def is_in(self, state: str) -> bool:
        tasks = (await self.medic.get(self.record["_id"]))["tasks"]
        return all(task["state"] == state for task in tasks)

    async def is_settled(self) -> bool:
        return await self.is_in("received-by-gateway")

    def hold(self, write: int) -> None:
        """This write of the victim never reaches CouchDB."""

        async def hold() -> None:
            self.victim.daemon.signal(signal.SIGSTOP)
            await asyncio.Event().wait()  # cancelled when the dead process's connection closes

        self.victim.at_write(write, hold)

    def lose_answer(self, write: int) -> None:
        """This write of the victim is stored, and its answer is never read."""

        async def stop() -> None:
            self.victim.daemon.signal(signal.SIGSTOP)

        self.victim.at_write(write, stop)

    async def has_come(self, write: int) -> bool:
        return self.victim.gate.requests.count(_WRITE) == write

    async def is_asked(self) -> bool:
        return any(call.target == "POST broadcasts" for call in self.rapidpro.calls)

    async def is_created(self) -> bool:
        return len(self.rapidpro.broadcasts) > 0


async def _nothing() -> None: ...


@asynccontextmanager
async def open_scene(couchdb: CouchDBServer, tmp_path: Path, people: int) -> AsyncIterator[Scene]:
    """A scene in which nothing has begun; its processes are ended with the block."""
    coalesce = "always" if people > 1 else "off"
    name = f"test-{uuid4().hex}"
    await create_medic(couchdb, name)
    async with AsyncExitStack() as stack:
        medic = await stack.enter_async_context(Database(couchdb, name))
        rapidpro = await stack.enter_async_context(RapidPro(TOKEN))
        folder = tmp_path / name
        victim, second = [
            await stack.enter_async_context(_instance(folder / name, couchdb, medic.name, rapidpro, coalesce))
            for name in ("victim", "second")
        ]
        yield Scene(medic, rapidpro, victim, second, _record(people))


@asynccontextmanager
async def _instance(
    folder: Path, couchdb: CouchDBServer, database: str, rapidpro: RapidPro, coalesce: str
) -> AsyncIterator[Instance]:
    async with open_gate(couchdb) as gate:
        daemon = Daemon(folder, gate, database, {"url": rapidpro.url}, TOKEN, times.sections(coalesce))
        try:
            yield Instance(daemon, gate)
        finally:
            await daemon.kill()

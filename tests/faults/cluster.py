"""The processes of a run: CouchDB with its files, RapidPro, and one or two daemons; each can be made to fail.

Only what the plan does to them may end them: a daemon that has ended by itself is counted, since a crash that a restart
repairs would go unseen otherwise. RapidPro is in this process and never goes away, so that nothing it created is lost
to the verdict. A CouchDB that others use ($COUCHDB_URL) is not ended: the daemons' connections to it are cut instead.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

from demo.couchdb import CouchDBStandin, ExternalCouchDB, server_from_environment
from demo.database import Database, delete_database
from demo.medic import create_medic
from demo.process import Daemon
from demo.rapidpro import RapidPro
from tests.faults.times import sections
from tests.support.fault_proxy import Gate, open_gate

_GOOD: Final = (0, -signal.SIGTERM)  # the latter where it was asked to end before it had begun


@dataclass
class Cluster:
    """`exits`: codes of daemons that ended on their own, or did not end well when they were asked to."""

    couchdb: CouchDBStandin | ExternalCouchDB
    medic: Database
    rapidpro: RapidPro
    daemons: list[Daemon]
    gates: list[Gate]
    clocks: list[Path]
    exits: list[int] = field(default_factory=list)

    async def kill_daemon(self, index: int, away: float) -> None:
        daemon = self.daemons[index]
        await self._note_own_end(daemon)
        await daemon.kill()
        await asyncio.sleep(away)
        await daemon.start()

    async def stop_daemon(self, index: int, away: float) -> None:
        """As a laptop lid does: it goes on later, and believes that no time has passed."""
        daemon = self.daemons[index]
        await self._note_own_end(daemon)
        daemon.signal(signal.SIGSTOP)
        await asyncio.sleep(away)
        daemon.signal(signal.SIGCONT)

    async def restart_couchdb(self, away: float, *, kill: bool) -> None:
        if isinstance(self.couchdb, CouchDBStandin):
            await (self.couchdb.kill() if kill else self.couchdb.stop())
            await asyncio.sleep(away)
            await self.couchdb.start()
        else:
            await self._cut_off(away)

    async def _cut_off(self, away: float) -> None:
        for gate in self.gates:
            gate.is_closed = True
        await asyncio.sleep(away)
        for gate in self.gates:
            gate.is_closed = False

    async def lose_answers(self, index: int, seconds: float) -> None:
        """What this daemon writes is stored, and it is not told."""
        self.gates[index].loses_answers = True
        await asyncio.sleep(seconds)
        self.gates[index].loses_answers = False

    async def delay_answers(self, index: int, seconds: float) -> None:
        """Its next requests take so long."""

        async def wait() -> None:
            await asyncio.sleep(seconds)

        for request in ("POST _bulk_docs", "POST _all_docs", "GET messages_by_state"):
            self.gates[index].before(request, wait)
        await asyncio.sleep(seconds)

    def set_clock(self, index: int, seconds: float) -> None:
        new = self.clocks[index].with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.clocks[index])  # whole: the daemon reads it at any moment

    async def restart_daemons(self) -> None:
        """In good order; it ends every pause that they have made for themselves."""
        await self.end_daemons()
        for daemon in self.daemons:
            await daemon.start()

    async def end_daemons(self) -> None:
        for daemon in self.daemons:
            await self._note_own_end(daemon)
        for code in await asyncio.gather(*(daemon.stop() for daemon in self.daemons)):
            if code not in _GOOD:
                self.exits.append(code)

    async def _note_own_end(self, daemon: Daemon) -> None:
        if not daemon.is_running:
            self.exits.append(await daemon.wait())
            await daemon.start()


@asynccontextmanager
async def cluster(folder: Path, daemons: int, coalesce: str) -> AsyncIterator[Cluster]:
    """Everything runs at the beginning and is ended with the block; files go into `folder`.

    The database stays, whoever has begun the run deletes it: `delete` for a server of others, the folder for ours.
    """
    async with AsyncExitStack() as stack:
        couchdb = await _couchdb(stack, folder / "couchdb")
        name = f"soak-{uuid4().hex}"
        await create_medic(couchdb, name)
        medic = await stack.enter_async_context(Database(couchdb, name))
        tokens = [f"soak-{number}" for number in range(daemons)]
        rapidpro = await stack.enter_async_context(RapidPro(tokens[0]))
        rapidpro.tokens.update(tokens)
        made, gates, clocks = [], [], []
        for number, token in enumerate(tokens):
            gate = await stack.enter_async_context(open_gate(couchdb))
            home = folder / f"daemon-{number}"
            daemon = Daemon(home, gate, name, {"url": rapidpro.url}, token, sections(coalesce))
            clock = home / "clock"
            clock.write_text("0")
            daemon.command = [sys.executable, "-m", "tests.faults.launcher", str(clock), *daemon.command]
            daemon.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
            stack.push_async_callback(daemon.kill)
            await daemon.start()
            made.append(daemon)
            gates.append(gate)
            clocks.append(clock)
        yield Cluster(couchdb, medic, rapidpro, made, gates, clocks)


async def _couchdb(stack: AsyncExitStack, data_dir: Path) -> CouchDBStandin | ExternalCouchDB:
    if (external := server_from_environment()) is not None:
        return external
    return await stack.enter_async_context(CouchDBStandin(data_dir=data_dir))


async def delete(database: str) -> None:
    """Deletes the database of a run on a server that others use; nothing for the stand-in."""
    if (couchdb := server_from_environment()) is not None:
        await delete_database(couchdb, database)

"""The processes of a run: CouchDB with its files, RapidPro, and one or two daemons; each can be made to fail.

Only what the plan does to them may end them: a daemon that has ended by itself is counted, since a crash that a restart
repairs would go unseen otherwise. RapidPro is in this process and never goes away, so that nothing it created is lost
to the verdict.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cht_rapidpro.demo.couchdb import CouchDBStandin
from cht_rapidpro.demo.database import Database
from cht_rapidpro.demo.medic import create_medic
from cht_rapidpro.demo.process import Daemon
from cht_rapidpro.demo.rapidpro import RapidPro
from tests.faults.times import sections

TOKEN: Final = "soak"
DATABASE: Final = "medic"
_GOOD: Final = (0, -signal.SIGTERM)  # the latter where it was asked to end before it had begun


@dataclass
class Cluster:
    """`exits`: codes of daemons that ended on their own, or did not end well when they were asked to."""

    couchdb: CouchDBStandin
    medic: Database
    rapidpro: RapidPro
    daemons: list[Daemon]
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
        await (self.couchdb.kill() if kill else self.couchdb.stop())
        await asyncio.sleep(away)
        await self.couchdb.start()

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
    """Everything runs at the beginning and is ended with the block; files go into `folder`."""
    async with AsyncExitStack() as stack:
        couchdb = await stack.enter_async_context(CouchDBStandin(data_dir=folder / "couchdb"))
        await create_medic(couchdb, DATABASE)
        medic = await stack.enter_async_context(Database(couchdb, DATABASE))
        rapidpro = await stack.enter_async_context(RapidPro(TOKEN))
        made = [
            Daemon(folder / f"daemon-{number}", couchdb, DATABASE, {"url": rapidpro.url}, TOKEN, sections(coalesce))
            for number in range(daemons)
        ]
        for daemon in made:
            stack.push_async_callback(daemon.kill)
            await daemon.start()
        yield Cluster(couchdb, medic, rapidpro, made)

"""A site moves over from CHT's own gateway and back, again and again, at random moments and with kills.

`python -m tests.faults.rehearsal [--moves 50] [--seed N] [--keep]` prints the seed, what was done, and every message
that was sent twice or never; exits 1 if there is one. With $COUCHDB_URL it runs on that server. Each way is the one of
docs/operations/migrate.md in its hardest form: forward without a pause between the two gateways, back by `drain`.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Final
from uuid import uuid4

from cht_rapidpro.concurrency.cancellation import end
from demo.couchdb import CouchDBServer, couchdb_server
from demo.database import Database, Doc, delete_database
from demo.medic import create_medic, data_record, task
from demo.process import COMMAND, Daemon
from demo.rapidpro import RapidPro
from tests.faults.cht_gateway import ChtGateway
from tests.faults.population import pair, repeated, unique
from tests.faults.times import sections
from tests.faults.wait import eventually

TOKEN: Final = "rehearsal"
_WORDS: Final = ("forward", "forward, API killed", "forward, daemon down", "forward, daemon killed in it")
_PATIENCE: Final = 120.0  # seconds for a drain, and for the last message
_EXAMPLES: Final = 5


@dataclass
class Rehearsal:
    """`moves`: how often the gateway is changed. `wanted`: the messages that were written."""

    medic: Database
    rapidpro: RapidPro
    daemon: Daemon
    cht: ChtGateway
    random: random.Random
    moves: int
    wanted: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    story: list[tuple[float, str]] = field(default_factory=list)

    async def run(self) -> None:
        writing = asyncio.create_task(self._write())
        self.cht.start()
        await self.daemon.start()
        try:
            for number in range(self.moves):
                await (self._forward() if number % 2 == 0 else self._back())
            if self.moves % 2 == 0:
                await self._forward()
        finally:
            await end(writing)
        await eventually(self._is_all_sent, _PATIENCE, every=0.5)
        await self.daemon.stop()
        await self.cht.kill()

    # -- moving -----------------------------------------------------------------------------------------------------

    async def _forward(self) -> None:
        """CHT's gateway is in the middle of a batch, more often than not."""
        batches = self.cht.batches
        await eventually(lambda: self._has_begun(batches), 30, every=0.02)
        await asyncio.sleep(self.random.uniform(0, 1.5))
        how = self.random.choice(_WORDS)
        self._tell(how)
        if how == "forward, daemon down":
            await self.daemon.kill()
        await self._resume()
        await self._choose("cht-rapidpro")
        if how == "forward, API killed":
            await self.cht.kill()
        await asyncio.sleep(self.random.uniform(0, 1.0))
        if how == "forward, API killed":
            self.cht.start()
        if not self.daemon.is_running:  # killed above, or off since the move back
            await self.daemon.start()
        await self._send(how)

    async def _has_begun(self, batches: int) -> bool:
        return self.cht.batches > batches

    async def _send(self, how: str) -> None:
        """We send for a while, in which the daemon may die at any moment: also while it takes over."""
        kills = self.random.choice((0, 0, 1, 2)) + (how == "forward, daemon killed in it")
        for _ in range(kills):
            await asyncio.sleep(self.random.uniform(0.2, 6))
            self._tell("daemon killed")
            await self.daemon.kill()
            await asyncio.sleep(self.random.uniform(0, 1))
            await self.daemon.start()
        await asyncio.sleep(self.random.uniform(0.5, 6))

    async def _back(self) -> None:
        """Drained, then CHT's gateway; at times with a daemon that dies while it drains, or is off meanwhile."""
        self._tell("back")
        if self.random.random() < 0.3:
            draining = asyncio.create_task(self._command("drain"))
            await asyncio.sleep(self.random.uniform(0, 2))
            self._tell("daemon killed while it drains")
            await self.daemon.kill()
            await draining
            await self.daemon.start()
        code, said = await self._command("drain")
        assert code == 0, said
        is_off = self.random.random() < 0.3
        if is_off:
            self._tell("daemon off")
            await self.daemon.stop()
        await self._choose("rapidpro")
        await asyncio.sleep(self.random.uniform(0.5, 4))
        if is_off and self.random.random() < 0.5:
            await self.daemon.start()

    async def _choose(self, service: str) -> None:
        def change(doc: Doc) -> Doc:
            settings = doc["settings"]
            return {**doc, "settings": {**settings, "sms": {**settings["sms"], "outgoing_service": service}}}

        await self.medic.edit("settings", change)

    async def _resume(self) -> None:
        await self._command("resume")

    async def _command(self, *words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            *words,
            "--config",
            str(self.daemon.config),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), _PATIENCE)
        return process.returncode or 0, said.decode()

    def _tell(self, what: str) -> None:
        self.done[what] += 1
        self.story.append((time.time(), what))

    # -- messages ---------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Some forty documents a burst: more than a batch of CHT's gateway waits, at most times."""
        texts = _messages()
        while True:
            found = [next(texts) for _ in range(self.random.randrange(5, 40))]
            await self.medic.bulk([data_record(task(each), scheduled_tasks=[]) for each in found])
            self.wanted.update(_plain(pair(each)) for each in found)
            await asyncio.sleep(self.random.uniform(0, 3))

    async def _is_all_sent(self) -> bool:
        key = "pending-or-forwarded"
        return not await self.medic.view("medic", "messages_by_state", startkey=[key], endkey=[key, {}], limit=1)

    def twice(self) -> Counter[tuple[str, str]]:
        return self._sent() - self.wanted

    def lost(self) -> Counter[tuple[str, str]]:
        return self.wanted - self._sent()

    def _sent(self) -> Counter[tuple[str, str]]:
        return Counter(_plain((urn, made.text)) for made in self.rapidpro.broadcasts for urn in made.urns)

    def __str__(self) -> str:
        twice, lost = self.twice(), self.lost()
        return "\n".join(
            [
                f"{self.wanted.total()} messages, {len(self.rapidpro.broadcasts)} broadcasts,"
                f" {self.cht.batches} batches of CHT's gateway",
                *(f"{count:>5} {what}" for what, count in sorted(self.done.items())),
                f"sent twice: {twice.total()}",
                *(f"    {each}" for each in [*twice][:_EXAMPLES]),
                f"lost: {lost.total()}",
                *(f"    {each}" for each in [*lost][:_EXAMPLES]),
            ]
        )


def _messages() -> Iterator[Doc]:
    """Four of five texts are all different, the fifth repeats."""
    several, same = unique(), repeated()
    for place in cycle(range(5)):
        yield next(several if place else same)


def _plain(known: tuple[str, str]) -> tuple[str, str]:
    """CHT's own gateway does not double an `@`."""
    return known[0], known[1].replace("@@", "@")


@asynccontextmanager
async def rehearsal(folder: Path, couchdb: CouchDBServer, moves: int, seed: int) -> AsyncIterator[Rehearsal]:
    """On a database of its own, which stays."""
    chance = random.Random(seed)  # noqa: S311
    async with AsyncExitStack() as stack:
        name = f"rehearsal-{uuid4().hex}"
        await create_medic(couchdb, name)
        medic = await stack.enter_async_context(Database(couchdb, name))
        rapidpro = await stack.enter_async_context(RapidPro(TOKEN, latency=0.02))
        daemon = Daemon(folder, couchdb, name, {"url": rapidpro.url}, TOKEN, sections(), is_first=True)
        stack.push_async_callback(daemon.kill)
        cht = ChtGateway(medic, rapidpro, TOKEN, chance.randrange(10**6))
        stack.push_async_callback(cht.kill)
        made = Rehearsal(medic, rapidpro, daemon, cht, chance, moves)
        await made._choose("rapidpro")
        yield made


async def run(folder: Path, moves: int, seed: int, *, keeps: bool) -> bool:
    async with AsyncExitStack() as stack:
        couchdb = await stack.enter_async_context(couchdb_server())
        async with rehearsal(folder / "daemon", couchdb, moves, seed) as made:
            start = time.monotonic()
            try:
                await made.run()
            finally:
                (folder / "story").write_text("\n".join(f"{at:.3f} {what}" for at, what in made.story))
                print(f"{made}\ntook {time.monotonic() - start:.0f} s, database {made.medic.name}")  # noqa: T201
            is_good = not made.twice() and not made.lost()
            if is_good and not keeps:
                await delete_database(couchdb, made.medic.name)
    return is_good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rehearsal", description=__doc__)
    parser.add_argument("--moves", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a new one")  # noqa: S311
    parser.add_argument("--keep", action="store_true", help="keep the files and the database in any case")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cht-rapidpro-rehearsal-"))
    print(f"seed {given.seed}, files in {folder}", flush=True)  # noqa: T201
    is_good = asyncio.run(run(folder, given.moves, given.seed, keeps=given.keep))
    if is_good and not given.keep:
        shutil.rmtree(folder)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

"""`cht-rapidpro demo`: the whole gateway on this machine, from a document in CouchDB to an SMS on a phone and back.

CouchDB, a RapidPro simulator and the real daemon are started, a dozen documents are written, phones send SMS and are
answered, and the demo ends when every message is where its scene says. It is the installation's self-test, too: exit
code 0 says that CouchDB, RapidPro and the phone agree. At its end, in every case, all processes that it started are
gone.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import aiohttp

from cht_rapidpro.domain.statuses import State
from cht_rapidpro.errors import GatewayError
from demo.conversation import Conversation, conversation
from demo.couchdb import CouchDBServer, ExternalCouchDB, couchdb_server
from demo.database import Database, delete_database
from demo.installation import end, run_daemon, tail, troubles
from demo.keep import instructions
from demo.medic import create_medic
from demo.process import INCOMING_KEY, Daemon
from demo.progress import Display, open_display
from demo.rapidpro import RapidPro
from demo.scene import Scene, arrivals, backlog, make_due
from demo.sighting import DELIVERED, Sighting, look
from demo.summary import report, report_exit

DEADLINE: Final = 30.0  # seconds until every message must be where it belongs
_LOOK_INTERVAL: Final = 0.15  # seconds
_TAIL: Final = 20  # log lines of a daemon that did not end well
_TROUBLES: Final = 3
_TOKEN: Final = "demo-token"
_LATENCY: Final = 0.05
_PROGRESS: Final = ((0.4, "wired"), (0.9, "sent"), (1.5, DELIVERED))
# A national number comes out wrong in RapidPro's own country; a Kenyan URN proves that the gateway has normalised it.
_RAPIDPRO_COUNTRY: Final = "UG"


async def run(*, keep: bool) -> int:
    """The exit code: 0 when all went as it must, else 1. Raises GatewayError where the demo cannot be played."""
    display = open_display()
    with _cancelled_by_signals():
        try:
            return 0 if await _run(display, keep=keep) else 1
        except asyncio.CancelledError:
            display.say("interrupted; all started processes are gone", "yellow")
            return 1
        except (aiohttp.ClientError, TimeoutError) as error:
            raise GatewayError(f"the demo's CouchDB does not answer: {str(error) or type(error).__name__}") from error


@contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """SIGINT or SIGTERM cancels the current task, once: a second one must not cut the cleaning up short."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if task and not task.cancelling():
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _run(display: Display, *, keep: bool) -> bool:
    """The nesting is the order of the stop: the daemon ends first, while it still has both sides to settle with."""
    waiting, arriving = backlog(), arrivals()
    async with (
        couchdb_server() as couchdb,
        _medic(couchdb, waiting) as database,
        RapidPro(_TOKEN, country=_RAPIDPRO_COUNTRY, latency=_LATENCY, progress=_PROGRESS) as rapidpro,
        run_daemon(couchdb, database.name, rapidpro.url, _TOKEN) as daemon,
    ):
        rapidpro.globals = {"api_key": "a secret that no phone may show"}
        rapidpro.relay.url, rapidpro.relay.key = daemon.webhook_url, INCOMING_KEY
        story = Story(database, rapidpro, daemon, display, waiting, arriving)
        await story.play()
        went_well = await story.report() and await story.explain()
        if keep and daemon.is_running:
            display.say(instructions(couchdb, database.name, rapidpro.url, daemon.webhook_url, daemon.log))
            with suppress(asyncio.CancelledError):  # the signal that ends it
                await daemon.wait()
        return await story.stop() and went_well


@asynccontextmanager
async def _medic(couchdb: CouchDBServer, waiting: Sequence[Scene]) -> AsyncIterator[Database]:
    """A CHT database with the waiting messages; on a foreign server under a name that is not in use."""
    name = f"cht-rapidpro-demo-{uuid4().hex}" if isinstance(couchdb, ExternalCouchDB) else "medic"
    try:
        await create_medic(couchdb, name)
        async with Database(couchdb, name) as database:
            for scene in waiting:
                await database.put(scene.document())
            yield database
    finally:
        await delete_database(couchdb, name)


class Story:
    """The scenes as they are played: what is written when, and whether all came out as it must."""

    def __init__(
        self,
        database: Database,
        rapidpro: RapidPro,
        daemon: Daemon,
        display: Display,
        waiting: Sequence[Scene],
        arriving: Sequence[Scene],
    ) -> None:
        self._database = database
        self._rapidpro = rapidpro
        self._daemon = daemon
        self._display = display
        self._scenes = [*waiting, *arriving]
        self._unwritten = list(arriving)
        self._unscheduled = [scene for scene in self._scenes if _is_scheduled(scene)]
        self._conversation = Conversation(database, rapidpro, conversation())
        self._duration = 0.0

    async def play(self) -> None:
        """Until every message is where it must be, the daemon has ended, or time is up."""
        start = asyncio.get_running_loop().time()
        with self._display, suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE):
                while True:
                    if await self._step():
                        break
                    await asyncio.sleep(_LOOK_INTERVAL)
        self._duration = asyncio.get_running_loop().time() - start

    async def _step(self) -> bool:
        """One look, and what follows from it; whether it was the last one."""
        if self._unwritten:
            await self._database.put(self._unwritten.pop(0).document())
        self._scenes += await self._conversation.step()
        sightings = await self._look()
        self._display.show(sightings, len(self._rapidpro.calls), troubles(self._daemon, _TROUBLES))
        if self._unscheduled and any(sighting.status == DELIVERED for sighting in sightings):
            await self._play_sentinel(self._unscheduled.pop())
        is_right = self._conversation.is_right and all(sighting.is_right for sighting in sightings)
        return is_right or not self._daemon.is_running

    async def _play_sentinel(self, scene: Scene) -> None:
        await self._database.edit(scene.doc_id, lambda doc: make_due(doc, datetime.now(UTC)))

    async def _look(self) -> list[Sighting]:
        return await look(self._database, self._rapidpro, self._scenes)

    async def report(self) -> bool:
        return report(self._display, self._conversation, await self._look(), self._rapidpro, self._duration)

    async def explain(self) -> bool:
        """Shows what an operator is told of one message; whether the command worked."""
        command = ["messages", "show", "--config", str(self._daemon.config), self._scenes[0].doc_id]
        asked = await asyncio.create_subprocess_exec(
            *self._daemon.command, *command, stdout=asyncio.subprocess.PIPE, env=self._daemon.environ
        )
        told, _ = await asked.communicate()
        self._display.say(f"\ncht-rapidpro {' '.join(command[:2])}, of one of them:\n\n{told.decode().rstrip()}\n")
        return asked.returncode == 0

    async def stop(self) -> bool:
        """Ends the daemon; whether it ended as it must."""
        return report_exit(self._display, await end(self._daemon), tail(self._daemon, _TAIL))


def _is_scheduled(scene: Scene) -> bool:
    return any(messages[0].state == State.SCHEDULED for messages in scene.all_tasks())

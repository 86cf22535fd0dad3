"""Every webhook that was answered well is exactly one document, whatever is killed meanwhile.

Thirty-two connections send two thousand messages to the real daemon. CouchDB is stopped and started, the daemon is
killed and started twice, and a client repeats only what was not answered. The socket is held as systemd would hold it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp

from cht_rapidpro.adapters.spool.file import Counts, SpoolFile
from demo.couchdb import CouchDBStandin
from demo.database import Database
from demo.medic import create_medic
from demo.process import INCOMING_KEY, Daemon
from demo.rapidpro import RapidPro
from demo.rapidpro.records import uuid7
from tests.faults.wait import eventually
from tests.support.fault_proxy import until
from tests.support.webhook import Flow, listening_socket, open_flow, records, url_of

MESSAGES = 2000
CONNECTIONS = 32
AUTHORIZED = {"Authorization": f"Token {INCOMING_KEY}"}


@dataclass
class Sending:
    """`answered`: the ids that were answered 2xx, as often as they were."""

    flow: Flow
    unsent: list[tuple[str, str]]
    answered: list[str] = field(default_factory=list)
    repeated: int = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._send())

    async def _send(self) -> None:
        while self.unsent:
            given, text = self.unsent.pop()
            while not await self._post(given, text):
                self.repeated += 1
                await asyncio.sleep(0.05)
            self.answered.append(given)

    async def _post(self, given: str, text: str) -> bool:
        body = {"id": given, "from": "+254712345678", "content": text}
        try:
            answer = await self.flow.request(json=body, headers=AUTHORIZED)
        except (aiohttp.ClientError, TimeoutError):
            return False
        assert answer.status in (200, 503)
        return answer.status == 200

    async def reach(self, share: float) -> None:
        """Returns when this share of the messages has been answered."""
        await until(lambda: len(self.answered) >= share * MESSAGES)


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[tuple[CouchDBStandin, Database, Daemon, Flow]]:
    with listening_socket() as listener:
        async with CouchDBStandin(data_dir=folder / "couchdb") as couchdb, RapidPro("token") as rapidpro:
            await create_medic(couchdb, "medic")
            daemon = Daemon(folder / "daemon", couchdb, "medic", {"url": rapidpro.url}, "token", webhook=listener)
            async with Database(couchdb, "medic") as medic, open_flow(url_of(listener)) as flow:
                await daemon.start()
                try:
                    yield couchdb, medic, daemon, flow
                finally:
                    await daemon.kill()


async def test_every_answer_is_one_document(tmp_path: Path) -> None:
    unsent = [(uuid7(number) if number % 2 else str(uuid4()), f"text {number}") for number in range(MESSAGES)]
    async with site(tmp_path) as (couchdb, medic, daemon, flow):
        sending = Sending(flow, list(unsent))
        running = asyncio.create_task(sending.run())
        await sending.reach(0.1)
        await daemon.kill()
        await daemon.start()
        await sending.reach(0.3)
        await couchdb.stop()
        await sending.reach(0.5)
        await daemon.kill()
        await daemon.start()
        await sending.reach(0.7)
        await couchdb.start()
        await running

        async def is_drained() -> bool:
            return await asyncio.to_thread(_counts, tmp_path) == Counts(0, 0)

        await eventually(is_drained, deadline=30, every=0.2)
        found = await records(medic)
        assert sorted((doc["sms_message"]["gateway_ref"], doc["sms_message"]["message"]) for doc in found) == sorted(
            unsent
        )
        assert {given for given, _ in unsent if UUID(given).version == 7} <= {doc["_id"] for doc in found}
        assert sorted(sending.answered) == sorted(given for given, _ in unsent)
        assert sending.repeated > 0
        assert await daemon.stop() == 0
        events = [entry["event"] for entry in daemon.events()]
        assert {"incoming.stored", "incoming.spooled", "spool.flushed"} <= set(events)
        assert "incoming.rejected" not in events
        assert "incoming.id_reused" not in events


def _counts(folder: Path) -> Counts:
    file = SpoolFile(folder / "daemon" / "spool.sqlite3")
    found = file.counts()
    file.close()
    return found

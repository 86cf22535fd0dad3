"""A double of CHT's own RapidPro gateway: it reads 25 messages, posts them one by one, and then writes what came of it.

As docs/cht.md describes it: it reads the app settings at each tick and finishes its batch whatever they say meanwhile;
it keeps no claim, and stores RapidPro's id as a number, over whatever stands there. A batch that is killed has sent
without a trace.
"""

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import aiohttp

from cht_rapidpro.concurrency.cancellation import end
from demo.database import Database, DatabaseError, Doc
from demo.medic import iso_time
from demo.rapidpro import RapidPro
from tests.faults.documents import tasks_of
from tests.faults.population import pair

BATCH: Final = 25
_TICK: Final = 0.3  # seconds; 60 in CHT
_LATE: Final = 0.5  # seconds at most by which it learns late of the app settings
_CONFLICTS: Final = 3


class ChtGateway:
    """Runs from `start` to `kill`; `batches`: how many it has begun."""

    def __init__(self, medic: Database, rapidpro: RapidPro, token: str, seed: int) -> None:
        self._medic = medic
        self._rapidpro = rapidpro
        self._token = token
        self._random = random.Random(seed)  # noqa: S311
        self._task: asyncio.Task[None] | None = None
        self.batches = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def kill(self) -> None:
        """What it has posted stays posted, and is written nowhere."""
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Token {self._token}"}) as session:
            while True:
                settings = (await self._medic.get("settings"))["settings"]
                await asyncio.sleep(self._random.uniform(0, _LATE))
                if settings["sms"]["outgoing_service"] == "rapidpro":
                    await self._send_batch(session)
                await asyncio.sleep(_TICK)

    async def _send_batch(self, session: aiohttp.ClientSession) -> None:
        key = "pending-or-forwarded"
        rows = await self._medic.view(
            "medic", "messages_by_state", startkey=[key, 0], endkey=[key, "\ufff0"], limit=BATCH
        )
        self.batches += 1
        sent: dict[str, tuple[str, int]] = {}
        for row in rows:
            value = row["value"]
            urn, _ = pair({"to": value["to"], "message": ""})
            body = {"urns": [urn], "text": value["content"]}
            async with session.post(f"{self._rapidpro.url}/api/v2/broadcasts.json", json=body) as answer:
                sent[value["id"]] = row["id"], (await answer.json())["id"]
        for uuid, (doc_id, ref) in sent.items():
            await self._store(doc_id, uuid, ref)

    async def _store(self, doc_id: str, uuid: str, ref: int) -> None:
        for _ in range(_CONFLICTS + 1):
            doc = await self._medic.get(doc_id)
            for task in tasks_of(doc):
                if task["messages"][0]["uuid"] == uuid:
                    _received(task, ref)
            with suppress(DatabaseError):
                await self._medic.put(doc)
                return


def _received(task: Doc, ref: int) -> None:
    moment = iso_time(datetime.now(UTC))
    task |= {"state": "received-by-gateway", "state_details": "Queued", "gateway_ref": ref}
    task["state_history"].append({"state": "received-by-gateway", "state_details": "Queued", "timestamp": moment})

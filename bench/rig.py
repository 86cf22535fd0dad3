"""What the benchmarks stand on: a CouchDB, a RapidPro simulator and the daemon, each a process of its own."""

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aiohttp

from demo.couchdb import CouchDBServer, couchdb_server
from demo.database import Database, Doc, delete_database
from demo.medic import create_medic
from demo.process import Daemon

TOKEN: Final = "bench"


@dataclass
class Rig:
    """`new_daemon` makes one on a folder of its own; it is stopped by whoever started it."""

    couchdb: CouchDBServer
    database: Database
    rapidpro_url: str
    folder: Path
    http: aiohttp.ClientSession
    per_hour: int

    def new_daemon(self, webhook: socket.socket | None = None, **sections: dict[str, object]) -> Daemon:
        rapidpro = {"url": self.rapidpro_url, "requests_per_hour": self.per_hour or "unlimited"}
        folder = self.folder / uuid4().hex
        return Daemon(folder, self.couchdb, self.database.name, rapidpro, TOKEN, sections, webhook)

    async def simulator(self, path: str) -> Any:
        """What the simulator's control side says: `calls`, `broadcasts`, or "" for the counts."""
        async with self.http.get(f"{self.rapidpro_url}/control/{path}".rstrip("/")) as response:
            return await response.json()

    async def couchdb_requests(self) -> int:
        """CouchDB's own counter of requests."""
        auth = aiohttp.encode_basic_auth(self.couchdb.user, self.couchdb.password)
        url = f"{self.couchdb.url}/_node/_local/_stats/couchdb/httpd/requests"
        async with self.http.get(url, headers={"Authorization": auth}) as response:
            return int((await response.json())["value"])

    async def write(self, docs: Iterable[Doc]) -> None:
        """In bulks, and brings the view up to date, as it is on a server that has been running for a while."""
        waiting = list(docs)
        for start in range(0, len(waiting), 500):
            await self.database.bulk(waiting[start : start + 500])
        await self.database.view("medic", "messages_by_state", limit=1)


@asynccontextmanager
async def rig(latency: float, per_hour: int = 0, progress: Sequence[str] = ()) -> AsyncIterator[Rig]:
    """Everything but the daemon, on a fresh database. RapidPro's `latency`, in s, and requests an hour; 0: no limit.

    `progress`: what becomes of each message, as `SECONDS:STATUS`; without any they stay queued.
    """
    name = f"bench-{uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="cht-rapidpro-bench-") as folder:
        async with (
            couchdb_server() as couchdb,
            _simulator(latency, per_hour, progress) as url,
            aiohttp.ClientSession() as http,
        ):
            await create_medic(couchdb, name)
            try:
                async with Database(couchdb, name) as database:
                    yield Rig(couchdb, database, url, Path(folder), http, per_hour)
            finally:
                await delete_database(couchdb, name)


@asynccontextmanager
async def _simulator(latency: float, per_hour: int, progress: Sequence[str]) -> AsyncIterator[str]:
    limit = ["--requests-per-hour", str(per_hour)] if per_hour else []
    steps = ["--progress", *progress] if progress else []
    arguments = ["-m", "demo.rapidpro", "--token", TOKEN, "--latency", str(latency), *limit, *steps]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout  # noqa: S101 - a pipe was asked for
        yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.terminate()
        await process.wait()


def phone_number(number: int) -> str:
    """A Kenyan one, a different one for each of the first hundred million."""
    return f"+2547{number % 100_000_000:08}"


def cpu_seconds(pid: int) -> float:
    """That the process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Prints rows of (what, figure)."""
    width = max(len(what) for what, _ in rows)
    print(f"\n{title}")
    for what, figure in rows:
        print(f"  {what:<{width}}  {figure}")

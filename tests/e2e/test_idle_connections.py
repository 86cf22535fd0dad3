"""Idle connections that nobody closes do not keep the daemon from its work."""

import asyncio
import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import aiohttp

from cht_rapidpro.demo.couchdb import CouchDBServer
from cht_rapidpro.demo.database import Database
from cht_rapidpro.demo.medic import data_record, message, task
from cht_rapidpro.demo.process import Daemon
from cht_rapidpro.demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.gate import until
from tests.gateway import reaches

IDLE: Final = 1100  # more than the 1,024 files that a process may have open by custom


async def test_more_idle_connections_than_the_usual_limit_of_files(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    daemon = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, {})
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        await daemon.start()  # which inherits it
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ExitStack() as idle:
            await until(lambda: {"admin.listening", "incoming.listening"} <= {one["event"] for one in daemon.events()})
            [admin] = [one["address"] for one in daemon.events() if one["event"] == "admin.listening"]
            [[webhook]] = [one["addresses"] for one in daemon.events() if one["event"] == "incoming.listening"]
            host, port = webhook.split(":")
            for _ in range(IDLE):
                idle.enter_context(socket.create_connection((host, int(port))))
                await asyncio.sleep(0)
            async with aiohttp.ClientSession() as session, session.get(f"http://{admin}/health") as answer:
                assert answer.status == 200
            record = data_record(task(message("hello")))
            await medic.put(record)
            await reaches(medic, record["_id"], "received-by-gateway")
            assert not [one for one in daemon.events() if one["level"] == "error"]
    finally:
        await daemon.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

"""Idle connections that nobody closes do not keep the daemon from its work."""

import asyncio
import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from cht_rapidpro.adapters.web.webhook import PATHS
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import COMMAND, INCOMING_KEY, Daemon
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import reaches
from tests.support.fault_proxy import until

FEW_FILES: Final = 256
USUAL_LIMIT: Final = 1024  # files that a process may have open, by custom
IDLE: Final = 1100
FLOW_PATIENCE: Final = 15.0  # seconds that RapidPro waits for a webhook


async def test_more_idle_connections_than_the_usual_limit_of_files(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    daemon = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, {})
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL_LIMIT, hard))
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


@pytest.mark.parametrize(("files", "idle_each"), [(FEW_FILES, 2 * FEW_FILES), (USUAL_LIMIT, IDLE)])
async def test_more_idle_connections_than_the_hard_limit_of_files(
    files: int, idle_each: int, tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    """Both listeners keep to a part of the files; a webhook, the status and the sending have theirs."""
    own = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, {})
    script = 'ulimit -n "$1"; exec "$0" run --config "$2"'
    with own.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", script, COMMAND, str(files), str(own.config), stdout=log, stderr=log, env=own.environ
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # of ours, which opens them all
    try:
        with ExitStack() as idle:
            await until(lambda: {"admin.listening", "incoming.listening"} <= {one["event"] for one in own.events()})
            [admin] = [one["address"] for one in own.events() if one["event"] == "admin.listening"]
            [[webhook]] = [one["addresses"] for one in own.events() if one["event"] == "incoming.listening"]
            for address in (webhook, admin):
                host, port = address.split(":")
                for _ in range(idle_each):
                    idle.enter_context(socket.create_connection((host, int(port))))
                    await asyncio.sleep(0)
            record = data_record(task(message("hello")))
            await medic.put(record)
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(FLOW_PATIENCE)) as session:
                headers = {"Authorization": f"Token {INCOMING_KEY}"}
                body = {"id": "4c22bfdd-8b0f-4d5f-9c4e-3d6f7ac4bb5d", "from": "+254712345678", "content": "hello"}
                async with session.post(f"http://{webhook}{PATHS[0]}", json=body, headers=headers) as answer:
                    assert answer.status == 200
                async with session.get(f"http://{admin}/health") as answer:
                    assert answer.status == 200
            await reaches(medic, record["_id"], "received-by-gateway")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        process.terminate()
        await process.wait()
    events = [(one["event"], one.get("listener")) for one in own.events() if one["level"] in ("error", "warning")]
    assert {("listener.crowded", "incoming"), ("listener.crowded", "admin")} <= set(events)
    assert len(events) <= 6
    assert not [one for one in own.events() if one["level"] == "error"]

"""The package under a real systemd: the debootstrapped root is booted in a container, and mistreated.

Webhooks are posted all the while; each that was answered 200 has to be a document in the end, and none may be refused.
"""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import aiohttp
import pytest

from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import INCOMING_KEY
from demo.rapidpro import RapidPro
from tests.packaging.root import Root, overlay, package, run
from tests.packaging.test_deb import free_address
from tests.support.daemon import reaches
from tests.support.fault_proxy import until
from tests.support.webhook import PATH, SENDER, records

SERVICE: Final = "cht-rapidpro.service"
BOTH: Final = ("cht-rapidpro.socket", SERVICE)


class Container:
    """A booted root; `leader` is its process 1, as this machine numbers it."""

    def __init__(self, root: Root, leader: str) -> None:
        self.root = root
        self._enter = ("nsenter", "-t", leader, "-m", "-u", "-i", "-p", "-C", "-r", "-w")

    async def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(run, *self._enter, "--", *command)

    async def succeeds(self, *command: str) -> str:
        done = await self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{await self.journal()}"
        return done.stdout

    async def journal(self) -> str:
        return (await self.run("journalctl", "-u", SERVICE, "-o", "cat", "--no-pager")).stdout

    async def shows(self, key: str) -> str:
        return (await self.run("systemctl", "show", "-P", key, SERVICE)).stdout.strip()

    async def is_active(self) -> bool:
        return await self.shows("ActiveState") == "active"

    def drop_in(self, unit: str, text: str) -> None:
        folder = self.root.path / f"etc/systemd/system/{unit}.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(text)


@contextmanager
def booted(root: Root) -> Iterator[Container]:
    nspawn = shutil.which("systemd-nspawn")
    if nspawn is None:
        pytest.skip("needs systemd-nspawn: apt-get install systemd-container")
    (root.path / "etc/machine-id").unlink(missing_ok=True)
    command = [
        nspawn,
        "-q",
        "-D",
        str(root.path),
        "-M",
        f"i{uuid4().hex[:8]}",
        "--register=no",
        "--keep-unit",
        "--boot",
    ]
    console = root.path.parent / "console"
    with console.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)  # noqa: S603
    try:
        leader = ""
        while not leader:
            if process.poll() is not None:
                pytest.skip(f"systemd-nspawn cannot boot here: {console.read_text()[-300:]}")
            time.sleep(0.1)
            leader = _child(process.pid)
        yield Container(root, leader)
    finally:
        process.terminate()  # which powers the container off
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _child(pid: int) -> str:
    """The container's process 1, once it is systemd; before that it is another process of systemd-nspawn."""
    for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if Path(f"/proc/{each}/exe").readlink().name == "systemd":
                return each
    return ""


@asynccontextmanager
async def webhooks(address: str, stored: list[str], *, may_break: bool = False) -> AsyncIterator[None]:
    """Post 20 a second while the block runs, each over a connection of its own; `stored` gets the ids answered 200.

    `may_break`: the daemon is killed, which cuts the connections that it has accepted. Else each has to be answered.
    """
    url, headers = f"http://{address}{PATH}", {"Authorization": f"Token {INCOMING_KEY}"}

    async def post() -> None:
        given = str(uuid4())
        try:
            body = {"id": given, "from": SENDER, "content": "hello"}
            async with session.post(url, json=body, headers=headers) as answer:
                assert answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            if not may_break:
                raise
        else:
            stored.append(given)

    async def keep_posting() -> None:
        async with asyncio.TaskGroup() as posts:
            while not is_enough.is_set():
                posts.create_task(post())
                await asyncio.sleep(0.05)

    is_enough = asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=60)  # real seconds of a laden machine; RapidPro waits for 15
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as group:
        group.create_task(keep_posting())
        try:
            yield
        finally:
            is_enough.set()


async def test_the_service_from_its_installation_to_its_purge(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    deb, webhook, admin = package(), free_address(), free_address()
    with overlay(tmp_path) as root, booted(root) as machine:
        await until(lambda: _is_up(machine))
        new = root.add(deb, version="9.0.0")
        await machine.succeeds("apt-get", "install", "-y", root.add(deb))
        assert not await machine.is_active(), "nothing starts by itself"
        machine.drop_in("cht-rapidpro.socket", f"[Socket]\nListenStream=\nListenStream={webhook}\n")
        machine.drop_in(SERVICE, "[Service]\nWatchdogSec=6s\n")
        await machine.succeeds("systemctl", "daemon-reload")
        root.configure(couchdb, medic.name, rapidpro.url, f'[admin]\nlisten = "{admin}"\n')

        # A missing secret is named, and tried again with a pause.
        assert (await machine.run("systemctl", "start", SERVICE)).returncode != 0
        assert "/etc/cht-rapidpro/couchdb-password" in await machine.journal()
        assert int(await machine.shows("NRestarts")) < 3
        await machine.succeeds("systemctl", "stop", *BOTH)

        root.give_secrets(couchdb)
        await machine.succeeds("cht-rapidpro", "check", "--offline")
        await machine.succeeds("systemctl", "enable", "--now", *BOTH)
        assert await machine.is_active()

        async def has_taken_over() -> bool:
            return "takeover.finished" in await machine.journal()

        await until(has_taken_over)
        record = data_record(task(message("hello")))
        await medic.put(record)
        await reaches(medic, record["_id"], "received-by-gateway")
        stored = await _mistreated(machine, webhook, new)
        assert len(stored) > 100
        # Each webhook that was answered 200 becomes a document, and only one. Some were missing right after the last
        # answer; that they were in the spool then is inferred, it was not traced.
        await until(lambda: _are_documents(medic, stored))
        known = await _message_ids(medic)
        assert len(known) == len(set(known))
        assert len(rapidpro.broadcasts) == 1

        await machine.succeeds("apt-get", "purge", "-y", "cht-rapidpro")
        assert await asyncio.to_thread(root.left) == []


async def _message_ids(medic: Database) -> list[str]:
    return [doc["sms_message"]["gateway_ref"] for doc in await records(medic)]


async def _are_documents(medic: Database, stored: list[str]) -> bool:
    return set(stored) <= set(await _message_ids(medic))


async def _is_up(machine: Container) -> bool:
    return (await machine.run("systemctl", "is-system-running")).stdout.strip() in ("running", "degraded")


async def _mistreated(machine: Container, webhook: str, new: str) -> list[str]:
    """Return the ids of all webhooks that were answered 200."""
    config = machine.root.path / "etc/cht-rapidpro/config.toml"
    good = config.read_text()
    stored: list[str] = []
    async with webhooks(webhook, stored):
        await machine.succeeds("systemctl", "reload", SERVICE)
        await until(lambda: _has(machine, "config.reloaded"))
        config.write_text(f"{good}[logs]\n")
        assert (await machine.run("systemctl", "reload", SERVICE)).returncode != 0
        assert await machine.is_active(), "the running configuration stays in force"
        config.write_text(good)
        await machine.succeeds("systemctl", "restart", SERVICE)
        before = await machine.shows("MainPID")
        config.write_text(f"{good}[logs]\n")
        upgrade = await machine.succeeds("apt-get", "install", "-y", new)
        assert "the running version goes on" in upgrade
        assert await machine.shows("MainPID") == before
        config.write_text(good)
        await machine.succeeds("apt-get", "install", "-y", "--reinstall", new)
        assert (await machine.is_active(), await machine.shows("MainPID") != before) == (True, True)
    async with webhooks(webhook, stored, may_break=True):
        await machine.succeeds("systemctl", "restart", "cht-rapidpro.socket")
        await until(machine.is_active)  # a job of its own, which the command does not wait for
        for signal, restarts in (("SIGKILL", 1), ("SIGSTOP", 2)):  # the watchdog ends what stands still
            await machine.succeeds("systemctl", "kill", "-s", signal, SERVICE)
            await until(lambda restarts=restarts: _restarted(machine, restarts))  # type: ignore[misc]
    return stored


async def _has(machine: Container, event: str) -> bool:
    return event in await machine.journal()


async def _restarted(machine: Container, times: int) -> bool:
    return int(await machine.shows("NRestarts")) >= times and await machine.is_active()

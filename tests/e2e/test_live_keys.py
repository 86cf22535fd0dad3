"""Every key that a reload applies changes the running daemon: the installed command and a SIGHUP, seen from outside."""

import json
import signal
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from cht_rapidpro.config.schema import LIVE
from demo.couchdb import CouchDBStandin
from demo.database import Database
from demo.medic import create_medic, data_record, message, task
from demo.process import INCOMING_KEY, Daemon
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import reaches
from tests.support.fault_proxy import until
from tests.support.webhook import listening_socket

NEW: Final = "fedcba9876543210"
LIMITS: Final = {"requests_per_hour": 2, "max_concurrency": 1}


class Installation:
    """A running daemon, with a CouchDB of its own, since its users change."""

    def __init__(self, couchdb: CouchDBStandin, medic: Database, rapidpro: RapidPro, daemon: Daemon) -> None:
        self.couchdb = couchdb
        self.medic = medic
        self.rapidpro = rapidpro
        self.daemon = daemon

    async def reload(self, section: str, key: str, value: object) -> None:
        """Writes the key and sends SIGHUP; returns when the daemon says that the key is in force."""
        document = tomllib.loads(self.daemon.config.read_text())
        document.setdefault(section, {})[key] = value
        lines = [
            line
            for name, keys in document.items()
            for line in (f"[{name}]", *(f"{each} = {json.dumps(its)}" for each, its in keys.items()))
        ]
        self.daemon.config.write_text("\n".join(lines))
        await self.sighup(f"{section}.{key}")

    async def sighup(self, key: str) -> None:
        self.daemon.signal(signal.SIGHUP)
        await until(lambda: any(key in entry["changed"] for entry in self.logged("config.reloaded")))

    def write(self, file: str, secret: str) -> str:
        path = self.daemon.config.parent / file
        path.touch(mode=0o600)
        path.write_text(secret + "\n")
        return file

    async def sends(self) -> None:
        record = data_record(task(message("hello")))
        await self.medic.put(record)
        await reaches(self.medic, record["_id"], "received-by-gateway")

    async def takes(self, key: str) -> bool:
        """Whether a webhook with this key is stored."""
        headers = {"Authorization": f"Token {key}"}
        body = {"id": key, "from": "+254712345678", "content": "hello"}
        async with aiohttp.request("POST", self.daemon.webhook_url, headers=headers, json=body) as answer:
            return answer.status == 200

    async def give_password(self, user: str, password: str) -> None:
        async with Database(self.couchdb, "_node/_local/_config/admins") as admins:
            await admins.request("PUT", user, body=password)

    def logged(self, event: str) -> list[dict[str, list[str]]]:
        return [entry for entry in self.daemon.events() if entry["event"] == event]


@pytest.fixture
async def found(tmp_path: Path, rapidpro: RapidPro) -> AsyncIterator[Installation]:
    async with CouchDBStandin() as couchdb:
        await create_medic(couchdb, "medic")
        webhook = listening_socket()
        rapidpro_keys = {"url": rapidpro.url, **LIMITS}
        polls = {"delivery": {"interval": "1s"}}
        daemon = Daemon(tmp_path / "gateway", couchdb, "medic", rapidpro_keys, TOKEN, polls, webhook)
        await daemon.start()
        try:
            async with Database(couchdb, "medic") as medic:
                yield Installation(couchdb, medic, rapidpro, daemon)
        finally:
            await daemon.kill()
            webhook.close()


async def token(found: Installation) -> None:
    found.rapidpro.tokens = {NEW}
    found.write("rapidpro-token", NEW)
    await found.sighup("rapidpro.token")
    await found.sends()


async def token_file(found: Installation) -> None:
    found.rapidpro.tokens = {NEW}
    await found.reload("rapidpro", "token_file", found.write("another-token", NEW))
    await found.sends()


async def requests_per_hour(found: Installation) -> None:
    records = [data_record(task(message(f"hello {number}"))) for number in range(4)]
    await found.medic.bulk(records)
    await until(lambda: len(found.rapidpro.broadcasts) == LIMITS["requests_per_hour"])
    await found.reload("rapidpro", "requests_per_hour", "unlimited")
    for record in records:
        await reaches(found.medic, record["_id"], "received-by-gateway")


async def max_concurrency(found: Installation) -> None:
    await found.reload("rapidpro", "requests_per_hour", "unlimited")
    await found.reload("rapidpro", "max_concurrency", 4)
    found.rapidpro.wire.latency = 0.2
    await found.medic.bulk(data_record(task(message(f"hello {number}"))) for number in range(40))
    await until(lambda: sum(call.status is None for call in found.rapidpro.calls) > 1)
    await until(lambda: len(found.rapidpro.broadcasts) == 40)


async def user(found: Installation) -> None:
    await found.give_password("second", found.couchdb.password)
    await found.reload("couchdb", "user", "second")
    await found.sends()


async def password(found: Installation) -> None:
    await found.give_password("second", found.couchdb.password)
    await found.reload("couchdb", "user", "second")
    await found.give_password("second", NEW)
    found.write("couchdb-password", NEW)
    await found.sighup("couchdb.password")
    await found.sends()


async def password_file(found: Installation) -> None:
    await found.give_password("second", found.couchdb.password)
    await found.reload("couchdb", "user", "second")
    await found.give_password("second", NEW)
    await found.reload("couchdb", "password_file", found.write("another-password", NEW))
    await found.sends()


async def key(found: Installation) -> None:
    assert not await found.takes(NEW)
    found.write("incoming-key", NEW)
    await found.sighup("incoming.key")
    assert (await found.takes(NEW), await found.takes(INCOMING_KEY)) == (True, False)


async def key_file(found: Installation) -> None:
    await found.reload("incoming", "key_file", found.write("another-key", NEW))
    assert (await found.takes(NEW), await found.takes(INCOMING_KEY)) == (True, False)


async def level(found: Installation) -> None:
    await found.sends()
    assert "debug" not in {entry["level"] for entry in found.daemon.events()}
    await found.reload("log", "level", "debug")
    await found.medic.put(data_record(task(message("hello"), state="sent")))
    await until(lambda: "debug" in {entry["level"] for entry in found.daemon.events()})


CASES: Final[dict[str, Callable[[Installation], Awaitable[None]]]] = {
    "couchdb.user": user,
    "couchdb.password": password,
    "couchdb.password_file": password_file,
    "rapidpro.token": token,
    "rapidpro.token_file": token_file,
    "rapidpro.requests_per_hour": requests_per_hour,
    "rapidpro.max_concurrency": max_concurrency,
    "incoming.key": key,
    "incoming.key_file": key_file,
    "log.level": level,
}


@pytest.mark.parametrize("name", LIVE)
async def test_a_live_key_changes_the_running_daemon(name: str, found: Installation) -> None:
    await until(lambda: bool(found.logged("daemon.started")))
    await CASES[name](found)


def test_each_case_is_of_a_live_key() -> None:
    assert set(CASES) == set(LIVE)

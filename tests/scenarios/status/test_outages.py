"""Each way in which RapidPro or CouchDB may fail, as status, /ready, metrics, page and systemd's line tell it."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aiohttp
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from cht_rapidpro.adapters.host.sd_notify import Notifier
from cht_rapidpro.commands import status
from cht_rapidpro.config.schema import Admin, Config
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.daemon import serve
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.jobs.live_config.reload import Reload
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import note_sender
from tests.conftest import TOKEN
from tests.support.daemon import configure
from tests.support.fault_proxy import Gate, until
from tests.support.stub_server import HALF_A_BODY, HTML, RESET, Raw, Reply, Request, Scripted, scripted
from tests.support.virtual_time import jump, wall_clock
from tests.support.webhook import KEY

SILENCE: Final = "silence"
Form = Reply | Raw | str
_HOP: Final = {"transfer-encoding", "content-length", "connection", "content-encoding", "content-type"}


@dataclass
class Sick:
    """A server that works until it has a form of failure. `only`: the method that fails, every one if empty."""

    works: Callable[[Request], Awaitable[Reply]]
    form: Form | None = None
    only: str = ""

    async def __call__(self, request: Request) -> Reply | Raw:
        if self.form is None or not request.name.startswith(self.only):
            return await self.works(request)
        if isinstance(self.form, str):
            await asyncio.Event().wait()
        assert not isinstance(self.form, str)
        return self.form


async def as_rapidpro(request: Request) -> Reply:
    match request.name:
        case "POST broadcasts.json":
            return Reply({"id": 7, "status": "queued", "urns": ["tel:+254712345678"]}, 201)
        case "GET workspace.json":
            return Reply({"uuid": "0", "name": "Clinic", "anon": False})
        case _:
            return Reply({"next": None, "results": []})


@asynccontextmanager
async def before(couchdb: CouchDBServer) -> AsyncIterator[tuple[Scripted, Sick]]:
    """A proxy that passes everything on to CouchDB while it is well."""
    async with aiohttp.ClientSession() as session:

        async def passes(request: Request) -> Reply:
            kept = {key: value for key, value in request.headers.items() if key.lower() not in {"host", *_HOP}}
            kept["Content-Type"] = "application/json"
            url = f"{couchdb.url}{request.target}"
            method = request.name.partition(" ")[0]
            async with session.request(method, url, data=request.body or None, headers=kept) as answer:
                headers = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
                return Reply(await answer.read(), answer.status, {"Date": headers.get("Date", "")})

        sick = Sick(passes)
        async with scripted(sick) as server:
            yield server, sick


class Places:
    """What the five places say of a running daemon."""

    def __init__(self, address: str, systemd: socket.socket) -> None:
        self.address = address
        self._systemd = systemd
        self._line = ""

    async def read(self) -> dict[str, str]:
        async with aiohttp.ClientSession(f"http://{self.address}") as session:
            told = await asyncio.to_thread(status.ask, self.address)
            ready = (await _text(session, "/ready"))[1]
            metrics = (await _text(session, "/metrics"))[1]
            page = (await _text(session, "/"))[1]
        with suppress(BlockingIOError):
            while True:
                word, _, line = self._systemd.recv(4096).decode().partition("=")
                self._line = line if word == "STATUS" else self._line
        [level] = re.findall(r'^cht_rapidpro_state\{state="(\w+)"\} 1\.0$', metrics, re.MULTILINE)
        [badge] = re.findall(r'<p class="state"><span class="badge \w+">(\w+)</span>', page)
        return {
            "status": told["state"],
            "ready": re.findall(r'"state": "(\w+)"', ready)[0],
            "metrics": level,
            "page": badge.lower(),
            "systemd": self._line.partition(";")[0],
        }

    async def agree(self, state: str, *, hurry: float = 1) -> None:
        """All five come to say so; systemd's line follows within five seconds."""
        seen: dict[str, str] = {}

        async def there() -> bool:
            nonlocal seen
            jump(hurry)
            await asyncio.sleep(0.02)
            seen = await self.read()
            return set(seen.values()) == {state}

        try:
            await until(there, 20)
        except TimeoutError:
            raise AssertionError(f"{seen}, not {state}") from None


async def _text(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as answer:
        return answer.status, await answer.text()


@contextmanager
def hearing(folder: Path) -> Iterator[tuple[socket.socket, Notifier]]:
    """What systemd hears, and what tells it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.setblocking(False)
        yield systemd, Notifier({"NOTIFY_SOCKET": str(folder / "notify")})


@asynccontextmanager
async def observed(config: Config, folder: Path, logs: Sequence[Any], key: str = KEY) -> AsyncIterator[Places]:
    """The daemon, with an admin listener and a systemd that hears it; `key`: of the webhook, in the configuration."""
    stop = asyncio.Event()
    note_sender(folder)
    incoming = replace(config.incoming, key=Secret(key), spool=str(folder / "spool.sqlite3"))
    cht = replace(config.cht, state_dir=str(folder))
    config = replace(config, admin=Admin("127.0.0.1:0"), cht=cht, incoming=incoming)
    with hearing(folder) as (systemd, notifier):
        reload = Reload(config, lambda: config, asyncio.Event())
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(config, Instance(uuid4().hex, "test"), stop, wall_clock, reload, notifier))
            try:
                await until(lambda: any(entry["event"] == "admin.listening" for entry in logs))
                [address] = [entry["address"] for entry in logs if entry["event"] == "admin.listening"]
                yield Places(address, systemd)
            finally:
                stop.set()


def _later() -> bool:
    jump(0.5)
    return True


def edges(logs: Sequence[Any], dependency: str) -> list[str]:
    return [
        entry["event"].partition(".")[2]
        for entry in logs
        if entry["event"].startswith("dependency.") and entry["dependency"] == dependency
    ]


SUSPENDED: Final = {"non_field_errors": ["Sorry, your workspace is currently suspended."]}
OF_RAPIDPRO: Final[dict[str, tuple[Form, str]]] = {
    "500": (Reply(status=500), "degraded"),
    "502": (Reply(b"<html></html>", 502, content_type="text/html"), "degraded"),
    "503": (Reply(status=503), "degraded"),
    "504": (Reply(status=504), "degraded"),
    "408": (Reply(status=408), "degraded"),
    "200 with HTML": (HTML, "degraded"),
    "200 with JSON of something else": (Reply({"hello": "world"}), "degraded"),
    "half a body": (HALF_A_BODY, "degraded"),
    "accepted and closed": (Raw(b"\r\n"), "degraded"),
    "reset": (RESET, "degraded"),
    "an SSH server": (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "degraded"),
    "silence": (SILENCE, "degraded"),
    "a bad token": (Reply({"detail": "Invalid token"}, 403), "broken"),
    "a proxy's 403": (Reply(b"<html></html>", 403, content_type="text/html"), "broken"),
    "a wrong path": (Reply(b"<html></html>", 404, content_type="text/html"), "broken"),
    "a redirect": (Reply(status=302, headers={"Location": "https://example.org/"}), "broken"),
    "suspended": (Reply(SUSPENDED, 400), "broken"),
}


@pytest.mark.parametrize(("form", "state"), OF_RAPIDPRO.values(), ids=OF_RAPIDPRO)
async def test_rapidpro_fails(form: Form, state: str, gate: Gate, medic: Database, tmp_path: Path) -> None:
    sick = Sick(as_rapidpro)
    with capture_logs() as logs:
        async with scripted(sick) as rapidpro:
            config = configure(gate, medic, rapidpro.url, TOKEN, timeout=1.0, settle_time=10.0, claim_timeout=60.0)
            async with observed(config, tmp_path, logs) as places:
                await places.agree("ok")
                sick.form = form
                await medic.put(data_record(task(message("hello"))))
                await places.agree(state)
                sick.form = None
                await places.agree("ok", hurry=5)
    told = edges(logs, "rapidpro")
    assert told == ["refused" if state == "broken" else "lost", "recovered"], logs


@pytest.mark.parametrize(("form", "state"), OF_RAPIDPRO.values(), ids=OF_RAPIDPRO)
async def test_rapidpro_fails_from_the_start_and_nothing_is_to_be_sent(
    form: Form, state: str, gate: Gate, medic: Database, tmp_path: Path
) -> None:
    """A wrong token or address is known before the first message; and then there was an answer."""
    sick = Sick(as_rapidpro, form)
    with capture_logs() as logs:
        async with scripted(sick) as rapidpro:
            config = configure(gate, medic, rapidpro.url, TOKEN, timeout=1.0, claim_timeout=60.0, settle_time=10.0)
            async with observed(config, tmp_path, logs) as places:
                await until(lambda: bool(rapidpro.requests))
                assert "ok" not in (await places.read()).values()
                await places.agree(state)
                await until(lambda: _later() and bool(edges(logs, "rapidpro")))
                await places.agree(state)
                sick.form = None
                await places.agree("ok", hurry=5)
    assert edges(logs, "rapidpro") == ["refused" if state == "broken" else "lost", "recovered"]


OF_COUCHDB: Final[dict[str, tuple[Form, str]]] = {
    "500": (Reply({"error": "internal"}, 500), "degraded"),
    "503": (Reply(b"<html></html>", 503, content_type="text/html"), "degraded"),
    "200 with HTML": (HTML, "degraded"),
    "reset": (RESET, "degraded"),
    "half a body": (HALF_A_BODY, "degraded"),
    "frozen": (SILENCE, "degraded"),
    "a bad password": (Reply({"error": "unauthorized"}, 401), "broken"),
    "no access": (Reply({"error": "forbidden"}, 403), "broken"),
    "a redirect": (Reply(status=302, headers={"Location": "https://example.org/"}), "broken"),
}


@pytest.mark.parametrize(("form", "state"), OF_COUCHDB.values(), ids=OF_COUCHDB)
async def test_couchdb_fails(
    form: Form, state: str, couchdb: CouchDBServer, gate: Gate, medic: Database, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        async with before(couchdb) as (server, sick), scripted(as_rapidpro) as rapidpro:
            config = configure(gate, medic, rapidpro.url, TOKEN, claim_timeout=120.0)
            config = replace(config, couchdb=replace(config.couchdb, url=server.url))
            async with observed(config, tmp_path, logs) as places:
                await places.agree("ok")
                sick.form = form
                await places.agree(state)
                sick.form = None
                await places.agree("ok", hurry=10)
    told = edges(logs, "couchdb")
    assert told == ["refused" if state == "broken" else "lost", "recovered"]


async def test_a_couchdb_that_reads_and_does_not_write_is_lost_throughout(
    couchdb: CouchDBServer, gate: Gate, medic: Database, tmp_path: Path
) -> None:
    """No line for each request: GET works all the time, and `_bulk_docs` does not."""
    with capture_logs() as logs:
        async with before(couchdb) as (server, sick), scripted(as_rapidpro) as rapidpro:
            config = configure(gate, medic, rapidpro.url, TOKEN, claim_timeout=120.0)
            config = replace(config, couchdb=replace(config.couchdb, url=server.url))
            async with observed(config, tmp_path, logs) as places:
                await places.agree("ok")
                sick.form, sick.only = Reply({"error": "internal"}, 500), "POST _bulk_docs"
                record = data_record(task(message("hello")))
                await medic.put(record)
                await places.agree("degraded")
                for _ in range(20):
                    jump(5)
                    await asyncio.sleep(0.02)
                    assert set((await places.read()).values()) <= {"degraded"}
                sick.form = None
                await places.agree("ok", hurry=60)  # the document that it failed at is tried every hour
    assert edges(logs, "couchdb") == ["lost", "recovered"]


async def test_rapidpro_that_answers_questions_and_takes_no_broadcast_is_lost_and_stays_so(
    gate: Gate, medic: Database, tmp_path: Path
) -> None:
    sick = Sick(as_rapidpro, Reply(status=500), only="POST")
    with capture_logs() as logs:
        async with scripted(sick) as rapidpro:
            config = configure(gate, medic, rapidpro.url, TOKEN, timeout=1.0, settle_time=10.0, claim_timeout=60.0)
            async with observed(config, tmp_path, logs) as places:
                await medic.bulk([data_record(task(message(f"hello {number}"))) for number in range(5)])
                await until(lambda: _later() and bool(edges(logs, "rapidpro")))
                await places.agree("degraded")
                for _ in range(20):
                    jump(5)
                    await asyncio.sleep(0.02)
                    assert set((await places.read()).values()) == {"degraded"}
                sick.form = None
                await places.agree("ok", hurry=5)
    assert edges(logs, "rapidpro") == ["lost", "recovered"]


@contextmanager
def reserved() -> Iterator[tuple[socket.socket, str]]:
    """An address that refuses connections until somebody listens at the socket."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        yield own, f"http://127.0.0.1:{own.getsockname()[1]}"


async def recovers_within(seconds: float, places: Places) -> None:
    """All five come to say "ok", and not by the next of the rare questions."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await places.agree("ok", hurry=0.5)
    assert loop.time() - began < seconds


async def test_rapidpro_that_refused_the_first_request_and_takes_broadcasts_is_ok_within_seconds(
    gate: Gate, medic: Database, tmp_path: Path
) -> None:
    """What failed was a GET, what works is a POST: without a question of its own the outage would seem to go on."""
    with capture_logs() as logs, reserved() as (address, url):
        config = configure(gate, medic, url, TOKEN, timeout=1.0, claim_timeout=60.0, settle_time=10.0)
        async with observed(config, tmp_path, logs) as places:
            await until(lambda: _later() and bool(edges(logs, "rapidpro")))
            await places.agree("degraded")
            async with scripted(as_rapidpro, address) as rapidpro:

                async def is_posted() -> bool:
                    await medic.put(data_record(task(message("hello"))))
                    jump(0.5)
                    await asyncio.sleep(0.02)
                    return bool(rapidpro.named("POST broadcasts.json"))

                await until(is_posted)
                await recovers_within(150, places)
                assert edges(logs, "rapidpro") == ["lost", "recovered"]


async def test_couchdb_that_refused_connections_is_ok_within_seconds(
    couchdb: CouchDBServer, gate: Gate, medic: Database, tmp_path: Path
) -> None:
    """Also where nothing changes in it, and so the feed has nothing to say for a minute."""
    with capture_logs() as logs, reserved() as (address, url):
        async with scripted(as_rapidpro) as rapidpro, before(couchdb) as (_, sick):
            config = configure(gate, medic, rapidpro.url, TOKEN, claim_timeout=120.0)
            config = replace(config, couchdb=replace(config.couchdb, url=url))
            async with observed(config, tmp_path, logs) as places:
                await until(lambda: _later() and bool(edges(logs, "couchdb")))
                await places.agree("degraded")
                async with scripted(sick, address):
                    await recovers_within(40, places)
    assert edges(logs, "couchdb") == ["lost", "recovered"]


async def test_a_feed_that_failed_is_ok_within_seconds(
    couchdb: CouchDBServer, gate: Gate, medic: Database, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        async with scripted(as_rapidpro) as rapidpro, before(couchdb) as (server, sick):
            config = configure(gate, medic, rapidpro.url, TOKEN, claim_timeout=120.0)
            config = replace(config, couchdb=replace(config.couchdb, url=server.url))
            sick.form, sick.only = Reply({"error": "internal"}, 500), "POST _changes"
            async with observed(config, tmp_path, logs) as places:
                await until(lambda: _later() and bool(edges(logs, "couchdb")))
                await places.agree("degraded")
                sick.form = None
                await recovers_within(40, places)
    assert edges(logs, "couchdb") == ["lost", "recovered"]

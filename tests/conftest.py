"""One CouchDB for the session (starting a stand-in takes a second), one fresh database for each test."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from cht_rapidpro import adapters, components, daemon, domain, jobs
from demo.couchdb import CouchDBServer, StandinProcess, server_from_environment
from demo.database import Database, delete_database
from demo.medic import create_medic
from demo.rapidpro import RapidPro
from tests.support.fault_proxy import Gate, open_gate
from tests.support.virtual_time import JumpingLoop, wall_clock

TOKEN = "0123456789abcdef"

# The speed of the machine decides no test.
settings.register_profile("cht-rapidpro", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cht-rapidpro")


def pytest_asyncio_loop_factories() -> dict[str, type[JumpingLoop]]:
    """Every test runs on a loop whose clock can be set forward."""
    return {"jumping": JumpingLoop}


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """What a shell runs in the background ignores SIGINT, and so would every process that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call of the daemon's own on the event loop fails the test."""
    with blockbuster_ctx([adapters, jobs, domain, daemon, components]):
        yield


@pytest.fixture(autouse=True)
async def no_leaked_tasks() -> AsyncIterator[None]:
    """What a test starts it also ends."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left running: {left}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of a developer's shell is none of a test's."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def couchdb() -> Iterator[CouchDBServer]:
    external = server_from_environment()
    if external:
        yield external
        return
    with StandinProcess() as standin:
        yield standin


@pytest.fixture
def database_name() -> str:
    return f"test-{uuid4().hex}"


@pytest.fixture
async def database(couchdb: CouchDBServer, database_name: str) -> AsyncIterator[Database]:
    """An empty database."""
    async with Database(couchdb, database_name) as database:
        await database.create()
        yield database
    await delete_database(couchdb, database_name)


@pytest.fixture
async def medic(couchdb: CouchDBServer, database_name: str) -> AsyncIterator[Database]:
    """A database as CHT has it, without any message."""
    await create_medic(couchdb, database_name)
    async with Database(couchdb, database_name) as database:
        yield database
    await delete_database(couchdb, database_name)


@pytest.fixture
async def vault(couchdb: CouchDBServer, database_name: str) -> AsyncIterator[Database]:
    """CHT's credential store beside `database` or `medic`, empty."""
    async with Database(couchdb, f"{database_name}-vault") as vault:
        await vault.create()
        yield vault
    await delete_database(couchdb, f"{database_name}-vault")


@pytest.fixture
async def gate(couchdb: CouchDBServer) -> AsyncIterator[Gate]:
    async with open_gate(couchdb) as gate:
        yield gate


@pytest.fixture
async def rapidpro() -> AsyncIterator[RapidPro]:
    async with RapidPro(TOKEN, clock=lambda: wall_clock() / 1000) as rapidpro:
        yield rapidpro

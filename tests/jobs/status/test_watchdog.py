"""systemd's watchdog is fed while every job gets on, and by nobody else."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.host.sd_notify import Notifier
from cht_rapidpro.config.schema import Cht, Couchdb, Rapidpro
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.errors import TransientError
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.status.status import Status
from cht_rapidpro.jobs.status.watchdog import Watchdog
from cht_rapidpro.telemetry.dependency_health import Health
from cht_rapidpro.telemetry.liveness import Liveness
from tests.support.fault_proxy import until
from tests.support.virtual_time import jump

LONG = 1000.0  # seconds


@asynccontextmanager
async def fed(
    folder: Path, pulses: Collection[Liveness], jobs: Collection[asyncio.Task[None]] = ()
) -> AsyncIterator[socket.socket]:
    """A watchdog that runs, and the socket where systemd hears it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "4000000"})
        status = Status(Instance("0" * 32, "test"), SettingsWatch(Couch(Couchdb()), Cht(), Rapidpro()), [])
        status.watch(pulses, jobs)
        running = asyncio.create_task(Watchdog(notifier, status).run())
        yield systemd
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def hears(systemd: socket.socket) -> bool:
    """Whether the watchdog has been fed since the last look."""
    heard = []
    with suppress(BlockingIOError):
        while True:
            heard.append(systemd.recv(1000))
    return b"WATCHDOG=1" in heard


async def turns(count: int = 3) -> None:
    """Lets as many of the watchdog's intervals pass."""
    for _ in range(count):
        jump(LONG)
        await asyncio.sleep(0.01)


async def test_the_watchdog_is_fed_while_the_jobs_wait_and_step(tmp_path: Path) -> None:
    liveness = Liveness("writer", Health("couchdb"))
    async with fed(tmp_path, [liveness]) as systemd:
        await turns()
        assert hears(systemd)
        with liveness.step():
            await turns()
            assert hears(systemd)


async def test_a_step_that_does_not_end_starves_it_until_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    liveness = Liveness("writer", Health("couchdb"), longest=0.0)
    async with fed(tmp_path, [liveness, Liveness("feed", Health("couchdb"))]) as systemd:
        with liveness.step():
            await turns()
            hears(systemd)
            await turns()
            assert not hears(systemd)
        out = capsys.readouterr().out
        assert out.count("job.stalled") == 1
        assert "writer" in out
        await turns()
        assert hears(systemd)


async def test_a_step_that_waits_for_a_dependency_is_no_stall(tmp_path: Path) -> None:
    couchdb = Health("couchdb")
    liveness = Liveness("writer", couchdb, longest=0.0)
    couchdb.fails(TransientError("away"))
    async with fed(tmp_path, [liveness]) as systemd:
        with liveness.step():
            await turns()
            assert hears(systemd)
            couchdb.works()
            await turns()
            hears(systemd)
            await turns()
            assert not hears(systemd)


def test_a_step_that_is_replaced_ends_without_ending_the_one_that_followed() -> None:
    liveness = Liveness("feed", Health("couchdb"), longest=0.0)
    first, second = liveness.step(), liveness.step()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert liveness.stalled_for() is not None
    second.__exit__(None, None, None)
    assert liveness.stalled_for() is None


def test_the_time_of_an_outage_does_not_count() -> None:
    couchdb = Health("couchdb")
    liveness = Liveness("writer", couchdb, longest=0.0)
    began, outage = time.monotonic(), 0.02
    with liveness.step():
        couchdb.fails(TransientError("away"))
        time.sleep(outage)
        couchdb.works()
        stalled = liveness.stalled_for()
        assert stalled is not None
        assert stalled <= time.monotonic() - began - outage


async def test_a_job_that_has_ended_starves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The task group takes no notice of a job that was cancelled by mistake, or of one that just returns."""
    ends = asyncio.Event()
    job = asyncio.create_task(_waits_for(ends), name="feed")
    async with fed(tmp_path, [], [job]) as systemd:
        await turns()
        assert hears(systemd)
        ends.set()
        await until(job.done)
        hears(systemd)
        await turns()
        assert not hears(systemd)
    assert "job.stalled" in capsys.readouterr().out


async def _waits_for(event: asyncio.Event) -> None:
    await event.wait()

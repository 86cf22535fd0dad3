"""The daemon's life: the order in which its parts start and stop.

The nesting of `async with` is the order of dependency. At a stop the jobs that find work end first. Then the relay
releases unused claims and settles its messages, and the delivery job finishes the states that it is writing. Then the
webhook's server stops listening and answers the requests that have arrived; the writer of incoming messages and the
spool end after it, because these answers need them. The writer of tasks ends last.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.host.pause_file import PauseFile
from cht_rapidpro.adapters.host.sd_notify import SILENT, Notifier
from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.adapters.rapidpro.dry_run import ReadOnlyCouch, ReadOnlyRapidPro
from cht_rapidpro.adapters.web.admin import Admin
from cht_rapidpro.adapters.web.control import Control
from cht_rapidpro.adapters.web.operators_page import OperatorsPage
from cht_rapidpro.components import Job, Runtime, credentials, receiving, secrets, sending, watch_ground
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.config.schema import Config
from cht_rapidpro.config.secret_store import Keyring
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.jobs.documents.dry_writer import DryWriter
from cht_rapidpro.jobs.documents.writer import Writer
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.live_config.reload import Reload
from cht_rapidpro.jobs.outgoing.leftovers import NEXT_STEP
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.jobs.status.dependency_probe import Heartbeat
from cht_rapidpro.jobs.status.history import HistoryKeeper
from cht_rapidpro.jobs.status.status import Status
from cht_rapidpro.jobs.status.watchdog import Watchdog
from cht_rapidpro.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# A stop takes at most [rapidpro] timeout for the sends in flight, and this for two writes that settle and release; then
# 10 s in which the webhook's server answers requests and 10 s in which it cuts off the rest, 3 s for the spool's lock,
# and 1 s each for the admin listener and the control socket: 70 s with the defaults, less than the unit's
# TimeoutStopSec of 90 s.
_WRITE_BUDGET: Final = 15.0


# Beside each other: what reads and writes, and what a dry run has in its place.
_SIDES: Final = {
    False: (Couch, RapidPro, Writer),
    True: (ReadOnlyCouch, ReadOnlyRapidPro, DryWriter),
}


async def run(config: Config, instance_id: str, load: Callable[[], Config], sockets: Sequence[socket.socket]) -> None:
    """Runs the daemon until SIGTERM or SIGINT. Raises every error that it cannot handle: a restart is the recovery.

    `load` reads the configuration again, at SIGHUP. `sockets`: the webhook's sockets that systemd holds.
    """
    stop, hangup = asyncio.Event(), asyncio.Event()
    with _stop_signals(stop), _hangup_signal(hangup):
        log.info(
            "daemon.started",
            version=version("cht-rapidpro"),
            instance=instance_id,
            couchdb=config.couchdb.url,
            database=config.couchdb.database,
        )
        if config.dry_run:
            log.warning("daemon.writes_nothing", means="a dry run: no POST, no document; no webhook is listened for")
        me = Instance(instance_id, config.cht.instance)
        notifier = Notifier(os.environ)
        reload = Reload(config, load, hangup, notifier)
        await serve(config, me, stop, _wall_clock, reload, notifier, sockets)
        log.info("daemon.stopped")


async def serve(
    config: Config,
    me: Instance,
    stop: asyncio.Event,
    wall_clock: Callable[[], int],
    reload: Reload,
    notifier: Notifier = SILENT,
    sockets: Sequence[socket.socket] = (),
) -> None:
    """The composition root: works until `stop` is set. `wall_clock`: ms since the epoch, for the documents."""
    keyring = Keyring(secrets(config), is_filled=config.cht.credentials != "vault")
    metrics = Metrics()
    couchdb, sender, task_writer = _SIDES[config.dry_run]
    async with couchdb(config.couchdb) as couch, sender(config.rapidpro, keyring) as rapidpro:
        writer = task_writer(couch)
        settings = SettingsWatch(couch, config.cht, config.rapidpro)
        status = Status(me, settings, [couch.health, *rapidpro.healths.values()])
        pause = PauseWatch(PauseFile(Path(config.cht.state_dir)), wall_clock)
        control = Control(Path(config.cht.state_dir))
        runtime = Runtime(
            config, couch, rapidpro, writer, settings, pause, keyring, reload, metrics, status, wall_clock, control
        )
        watch_ground(runtime)
        history = HistoryKeeper(metrics, status.read, wall_clock)
        status.stuck["failed"] = history.history.failures
        admin = Admin(config.admin.listen, status.snapshot, metrics)
        status.problems.append(admin.problems)
        OperatorsPage(status.snapshot, history.history, wall_clock).add_to(admin.application)
        async with admin, asyncio.TaskGroup() as jobs:
            writing = jobs.create_task(writer.run(), name="writer")
            try:
                async with receiving(runtime, sockets) as fetchers:
                    searches, workers = sending(runtime, me)
                    heartbeat = Heartbeat(couch, rapidpro, settings, keyring)
                    reload.subscribe(lambda _: heartbeat.renew())
                    finders: list[Job] = [
                        settings,
                        pause,
                        reload,
                        history,
                        heartbeat,
                        *searches,
                        *credentials(runtime),
                        *fetchers,
                    ]
                    finding = [jobs.create_task(each.run(), name=type(each).__name__.lower()) for each in finders]
                    working = [jobs.create_task(each.run(stop), name=type(each).__name__.lower()) for each in workers]
                    status.watch([writer.liveness, settings.liveness], [writing, *finding, *working])
                    finding.append(jobs.create_task(Watchdog(notifier, status).run()))
                    try:
                        async with control:
                            notifier.ready()
                            await stop.wait()
                            notifier.stopping()
                            await end(*finding)
                        await _let_finish(working, config.rapidpro.timeout + _WRITE_BUDGET)
                        _tell_leftovers(status.leftovers())
                    finally:
                        await end(*finding, *working)
            finally:
                await end(writing)


async def _let_finish(working: Collection[asyncio.Task[None]], seconds: float) -> None:
    _, late = await asyncio.wait(working, timeout=seconds)
    if late:
        log.warning("stop.cut_short", means="open claims stay in CouchDB; the next start looks them up")


def _tell_leftovers(found: Mapping[str, int]) -> None:
    if any(found.values()):
        log.warning("stop.left_over", **found, means=NEXT_STEP)


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _stop_signals(stop: asyncio.Event) -> Iterator[None]:
    """The first SIGTERM or SIGINT sets `stop` and restores the default: a second one kills."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    def on_signal(number: signal.Signals) -> None:
        restore()  # before the log line, after which a person may send a second signal
        log.info("stop.requested", signal=number.name)
        stop.set()

    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        restore()


@contextmanager
def _hangup_signal(hangup: asyncio.Event) -> Iterator[None]:
    """SIGHUP sets `hangup`, as often as it comes; without a handler it would end the process.

    `__main__` blocks the signal at the start: one that has come since is delivered here, and the block is back in force
    before the handler goes.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        loop.remove_signal_handler(signal.SIGHUP)

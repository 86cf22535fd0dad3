"""The daemon: what is made from what, in which order it starts, and in which it stops.

The nesting is the dependency order. At a stop the finders of work end first, then the relay gives back and settles what
it holds; the webhook's server stops listening and answers what has come, for which the writer of incoming messages and
then the spool end after it; the writer of tasks, which the relay needs, ends last.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

from cht_rapidpro.adapters.admin import Admin
from cht_rapidpro.adapters.couchdb import Couch
from cht_rapidpro.adapters.http import Webhook
from cht_rapidpro.adapters.notify import SILENT, Notifier
from cht_rapidpro.adapters.rapidpro import RapidPro
from cht_rapidpro.adapters.spool import Spool
from cht_rapidpro.adapters.vault import CredentialName, Vault
from cht_rapidpro.config import Config
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.jobs.backfill import Backfill
from cht_rapidpro.jobs.backlog import Backlog
from cht_rapidpro.jobs.claims import Claims
from cht_rapidpro.jobs.credentials import Credentials
from cht_rapidpro.jobs.doubts import Doubts
from cht_rapidpro.jobs.feed import Feed
from cht_rapidpro.jobs.incoming import Incoming
from cht_rapidpro.jobs.lookup import Lookup
from cht_rapidpro.jobs.outgoing import Outgoing
from cht_rapidpro.jobs.reload import Reload
from cht_rapidpro.jobs.settings import SettingsWatch
from cht_rapidpro.jobs.status import Status
from cht_rapidpro.jobs.watchdog import Watchdog
from cht_rapidpro.jobs.writer import Writer
from cht_rapidpro.keyring import Keyring, Secrets
from cht_rapidpro.metrics import Figure, Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# A stop takes at most [rapidpro] timeout for the sends in flight, and this for settling and releasing: two writes; then
# the server's own 10 s for answering what has come, the spool's 3 s for a lock, and the admin listener's 1 s: 59 s with
# the defaults, which is smaller than the unit's TimeoutStopSec of 90 s.
_WRITE_BUDGET: Final = 15.0
# A broadcast younger than a request may take, and this, may be another daemon's that is not settled yet.
_REQUEST_MARGIN: Final = 2.0


async def run(config: Config, instance_id: str, load: Callable[[], Config], sockets: Sequence[socket.socket]) -> None:
    """Runs the daemon until SIGTERM or SIGINT. Whatever it cannot handle is raised: a restart is the recovery.

    `load` reads the configuration anew, at SIGHUP; `sockets`: those that systemd listens at for the webhook.
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
    """The composition root: relays until `stop` is set. `wall_clock`: ms since the epoch, for the documents."""
    keyring = Keyring(_secrets(config))
    metrics = Metrics()
    async with Couch(config.couchdb) as couch, RapidPro(config.rapidpro, keyring) as rapidpro:
        writer = Writer(couch)
        backlog = Backlog()
        settings = SettingsWatch(couch, config.cht, config.rapidpro)
        feed = Feed(couch, settings, backlog, writer.copies, config.outgoing.sweep_interval)
        claims = Claims(writer, backlog, me, config.outgoing, wall_clock, metrics)
        request_time = config.rapidpro.timeout + _REQUEST_MARGIN
        lookup = Lookup(couch, rapidpro, me.id, request_time, config.outgoing.claim_timeout, wall_clock)
        doubts = Doubts(
            lookup, claims, settings, config.outgoing.settle_time, request_time, config.outgoing.claim_timeout, metrics
        )
        outgoing = Outgoing(
            claims, doubts, backlog, rapidpro, settings, config.outgoing, config.rapidpro, keyring, metrics
        )
        reload.subscribe(lambda new: couch.sign_in_with(new.couchdb))
        reload.subscribe(lambda new: rapidpro.limit(new.rapidpro.requests_per_hour))
        reload.subscribe(lambda new: outgoing.limit(new.rapidpro))
        status = Status(me, settings, [couch.health, *rapidpro.healths.values()])
        status.figures |= _figures(backlog, claims, doubts, feed, rapidpro, wall_clock)
        metrics.include(couch.times, rapidpro.times)
        pulses = [writer.pulse, settings.pulse, feed.sweeping, feed.following, claims.pulse]
        async with Admin(config.admin.listen, status.snapshot, metrics), asyncio.TaskGroup() as jobs:
            writing = jobs.create_task(writer.run(), name="writer")
            receiving = _receiving(config, keyring, couch, rapidpro, settings, wall_clock, sockets, status, metrics)
            async with receiving as fetchers:
                finding = [jobs.create_task(each.run(), name=type(each).__name__) for each in (settings, feed, reload)]
                finding += [jobs.create_task(each.run(), name="backfill") for each in fetchers]
                if config.cht.credentials == "vault":
                    credentials = Credentials(Vault(couch), keyring, tuple(CredentialName))
                    reload.subscribe(lambda _: credentials.refresh())
                    finding.append(jobs.create_task(credentials.run(), name="credentials"))
                else:
                    reload.subscribe(lambda new: keyring.replace(_secrets(new)))
                relaying = jobs.create_task(outgoing.run(stop), name="relay")
                status.watch(pulses, [writing, *finding, relaying])
                finding.append(jobs.create_task(Watchdog(notifier, status).run()))
                notifier.ready()
                await stop.wait()
                notifier.stopping()
                for job in finding:
                    job.cancel()
                _, late = await asyncio.wait({relaying}, timeout=config.rapidpro.timeout + _WRITE_BUDGET)
                if late:
                    log.warning("stop.cut_short", means="open claims stay in CouchDB; the next start looks at them")
                relaying.cancel()
            writing.cancel()


@asynccontextmanager
async def _receiving(
    config: Config,
    keyring: Keyring,
    couch: Couch,
    rapidpro: RapidPro,
    settings: SettingsWatch,
    wall_clock: Callable[[], int],
    sockets: Sequence[socket.socket],
    status: Status,
    metrics: Metrics,
) -> AsyncIterator[Sequence[Backfill]]:
    """The way in, while the block runs; `status` and `metrics` are told of it. It begins before CouchDB was reached.

    Yields the job that fetches what was missed, if there is one, to be run by whoever stops it first.
    """
    own = config.incoming
    if not own.enabled:
        yield ()
        return
    async with Spool(Path(own.spool)) as spool:
        incoming = Incoming(
            couch, spool, settings, metrics, max_waiting=own.max_waiting, check_legacy_ids=own.check_legacy_ids
        )
        webhook = Webhook(own, keyring, incoming.store, wall_clock, sockets)
        metrics.include(webhook.times)
        status.healths.append(spool.health)
        status.can_store = lambda: incoming.can_store or couch.health.error is None
        status.figures |= {
            "incoming_messages": lambda: len(incoming),
            "spooled_messages": lambda: {"waiting": incoming.spooled.waiting, "rejected": incoming.spooled.rejected},
        }
        async with asyncio.TaskGroup() as jobs:
            recording = jobs.create_task(incoming.run(), name="incoming")
            status.watch(incoming.pulses, [recording])
            async with webhook:
                fetchers = [Backfill(couch, rapidpro, spool, incoming, settings, own, wall_clock)] if own.flow else []
                status.healths += [each.health for each in fetchers]
                yield fetchers
            recording.cancel()


def _secrets(config: Config) -> Secrets:
    """Those of the configuration; with the vault there are none before it is read."""
    return Secrets(config.rapidpro.token, config.incoming.keys)


def _figures(
    backlog: Backlog, claims: Claims, doubts: Doubts, feed: Feed, rapidpro: RapidPro, wall_clock: Callable[[], int]
) -> dict[str, Callable[[], Figure]]:
    """What of the way out can be counted; read in the event loop."""
    now = asyncio.get_running_loop().time
    return {
        "queue_messages": lambda: len(backlog),
        "queue_oldest_seconds": lambda: (wall_clock() - backlog.oldest_due) / 1000 if backlog.oldest_due else None,
        "claimed_tasks": lambda: len(claims),
        "ambiguous_messages": lambda: len(doubts),
        "budget_left_requests": lambda: {scope: budget.left(now()) for scope, budget in rapidpro.budgets.items()},
        "feed_lag_seconds": lambda: None if feed.heard is None else now() - feed.heard,
    }


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
        log.info("stop.requested", signal=number.name)
        restore()
        stop.set()

    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        restore()


@contextmanager
def _hangup_signal(hangup: asyncio.Event) -> Iterator[None]:
    """SIGHUP sets `hangup`, as often as it comes; without a handler it would end the process."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)

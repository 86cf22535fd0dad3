"""Makes the parts of the daemon: for outgoing messages, for incoming messages, and the ones that both need.

`daemon.py` runs the parts and knows the order of start and stop; this module knows which part needs which. A part's
figures for the status and the metrics, and its subscription to a reload, are added where the part is made.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Protocol

import structlog

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.vault import Vault, needed
from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.adapters.spool.spool import Spool
from cht_rapidpro.adapters.web.control import Control
from cht_rapidpro.adapters.web.webhook import Webhook
from cht_rapidpro.cancellation import end
from cht_rapidpro.config.schema import Config
from cht_rapidpro.config.secret_store import Keyring, Secrets
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.findings import Finding, Level
from cht_rapidpro.jobs.delivery.discovery import OutstandingTasks
from cht_rapidpro.jobs.delivery.poll_plan import Questions
from cht_rapidpro.jobs.delivery.poller import Delivery
from cht_rapidpro.jobs.delivery.recipients import Recipients
from cht_rapidpro.jobs.delivery.state_writer import States
from cht_rapidpro.jobs.delivery.tracker import Watchlist
from cht_rapidpro.jobs.documents.writer import Writer
from cht_rapidpro.jobs.incoming.backfill import Backfill
from cht_rapidpro.jobs.incoming.receiver import Incoming
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.live_config.credentials import Credentials
from cht_rapidpro.jobs.live_config.reload import Reload
from cht_rapidpro.jobs.outgoing.broadcast_lookup import Lookup
from cht_rapidpro.jobs.outgoing.claims import Claims
from cht_rapidpro.jobs.outgoing.feed import Feed
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.jobs.outgoing.reconciler import Doubts
from cht_rapidpro.jobs.outgoing.relay import Outgoing
from cht_rapidpro.jobs.outgoing.send_queue import Backlog
from cht_rapidpro.jobs.outgoing.unlisted import UnlistedMessages
from cht_rapidpro.jobs.outgoing.unsendable import Unsendable
from cht_rapidpro.jobs.status.disk import Disk
from cht_rapidpro.jobs.status.memory import Memory
from cht_rapidpro.jobs.status.status import Status
from cht_rapidpro.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# Seconds added to the request time-out: a younger broadcast may be another daemon's that is not settled yet.
_REQUEST_MARGIN: Final = 2.0


class Job(Protocol):
    """A coroutine that runs until it is cancelled."""

    async def run(self) -> NoReturn: ...


@dataclass(frozen=True, slots=True)
class Ground:
    """The values that every part of the daemon needs. `wall_clock`: ms since the epoch, for the documents.

    `pause`: the operator's order to hold sending. `control`: a part adds its routes there.
    """

    config: Config
    couch: Couch
    rapidpro: RapidPro
    writer: Writer
    settings: SettingsWatch
    pause: PauseWatch
    keyring: Keyring
    reload: Reload
    metrics: Metrics
    status: Status
    wall_clock: Callable[[], int]
    control: Control


def watch_ground(ground: Ground) -> None:
    """Adds the figures of the dependencies to the status, and what a reload changes in them."""
    couch, rapidpro, now = ground.couch, ground.rapidpro, asyncio.get_running_loop().time
    ground.metrics.include(couch.times, rapidpro.times)
    ground.status.figures["budget_left_requests"] = lambda: {
        scope: budget.left(now()) for scope, budget in rapidpro.budgets.items()
    }
    ground.status.figures["budget_learned_requests"] = lambda: {
        scope: budget.learned for scope, budget in rapidpro.budgets.items() if budget.learned is not None
    }
    ground.status.figures["text_limit_characters"] = lambda: rapidpro.text_limit
    if ground.config.dry_run:
        ground.status.problems.append(
            lambda: [Finding(Level.DEGRADED, "This is a dry run: nothing is sent or written.")]
        )
    ground.status.paused = ground.pause.plain
    ground.status.problems.append(ground.pause.problems)
    ground.status.figures["sending_paused"] = lambda: int(ground.pause.pause is not None)
    ground.status.figures["pause_left_seconds"] = lambda: ground.pause.left
    ground.control.offer("GET", "/status", ground.status.snapshot)
    ground.reload.subscribe(lambda new: couch.sign_in_with(new.couchdb))
    ground.reload.subscribe(lambda new: rapidpro.limit(new.rapidpro.requests_per_hour))


def sending(ground: Ground, me: Instance) -> tuple[list[Job], list[Outgoing | Delivery]]:
    """The way out: what finds messages, and what works on them until it has come to an end itself."""
    config, couch, rapidpro, settings = ground.config.outgoing, ground.couch, ground.rapidpro, ground.settings
    backlog = Backlog()
    claims = Claims(ground.writer, backlog, me, config, ground.wall_clock, ground.metrics)
    unsendable = Unsendable(claims.held_back)
    feed = Feed(couch, settings, backlog, unsendable, ground.writer.copies, config.sweep_interval)
    finders: list[Job] = [feed, UnlistedMessages(couch, settings, unsendable, config.sweep_interval)]
    request_time = ground.config.rapidpro.timeout + _REQUEST_MARGIN
    lookup = Lookup(couch, ground.writer, rapidpro, me.id, request_time, ground.wall_clock)
    doubts = Doubts(
        lookup,
        claims,
        settings,
        ground.pause,
        config.settle_time,
        request_time,
        config.claim_timeout,
        ground.wall_clock,
        ground.metrics,
    )
    limits = ground.config.rapidpro
    outgoing = Outgoing(
        claims, doubts, backlog, rapidpro, settings, ground.pause, config, limits, ground.keyring, ground.metrics
    )
    ground.reload.subscribe(lambda new: outgoing.limit(new.rapidpro))
    Memory(backlog, claims, doubts).add_to(ground.control)
    _watch_sending(ground, backlog, claims, doubts, feed)
    ground.status.stuck |= {"held back": claims.held_back.all, "undecidable": doubts.undecided}
    ground.status.figures["unsendable_messages"] = lambda: {
        "held": len(claims.held_back),
        "undecidable": doubts.undecidable,
        **unsendable.counts(),
    }
    if not ground.config.delivery.enabled:
        return finders, [outgoing]
    delivery = _delivery(ground, backlog)
    claims.subscribe(delivery.settled)
    return finders, [outgoing, delivery]


def _watch_sending(ground: Ground, backlog: Backlog, claims: Claims, doubts: Doubts, feed: Feed) -> None:
    now, wall_clock = asyncio.get_running_loop().time, ground.wall_clock

    def oldest() -> float | None:
        due = min(filter(None, (backlog.oldest_due, doubts.oldest_due)), default=None)
        return None if due is None else (wall_clock() - due) / 1000

    ground.status.watch([feed.sweeping, feed.following, claims.pulse], [])
    ground.status.figures |= {
        "queue_messages": lambda: len(backlog),
        "queue_oldest_seconds": oldest,
        "claimed_tasks": lambda: len(claims),
        "ambiguous_messages": lambda: len(doubts),
        "held_documents": lambda: len(claims.held_back),
        "feed_lag_seconds": lambda: None if feed.heard is None else now() - feed.heard,
    }


def _delivery(ground: Ground, backlog: Backlog) -> Delivery:
    own = ground.config.delivery
    interval, give_up_after = (round(seconds * 1000) for seconds in (own.interval, own.give_up_after))
    watchlist = Watchlist(interval, give_up_after)
    outstanding = OutstandingTasks(ground.couch, watchlist, ground.settings, give_up_after)
    states = States(ground.writer, watchlist, ground.settings, own.write, ground.wall_clock, ground.metrics)
    ground.status.figures["outstanding_messages"] = lambda: len(watchlist)
    questions = Questions(ground.rapidpro, watchlist, lambda: len(backlog), own.interval, ground.wall_clock)
    recipients = Recipients(ground.couch, ground.rapidpro, ground.settings)
    rapidpro, settings = ground.rapidpro, ground.settings
    return Delivery(outstanding, watchlist, states, rapidpro, settings, questions, recipients, own, ground.wall_clock)


@asynccontextmanager
async def receiving(ground: Ground, sockets: Sequence[socket.socket]) -> AsyncIterator[list[Job]]:
    """The way in, while the block runs. It begins before CouchDB was reached.

    Yields the jobs that take in nothing themselves, or have to end first: the watch over the disk, and the one that
    fetches what was missed, if there is one.
    """
    own, couch, status = ground.config.incoming, ground.couch, ground.status
    if not own.enabled:
        yield []
        return
    async with Spool(Path(own.spool)) as spool:
        incoming = Incoming(
            couch,
            spool,
            ground.settings,
            ground.metrics,
            max_waiting=own.max_waiting,
            check_legacy_ids=own.check_legacy_ids,
        )
        webhook = Webhook(own, ground.keyring, incoming.store, ground.wall_clock, sockets, incoming.flow.notice)
        ground.metrics.include(webhook.times)
        status.healths.append(spool.health)
        status.can_store = lambda: incoming.can_store or couch.health.error is None
        status.miswired = incoming.flow.snapshot
        status.figures |= {
            "incoming_messages": lambda: len(incoming),
            "spooled_messages": lambda: {"waiting": incoming.spooled.waiting, "rejected": incoming.spooled.rejected},
        }
        async with asyncio.TaskGroup() as jobs:
            recording = jobs.create_task(incoming.run(), name="incoming")
            status.watch(incoming.pulses, [recording])
            disk = Disk(Path(own.spool).parent)
            status.problems += [lambda: _deafness(webhook, ground.keyring), disk.problems]
            try:
                async with webhook:
                    listening = jobs.create_task(webhook.run(), name="webhook")
                    status.watch([], [listening])
                    try:
                        fetchers = _fetchers(ground, spool, incoming)
                        status.healths += [each.health for each in fetchers]
                        yield [disk, *fetchers]
                    finally:
                        await end(listening)
            finally:
                await end(recording)


def _deafness(webhook: Webhook, keyring: Keyring) -> Iterator[Finding]:
    """The reasons why no webhook can bring a message at present."""
    if webhook.problem:
        advice = f"RapidPro's webhooks are lost unless [incoming] flow fetches them later: {webhook.problem}"
        yield Finding(Level.BROKEN, "The webhook's address is not available.", advice=advice)
    if keyring.is_filled and not keyring.secrets.incoming_keys:
        advice = "No key is known: give [incoming] key_file a key, or write one into CHT's vault."
        yield Finding(Level.BROKEN, "Every webhook is refused.", advice=advice)


def _fetchers(ground: Ground, spool: Spool, incoming: Incoming) -> list[Backfill]:
    own = ground.config.incoming
    if not own.flow:
        return []
    return [Backfill(ground.couch, ground.rapidpro, spool, incoming, ground.settings, own, ground.wall_clock)]


def credentials(ground: Ground) -> list[Credentials]:
    """Makes the job that fills the keyring from the vault, if the vault is configured."""
    if ground.config.cht.credentials != "vault":
        ground.reload.subscribe(lambda new: ground.keyring.replace(secrets(new)))
        return []
    vault = Vault(ground.couch)
    ground.status.healths.append(vault.health)
    credentials = Credentials(vault, ground.keyring, needed(ground.config))
    ground.status.problems.append(credentials.problems)
    ground.reload.subscribe(lambda _: credentials.refresh())
    return [credentials]


def secrets(config: Config) -> Secrets:
    """The secrets of the configuration; with the vault there are none before it is read."""
    return Secrets(config.rapidpro.token, config.incoming.keys)

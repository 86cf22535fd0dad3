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
from cht_rapidpro.adapters.host.sender_file import SenderFile
from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.adapters.spool.spool import Spool
from cht_rapidpro.adapters.web.control import Control
from cht_rapidpro.adapters.web.webhook import Webhook
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.config.schema import Config
from cht_rapidpro.config.secret_store import Keyring, Secrets
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.findings import Finding, Level
from cht_rapidpro.jobs.delivery.discovery import OutstandingTasks
from cht_rapidpro.jobs.delivery.poll_plan import PollPlan
from cht_rapidpro.jobs.delivery.poller import Delivery
from cht_rapidpro.jobs.delivery.recipients import Recipients
from cht_rapidpro.jobs.delivery.state_writer import StateWriter
from cht_rapidpro.jobs.delivery.tracker import DeliveryTracker
from cht_rapidpro.jobs.documents.writer import Writer
from cht_rapidpro.jobs.incoming.backfill import Backfill
from cht_rapidpro.jobs.incoming.receiver import Incoming
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.live_config.credentials import Credentials
from cht_rapidpro.jobs.live_config.reload import Reload
from cht_rapidpro.jobs.outgoing.abandoned import AbandonedClaims
from cht_rapidpro.jobs.outgoing.broadcast_lookup import Lookup
from cht_rapidpro.jobs.outgoing.claims import Claims
from cht_rapidpro.jobs.outgoing.contested import ContestWatch
from cht_rapidpro.jobs.outgoing.feed import Feed
from cht_rapidpro.jobs.outgoing.leftovers import Leftovers
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.jobs.outgoing.reconciler import Reconciler
from cht_rapidpro.jobs.outgoing.relay import Relay
from cht_rapidpro.jobs.outgoing.send_queue import SendQueue
from cht_rapidpro.jobs.outgoing.suspects import Suspects
from cht_rapidpro.jobs.outgoing.takeover import Takeover
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
class Runtime:
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


def watch_ground(runtime: Runtime) -> None:
    """Adds the figures of the dependencies to the status, and what a reload changes in them."""
    couch, rapidpro, now = runtime.couch, runtime.rapidpro, asyncio.get_running_loop().time
    runtime.metrics.include(couch.times, rapidpro.times)
    runtime.status.figures["budget_left_requests"] = lambda: {
        scope: budget.left(now()) for scope, budget in rapidpro.budgets.items()
    }
    runtime.status.figures["budget_learned_requests"] = lambda: {
        scope: budget.learned for scope, budget in rapidpro.budgets.items() if budget.learned is not None
    }
    runtime.status.figures["text_limit_characters"] = lambda: rapidpro.text_limit
    if runtime.config.dry_run:
        runtime.status.problems.append(
            lambda: [Finding(Level.DEGRADED, "This is a dry run: nothing is sent or written.")]
        )
    runtime.status.paused = runtime.pause.plain
    runtime.status.problems.append(runtime.pause.problems)
    runtime.status.figures["sending_paused"] = lambda: int(runtime.pause.pause is not None)
    runtime.status.figures["pause_left_seconds"] = lambda: runtime.pause.left
    runtime.control.offer("GET", "/status", runtime.status.snapshot)
    runtime.reload.subscribe(lambda new: couch.sign_in_with(new.couchdb))
    runtime.reload.subscribe(lambda new: rapidpro.limit(new.rapidpro.requests_per_hour))


def sending(runtime: Runtime, me: Instance) -> tuple[list[Job], list[Relay | Delivery]]:
    """The way out: what finds messages, and what works on them until it has come to an end itself."""
    config, couch, rapidpro, settings = runtime.config.outgoing, runtime.couch, runtime.rapidpro, runtime.settings
    send_queue = SendQueue()
    claims = Claims(runtime.writer, send_queue, me, config, runtime.wall_clock, runtime.metrics)
    unsendable = Unsendable(claims.held_back)
    request_time = runtime.config.rapidpro.timeout + _REQUEST_MARGIN
    lookup = Lookup(couch, runtime.writer, rapidpro, me.id, request_time, runtime.wall_clock)
    reconciler = Reconciler(
        lookup,
        claims,
        settings,
        runtime.pause,
        config.settle_time,
        request_time,
        config.claim_timeout,
        runtime.wall_clock,
        runtime.metrics,
    )
    note = SenderFile(Path(runtime.config.cht.state_dir))
    search = Suspects(couch, lookup, settings, reconciler.known, config.settle_time, runtime.wall_clock)
    takeover = Takeover(note, search, reconciler, settings, send_queue, runtime.wall_clock)
    claims.subscribe(takeover.settled)
    send_queue.is_held, claims.is_suspect = takeover.holds, takeover.suspects
    feed = Feed(couch, settings, send_queue, unsendable, runtime.writer.cache, config.sweep_interval)
    contest = ContestWatch(takeover, config.settle_time, runtime.wall_clock)
    feed.watchers += [takeover.see, contest.look]
    runtime.status.problems += [takeover.problems, contest.problems]
    runtime.status.figures["takeover_messages"] = lambda: takeover.undecided
    runtime.status.figures["contested_messages"] = lambda: len(contest)
    unlisted = UnlistedMessages(couch, settings, unsendable, config.sweep_interval, send_queue.is_draining)
    finders: list[Job] = [feed, takeover, contest, unlisted]
    limits = runtime.config.rapidpro
    outgoing = Relay(
        claims,
        reconciler,
        send_queue,
        rapidpro,
        settings,
        runtime.pause,
        takeover,
        config,
        limits,
        runtime.keyring,
        runtime.metrics,
    )
    runtime.reload.subscribe(lambda new: outgoing.limit(new.rapidpro))
    abandoned = AbandonedClaims(couch, settings, runtime.pause, claims, takeover, outgoing.take_up)
    finders.append(abandoned)
    leftovers = Leftovers(claims, reconciler, abandoned, runtime.pause, takeover, settings, runtime.status.spooled)
    runtime.control.offer("GET", "/leftovers", leftovers.plain)
    runtime.status.leftovers = leftovers.counts
    Memory(send_queue, claims, reconciler).add_to(runtime.control)
    _watch_sending(runtime, send_queue, claims, reconciler, feed)
    runtime.status.stuck |= {"held back": claims.held_back.all, "undecidable": reconciler.undecided}
    runtime.status.figures["unsendable_messages"] = lambda: {
        "held": len(claims.held_back),
        "undecidable": reconciler.undecidable,
        **unsendable.counts(),
    }
    if not runtime.config.delivery.enabled:
        return finders, [outgoing]
    delivery = _delivery(runtime, send_queue)
    claims.subscribe(delivery.settled)
    return finders, [outgoing, delivery]


def _watch_sending(runtime: Runtime, send_queue: SendQueue, claims: Claims, reconciler: Reconciler, feed: Feed) -> None:
    now, wall_clock = asyncio.get_running_loop().time, runtime.wall_clock

    def oldest() -> float | None:
        due = min(filter(None, (send_queue.oldest_due, reconciler.oldest_due)), default=None)
        return None if due is None else (wall_clock() - due) / 1000

    runtime.status.watch([feed.sweeping, feed.following, claims.liveness], [])
    runtime.status.figures |= {
        "queue_messages": lambda: len(send_queue),
        "queue_oldest_seconds": oldest,
        "claimed_tasks": lambda: len(claims),
        "ambiguous_messages": lambda: len(reconciler),
        "held_documents": lambda: len(claims.held_back),
        "feed_lag_seconds": lambda: None if feed.heard is None else now() - feed.heard,
    }


def _delivery(runtime: Runtime, send_queue: SendQueue) -> Delivery:
    own = runtime.config.delivery
    interval, give_up_after = (round(seconds * 1000) for seconds in (own.interval, own.give_up_after))
    tracker = DeliveryTracker(interval, give_up_after)
    outstanding = OutstandingTasks(runtime.couch, tracker, runtime.settings, give_up_after, send_queue.is_draining)
    states = StateWriter(runtime.writer, tracker, runtime.settings, own.write, runtime.wall_clock, runtime.metrics)
    runtime.status.figures["outstanding_messages"] = lambda: len(tracker)
    queries = PollPlan(runtime.rapidpro, tracker, lambda: len(send_queue), own.interval, runtime.wall_clock)
    recipients = Recipients(runtime.couch, runtime.rapidpro, runtime.settings)
    rapidpro, settings = runtime.rapidpro, runtime.settings
    return Delivery(outstanding, tracker, states, rapidpro, settings, queries, recipients, own, runtime.wall_clock)


@asynccontextmanager
async def receiving(runtime: Runtime, sockets: Sequence[socket.socket]) -> AsyncIterator[list[Job]]:
    """The way in, while the block runs. It begins before CouchDB was reached.

    Yields the jobs that take in nothing themselves, or have to end first: the watch over the disk, and the one that
    fetches what was missed, if there is one.
    """
    own, couch, status = runtime.config.incoming, runtime.couch, runtime.status
    if not own.enabled:
        yield []
        return
    async with Spool(Path(own.spool)) as spool:
        incoming = Incoming(
            couch,
            spool,
            runtime.settings,
            runtime.metrics,
            max_waiting=own.max_waiting,
            check_legacy_ids=own.check_legacy_ids,
        )
        webhook = Webhook(own, runtime.keyring, incoming.store, runtime.wall_clock, sockets, incoming.flow.notice)
        runtime.metrics.include(webhook.times)
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
            status.problems += [lambda: _deafness(webhook, runtime.keyring), disk.problems]
            try:
                async with webhook:
                    listening = jobs.create_task(webhook.run(), name="webhook")
                    status.watch([], [listening])
                    try:
                        fetchers = _fetchers(runtime, spool, incoming)
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


def _fetchers(runtime: Runtime, spool: Spool, incoming: Incoming) -> list[Backfill]:
    own = runtime.config.incoming
    if not own.flow:
        return []
    return [Backfill(runtime.couch, runtime.rapidpro, spool, incoming, runtime.settings, own, runtime.wall_clock)]


def credentials(runtime: Runtime) -> list[Credentials]:
    """Makes the job that fills the keyring from the vault, if the vault is configured."""
    if runtime.config.cht.credentials != "vault":
        runtime.reload.subscribe(lambda new: runtime.keyring.replace(secrets(new)))
        return []
    vault = Vault(runtime.couch)
    runtime.status.healths.append(vault.health)
    credentials = Credentials(vault, runtime.keyring, needed(runtime.config))
    runtime.status.problems.append(credentials.problems)
    runtime.reload.subscribe(lambda _: credentials.refresh())
    return [credentials]


def secrets(config: Config) -> Secrets:
    """The secrets of the configuration; with the vault there are none before it is read."""
    return Secrets(config.rapidpro.token, config.incoming.keys)

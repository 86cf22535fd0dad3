"""Finds the messages to send: the feed gives fast hints, the sweep of the view finds every message.

A sweep reads the view `medic/messages_by_state` from the oldest due message on until the send queue is full; it runs at
the start and every `sweep_interval`. When the queue runs low with more behind it, the feed goes on after the last row
that had room, in the index as it is: to bring the index up to date for each page costs CouchDB more than the messages
do. Such a page may lack what has changed since the sweep and show what was sent meanwhile: the claim decides on the
document, and the next sweep finds the rest. The follower continues from an
`update_seq` taken *before* a sweep, so that no change between the two is missed. If it got no answer since the sweep
before, it is started again from a new position: a filtered longpoll may wait for ever and gives no position of its own.
No checkpoint is stored: the state of the tasks is the checkpoint.
"""

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Any, Final, NoReturn

from cht_rapidpro.adapters.couchdb.changes import Changes, ChangesFeed, Hint
from cht_rapidpro.adapters.couchdb.client import Couch, MessageRow, Seq
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.settings import concerns_settings
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Doc, DocId, due, message_fields, messages, milliseconds, read_message, tasks
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.documents.writer import DocumentCache
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.send_queue import Candidate, SendQueue
from cht_rapidpro.jobs.outgoing.unsendable import Unsendable
from cht_rapidpro.telemetry.liveness import Liveness

_SENDABLE: Final = "pending-or-forwarded"  # the view's own name for it
_SETTINGS_EVERY: Final = 10  # sweeps
_MANY_ALIKE: Final = 50  # rows of one due and document; to go on among more of them would bring many again


class Feed:
    """Fills `send_queue` while the app settings choose this gateway, gives the feed's documents to `cache`, and watches
    the settings.
    """

    def __init__(
        self,
        couch: Couch,
        settings: SettingsWatch,
        send_queue: SendQueue,
        unsendable: Unsendable,
        cache: DocumentCache,
        sweep_interval: float,
    ) -> None:
        self._couch = couch
        self._changes = ChangesFeed(couch)
        self._settings = settings
        self._send_queue = send_queue
        self._unsendable = unsendable
        self._cache = cache
        self._interval = sweep_interval
        self.sweeping = Liveness("sweep", couch.health)
        self.following = Liveness("feed", couch.health)
        self._follower: asyncio.Task[NoReturn] | None = None
        self._answered = -math.inf  # loop time: when the follower last learned a position
        self.watchers: list[Callable[[DocId, Doc], None]] = []  # of what others do to documents, while we send
        self._place: tuple[Any, DocId] | None = None  # due and document of the row to go on at, if rows are left
        self._alike = 0  # rows of that due and document
        self.heard: float | None = None  # loop time: when CouchDB last reported what there is to send
        settings.subscribe(send_queue.want_sweep)

    async def run(self) -> NoReturn:
        async with asyncio.TaskGroup() as group:
            try:
                await self._sweep_for_ever(group)
            finally:
                if self._follower is not None:
                    await end(self._follower)
        raise AssertionError("unreachable: the sweeps have no end")

    async def _sweep_for_ever(self, group: asyncio.TaskGroup) -> NoReturn:
        with self.sweeping.step():
            await self._sweep_and_follow(group)
        for sweeps in itertools.count(2):
            began = loop_time()
            await self._until_next_sweep()
            with self.sweeping.step():
                if self._answered > began:
                    await self._sweep()
                else:
                    await self._sweep_and_follow(group)
            if sweeps % _SETTINGS_EVERY == 0:
                self._settings.refresh()
        raise AssertionError("unreachable: the loop above has no end")

    async def _sweep_and_follow(self, group: asyncio.TaskGroup) -> None:
        """Sweeps, and replaces the follower by one that continues from before the sweep."""
        position = await until_it_works(self._couch.update_seq)
        self._follower = self._follower or group.create_task(self._follow(position))
        await self._sweep()
        await end(self._follower)
        self._follower = group.create_task(self._follow(position))

    async def _until_next_sweep(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval):
                await self._until_sweep_wanted()
        self._send_queue.low.clear()

    async def _until_sweep_wanted(self) -> None:
        """Fills the queue with what follows the last sweep, as long as that is enough."""
        while True:
            await self._send_queue.low.wait()
            self._send_queue.low.clear()
            if self._place is None or self._alike > _MANY_ALIKE or self._send_queue.is_sweep_wanted:
                return
            with self.sweeping.step():
                await until_it_works(self._go_on)

    async def _sweep(self) -> None:
        if self._settings.target is None:
            self._place = None
            self._send_queue.clear()
            self._unsendable.clear()
            return
        await until_it_works(self._sweep_once)
        self.heard = loop_time()

    async def _sweep_once(self) -> None:
        """Begins with the oldest and ends when the queue is full; it never waits for room."""
        self._send_queue.start_sweep(loop_time())
        self._unsendable.start_sweep()
        self._place = None
        if await self._read(self._couch.messages_in(_SENDABLE)):
            self._unsendable.end_sweep()

    async def _go_on(self) -> None:
        self._send_queue.go_on(loop_time())
        await self._read(self._couch.messages_in(_SENDABLE, since=self._place))

    async def _read(self, rows: AsyncGenerator[list[MessageRow], None]) -> bool:
        """Fills the queue, and notes where to go on; whether it has taken in all that there is."""
        async with aclosing(rows) as pages:
            async for page in pages:
                for row in page:
                    self._unsendable.see(row)
                if not all(map(self._take_in, page)):
                    self._send_queue.end_sweep(at_the_end=False)
                    return False
        self._place = None
        self._send_queue.end_sweep(at_the_end=True)
        return True

    def _take_in(self, row: MessageRow) -> bool:
        """Whether there was room for it, or there is nothing to send."""
        candidate = _candidate(row)
        if candidate is not None and not self._send_queue.add(candidate):
            return False
        place = row.due, row.doc_id
        self._alike = self._alike + 1 if place == self._place else 1
        self._place = place
        return True

    async def _follow(self, since: Seq) -> NoReturn:
        while True:
            with self.following.step():
                changes = await until_it_works(self._wait, since)
            self.heard = self._answered = loop_time()
            since = changes.last_seq
            if not changes.is_complete:
                self._send_queue.want_sweep()
            for hint in changes.hints:
                self._take(hint)

    async def _wait(self, since: Seq) -> Changes:
        if self._couch.health.error is not None:
            await self._couch.update_seq()  # a feed that works again may be silent for a minute: a sweep tells at once
        return await self._changes.wait(since)

    def _take(self, hint: Hint) -> None:
        if concerns_settings(hint.doc_id):
            self._settings.refresh()
        elif hint.doc is not None and self._settings.target is not None:
            for watcher in self.watchers:
                watcher(hint.doc_id, hint.doc)
            if hint.has_branches:
                self._cache.drop(hint.doc_id)
            else:
                self._cache.put(hint.doc, hint.size, loop_time())
            self._unsendable.look(hint.doc_id, hint.doc)
            for candidate in _candidates(hint.doc):
                self._send_queue.offer(candidate)


def _candidate(row: MessageRow) -> Candidate | None:
    """Returns the message of a view row, or None if it cannot be sent (CHT emits such rows, too)."""
    found = read_message(message_fields(row.value))
    moment = milliseconds(row.due) if isinstance(row.due, int | float) else 0
    return Candidate(moment or 0, row.doc_id, found.uuid, hash(found.text)) if found else None


def _candidates(doc: Doc) -> Iterator[Candidate]:
    """The messages of a document whose tasks are `pending`."""
    for task in tasks(doc):
        if task.get("state") == State.PENDING:
            for message in messages(task):
                yield Candidate(due(task, doc) or 0, doc["_id"], message.uuid, hash(message.text))

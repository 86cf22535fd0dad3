"""Keeps the delivery states up to date: polls RapidPro in bulk, and writes changes.

Each interval has one round: it reads from CouchDB which tasks wait for a state, polls those that are due
(domain/planner.py), and applies each answer as it arrives. Sending has priority: a round uses only what the budget
leaves. A failed request is repeated later, with growing pauses and for fewer messages at once, and other requests go
on. At a stop polling ends at once, and an answer that is being applied is written.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.rapidpro.client import Failure, RapidPro
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.config.schema import Delivery as DeliveryConfig
from cht_rapidpro.domain.budget import Scope
from cht_rapidpro.domain.delivery import MessageRow, is_plausible, match_broadcast, read_outstanding
from cht_rapidpro.domain.outgoing import Ambiguous, BroadcastId
from cht_rapidpro.domain.planner import Listing as PlannedListing
from cht_rapidpro.domain.planner import Round
from cht_rapidpro.domain.reconcile import Listed
from cht_rapidpro.domain.statuses import NO_MESSAGE, State, StateChange, broadcast_outcome, has_ended, message_outcome
from cht_rapidpro.domain.task import DocId, Task
from cht_rapidpro.jobs.delivery.discovery import OutstandingTasks
from cht_rapidpro.jobs.delivery.poll_plan import PollPlan
from cht_rapidpro.jobs.delivery.recipients import Recipients
from cht_rapidpro.jobs.delivery.state_writer import FRESH, StateWriter
from cht_rapidpro.jobs.delivery.tracker import DeliveryTracker, TrackedMessage, loop_ms
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.rapidpro_pages.pages import Seen, messages_of, pages_of

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_AT_ONCE: Final = 4  # look-ups in flight; more would slow down sending
_SHORTEST_PAUSE: Final = 0.1
_FAULTS: Final = 3  # in a row: RapidPro itself fails, and one request a round is enough to notice its recovery
_NO_MESSAGE_AFTER: Final = 900_000  # ms of RapidPro's clock since the broadcast
_UNMATCHED: Final = (
    "no message of the broadcast can be matched to this task: RapidPro has chosen other numbers, or has another"
    " broadcast under this id"
)


class Delivery:
    """`wall_clock`: ms since the epoch."""

    def __init__(
        self,
        outstanding: OutstandingTasks,
        tracker: DeliveryTracker,
        states: StateWriter,
        rapidpro: RapidPro,
        settings: SettingsWatch,
        questions: PollPlan,
        recipients: Recipients,
        config: DeliveryConfig,
        wall_clock: Callable[[], int],
    ) -> None:
        self._outstanding = outstanding
        self._tracker = tracker
        self._states = states
        self._rapidpro = rapidpro
        self._settings = settings
        self._questions = questions
        self._recipients = recipients
        self._config = config
        self._wall_clock = wall_clock
        self._base = ""
        self._now = 0  # loop time in ms at which the round began
        self._left = 0  # requests made in the round
        self._faults = 0
        self._is_halted = False
        self._is_late = False  # the last round has left messages for the next one
        self._postponed: dict[TrackedMessage, StateChange] = {}
        self._changed = asyncio.Event()
        settings.subscribe(self._changed.set)

    def settled(self, doc_id: DocId, task: Task) -> None:
        """Called by the relay when it has settled a task."""
        values = self._settings.settings.values if self._settings.settings else {}
        if found := read_outstanding(doc_id, task, values):
            self._tracker.hold(found, loop_ms(), self._wall_clock(), self._questions.ahead())

    async def run(self, stop: asyncio.Event) -> None:
        """Polls until `stop` is set; finishes the writes in progress, which needs CouchDB."""
        async with asyncio.TaskGroup() as self._work:
            rounds = self._work.create_task(self._rounds())
            try:
                await stop.wait()
            finally:
                await end(rounds)

    # -- deciding ---------------------------------------------------------------------------------------------------

    async def _rounds(self) -> NoReturn:
        try:
            while True:
                started = loop_time()
                self._changed.clear()
                if self._settings.polled is None:
                    await self._changed.wait()
                    continue
                await self._round(self._settings.polled)
                await self._write_postponed()
                await asyncio.sleep(max(_SHORTEST_PAUSE, started + self._config.interval - loop_time()))
        finally:
            await self._outstanding.close()

    async def _round(self, base: str) -> None:
        if self._base not in ("", base):  # another RapidPro has other messages under these ids
            self._tracker.clear()
            await self._outstanding.close()
        self._base = base
        await until_it_works(self._outstanding.refresh, self._questions.horizon())
        self._now = loop_ms()
        self._left = self._questions.budget()
        self._is_halted = False
        ours_only = self._settings.target is None
        due = self._questions.begin(self._now, ours_only=ours_only, is_late=self._is_late)
        await self._ask_all(due)
        self._is_late = bool(due.left)
        log.debug("round.finished", watched=len(self._tracker))

    # -- asking -----------------------------------------------------------------------------------------------------

    async def _ask_all(self, due: Round[TrackedMessage]) -> None:
        while self._may_ask() and (step := due.next(min(self._at_once(), self._left))):
            if self._faults >= _FAULTS:
                self._is_halted = True
                step = step.blamed()[:1] if isinstance(step, PlannedListing) else step
            if isinstance(step, PlannedListing):
                await self._ask_listing(due, step)
            else:
                async with asyncio.TaskGroup() as group:
                    for watched in step:
                        del due.left[watched]
                        group.create_task(self._ask_single(due, watched.broadcast))

    def _at_once(self) -> int:
        is_careful = self._faults >= _FAULTS or self._rapidpro.budgets[Scope.MESSAGES].is_probing
        return 1 if is_careful else _AT_ONCE

    def _may_ask(self) -> bool:
        return not self._is_halted and self._left > 0 and self._questions.spare(Scope.MESSAGES) != 0

    async def _ask_single(self, due: Round[TrackedMessage], broadcast: BroadcastId) -> None:
        self._left -= 1
        seen = await messages_of(self._rapidpro, self._base, broadcast)
        asked = self._tracker.of(broadcast)
        for watched in asked:
            due.left.pop(watched, None)
        if not isinstance(seen, Seen):
            self._fail(seen, asked)
            return
        _, unmatched = await self._take(seen)
        for watched in asked:
            watched.is_silent = not seen.count
            watched.answered(self._now)
        if seen.count == 0 and any(watched.is_to_be_looked_up(self._now) for watched in asked):
            await self._look_up(broadcast, asked)
        if any(each.recipients is None and not each.is_unmatched for each in unmatched):
            await self._look_up(broadcast, asked)
            _, unmatched = await self._take(seen)
        for watched in unmatched:
            if not watched.is_unmatched:
                self._states.tell_unmatched(watched, _UNMATCHED)
            watched.is_unmatched = True

    async def _ask_listing(self, due: Round[TrackedMessage], listing: PlannedListing[TrackedMessage]) -> None:
        async with aclosing(pages_of(self._rapidpro, self._base, listing.after, listing.before)) as pages:
            self._left -= 1
            async for seen in pages:
                if not isinstance(seen, Seen):
                    blamed = listing.blamed()
                    for watched in blamed:
                        due.left.pop(watched, None)
                    self._fail(seen, blamed)
                    return
                shown, _ = await self._take(seen)
                for watched in shown:
                    watched.is_alone = len(shown) == 1 and not seen.is_last
                goes_on = listing.goes_on(shown, seen.newest, seen.oldest, is_last=seen.is_last)
                for watched in listing.passed:
                    watched.is_unlisted = True
                if not goes_on or not self._may_ask():
                    for watched in listing.ahead:
                        watched.latest = seen.oldest  # the next round continues there
                    return
                self._left -= 1

    # -- what comes of it -------------------------------------------------------------------------------------------

    async def _take(self, seen: Seen) -> tuple[list[TrackedMessage], list[TrackedMessage]]:
        """Applies a page: the tasks whose rows it shows, and the tasks whose broadcast has no row that is certainly
        theirs.
        """
        self._recover()
        rows: dict[BroadcastId, list[MessageRow]] = defaultdict(list)
        for row in seen.rows:
            rows[row.broadcast].append(row)
        pairs, unmatched = self._match(rows)
        hidden = {each.broadcast for each in unmatched if each.recipients is None}
        if asked := [each for each in hidden if all(row.urn is None for row in rows[each])]:
            for broadcast, urns in (await self._recipients.of_tasks(asked)).items():
                self._know(broadcast, urns)
            pairs, unmatched = self._match(rows)
        for watched, row in pairs:
            watched.shown(row.created_on, self._now)
        outcomes = [(watched, self._outcome(row.status)) for watched, row in pairs]
        await self._apply((watched, change) for watched, change in outcomes if change)
        return [watched for watched, _ in pairs], unmatched

    def _match(
        self, rows: Mapping[BroadcastId, Sequence[MessageRow]]
    ) -> tuple[list[tuple[TrackedMessage, MessageRow]], list[TrackedMessage]]:
        """Matches rows to tasks; returns also the tasks without a row."""
        present = self._questions.ahead()
        pairs: list[tuple[TrackedMessage, MessageRow]] = []
        unmatched: list[TrackedMessage] = []
        for broadcast, its_rows in rows.items():
            held = {watched.task.key: watched for watched in self._tracker.of(broadcast)}
            recipients = next((each.recipients for each in held.values()), None)
            ahead = next((each.ahead for each in held.values() if each.ahead is not None), present)
            for task, row in match_broadcast([each.task for each in held.values()], its_rows, recipients, ahead):
                pairs.append((held.pop(task.key), row))
            unmatched += held.values()
        return pairs, unmatched

    def _know(self, broadcast: BroadcastId, recipients: tuple[str, ...]) -> None:
        for watched in self._tracker.of(broadcast):
            watched.recipients = recipients

    def _outcome(self, status: str) -> StateChange | None:
        change = message_outcome(status)
        if change is None and status:
            self._states.tell_unknown(status)
        return change

    async def _apply(self, changes: Iterable[tuple[TrackedMessage, StateChange]]) -> None:
        """Writes changed states, in a task of its own, so that the write is finished after polling was cancelled.

        CHT's Sentinel reads a document and writes it a moment later: a state written in between makes its write fail.
        """
        wanted = []
        for watched, change in changes:
            if not self._states.is_news(watched, change):
                self._postponed.pop(watched, None)
            elif self._states.is_fresh(watched, loop_ms()):
                self._postponed[watched] = change
            else:
                wanted.append((watched, change))
        if wanted:
            await asyncio.wait({self._work.create_task(self._states.write(wanted))})

    async def _write_postponed(self) -> None:
        """Writes the states of tasks that had just changed; a stop forgets them, and the next start polls again."""
        if self._postponed:
            await asyncio.sleep(FRESH / 1000)
            postponed, self._postponed = self._postponed, {}
            await self._apply((each, change) for each, change in postponed.items() if self._tracker.holds(each))

    async def _look_up(self, broadcast: BroadcastId, asked: Sequence[TrackedMessage]) -> None:
        """Requests the broadcast itself: its recipients, and whether it failed or ended without a message."""
        if self._questions.spare(Scope.GENERAL) == 0:
            return
        listed = await self._recipients.listed(self._base, broadcast)
        if isinstance(listed, Failure):
            return
        if listed and listed.urns is not None:
            self._know(broadcast, listed.urns)
        silent = [watched for watched in asked if watched.is_silent]
        for watched in silent:
            watched.looked_up = max(1, self._now - watched.entered)
        if listed and (change := self._outcome_without_message(listed)):
            ahead = self._questions.ahead()
            its = [each for each in silent if is_plausible(each.task, listed.created_on, ahead)]
            await self._apply([(each, change) for each in its if not each.task.has_message])

    def _outcome_without_message(self, listed: Listed) -> StateChange | None:
        change = broadcast_outcome(listed.status)
        if change.state == State.FAILED:
            return change
        age = (self._rapidpro.clock() or listed.created_on) - listed.created_on
        return NO_MESSAGE if has_ended(listed.status) and age >= _NO_MESSAGE_AFTER else None

    def _fail(self, failure: Failure, asked: Sequence[TrackedMessage]) -> None:
        """Handles a failed request. A failure that is not about this one request ends the round."""
        if not isinstance(failure, Ambiguous):
            self._is_halted = True  # budget and health know already
            return
        is_ill = self._faults >= _FAULTS  # then no single message is the cause
        self._faults += 1
        if self._faults == 1:
            log.warning("poll.failed", why=failure.why, messages=len(asked))
        self._is_halted = self._is_halted or self._faults >= _FAULTS
        for watched in asked:
            watched.failed(self._now, round(self._config.interval * 1000))
            if not is_ill:
                watched.limit = max(1, min(watched.limit, len(asked)) // 2)

    def _recover(self) -> None:
        if self._faults >= _FAULTS:
            self._tracker.forgive()
        self._faults = 0

"""Keeps the states of sent messages fresh: asks RapidPro in bulk, and writes what has changed.

A round an interval: what waits for news is read from CouchDB, what is due is planned (domain/planner.py), asked, and
each answer applied as it comes in. Sending has priority: a round takes what the budget leaves to it. A request that
fails is tried later, ever more rarely and for ever fewer messages at once, and the others go on. At a stop the asking
ends at once, and an answer that is being applied is written.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.rapidpro import Failure, Listing, RapidPro, Rows
from cht_rapidpro.config import Delivery as DeliveryConfig
from cht_rapidpro.domain.budget import Scope
from cht_rapidpro.domain.delivery import is_plausible, match_rows, read_outstanding
from cht_rapidpro.domain.outgoing import BroadcastId, Doubtful
from cht_rapidpro.domain.planner import Ask, Question, Single, Window
from cht_rapidpro.domain.reconcile import read_listed
from cht_rapidpro.domain.statuses import State, StateChange, broadcast_outcome, message_outcome
from cht_rapidpro.domain.task import DocId, Task
from cht_rapidpro.jobs.inquiry import Seen, messages_of, pages_of
from cht_rapidpro.jobs.outstanding import OutstandingTasks
from cht_rapidpro.jobs.questions import Questions
from cht_rapidpro.jobs.retry import until_it_works
from cht_rapidpro.jobs.settings import SettingsWatch
from cht_rapidpro.jobs.states import States
from cht_rapidpro.jobs.watchlist import Watched, Watchlist

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_AT_ONCE: Final = 4  # requests; sending has the rest of RapidPro's attention
_PASSES: Final = 5  # plans a round: each knows the traffic better than the one before
_SHORTEST_PAUSE: Final = 0.1
_SILENT_AFTER: Final = 900_000  # ms without any message until a broadcast is looked up
_FAULTS: Final = 3  # in a row: RapidPro itself is ill, and one question a round is enough to see it recover


class Delivery:
    """`wall_clock`: ms since the epoch."""

    def __init__(
        self,
        outstanding: OutstandingTasks,
        watchlist: Watchlist,
        states: States,
        rapidpro: RapidPro,
        settings: SettingsWatch,
        questions: Questions,
        config: DeliveryConfig,
        wall_clock: Callable[[], int],
    ) -> None:
        self._outstanding = outstanding
        self._watchlist = watchlist
        self._states = states
        self._rapidpro = rapidpro
        self._settings = settings
        self._questions = questions
        self._config = config
        self._wall_clock = wall_clock
        self._base = ""
        self._now = 0
        self._faults = 0
        self._is_halted = False
        self._changed = asyncio.Event()
        settings.subscribe(self._changed.set)

    def settled(self, doc_id: DocId, task: Task) -> None:
        """The relay has just settled this task."""
        values = self._settings.settings.values if self._settings.settings else {}
        if found := read_outstanding(doc_id, task, values):
            self._watchlist.hold(found, self._wall_clock())

    async def run(self, stop: asyncio.Event) -> None:
        """Asks until `stop` is set; what is being written then is written, for which it needs CouchDB."""
        async with asyncio.TaskGroup() as self._work:
            rounds = self._work.create_task(self._rounds())
            await stop.wait()
            rounds.cancel()

    # -- deciding ---------------------------------------------------------------------------------------------------

    async def _rounds(self) -> NoReturn:
        try:
            while True:
                started = _time()
                self._changed.clear()
                if self._settings.target is None:
                    await self._changed.wait()  # whoever sends asks
                    continue
                await self._round(self._settings.target)
                await asyncio.sleep(max(_SHORTEST_PAUSE, started + self._config.interval - _time()))
        finally:
            await self._outstanding.close()

    async def _round(self, base: str) -> None:
        if self._base not in ("", base):  # another RapidPro, whose ids mean other messages
            self._watchlist.clear()
            self._questions.reset()
            await self._outstanding.close()
        self._base = base
        self._now = self._wall_clock()
        await until_it_works(self._outstanding.refresh, self._now)
        self._is_halted = False
        for _ in range(_PASSES):
            asks = self._questions.plan(self._watchlist.due(self._now))
            if not asks or self._is_halted:
                break
            await self._ask_all(asks)
        log.debug("round.finished", watched=len(self._watchlist))

    # -- asking -----------------------------------------------------------------------------------------------------

    async def _ask_all(self, asks: Iterable[Ask]) -> None:
        left = deque(asks)
        if self._faults >= _FAULTS:
            left = deque([Single(left[0].questions[0])])
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._ask_in_turn(left))

    async def _ask_in_turn(self, left: deque[Ask]) -> None:
        while left and not self._is_halted and self._questions.spare(Scope.MESSAGES) != 0:
            match left.popleft():
                case Single(question):
                    await self._ask_single(question)
                case Window() as window:
                    await self._ask_window(window)

    async def _ask_single(self, question: Question) -> None:
        seen = await messages_of(self._rapidpro, self._base, question.broadcast)
        if not isinstance(seen, Seen):
            self._fail(seen, [question.broadcast])
            return
        await self._take(seen, is_whole=True)
        for watched in self._watchlist.of(question.broadcast):
            watched.is_silent = not seen.rows
            if watched.asked != self._now:
                watched.answered(self._now)
                await self._look_up_silent(watched)

    async def _ask_window(self, window: Window) -> None:
        left = {question.broadcast: question for question in window.questions}
        read = 0
        async with aclosing(pages_of(self._rapidpro, self._base, window)) as pages:
            async for seen in pages:
                if not isinstance(seen, Seen):
                    self._fail(seen, left)
                    return
                read += 1
                answered = await self._take(seen, is_whole=False)
                is_on_plan = read < window.cost or answered.isdisjoint(left)
                for broadcast in answered:
                    left.pop(broadcast, None)
                self._questions.learn(seen, window)
                self._pass_over(left, seen, window)
                if not left or self._is_halted:
                    return
                # A longer listing than planned is planned again, with what it has taught; but only the whole folder
                # tells who is not in it.
                if not window.folder and not (
                    is_on_plan and self._questions.is_worthwhile(left.values(), seen, window)
                ):
                    return

    def _pass_over(self, left: dict[BroadcastId, Question], seen: Seen, window: Window) -> None:
        """What a listing should have shown by now is asked for in another way; the rest is looked for further back."""
        for broadcast, question in list(left.items()):
            is_passed = _is_passed(question, seen, window)
            if is_passed:
                del left[broadcast]
            for watched in self._watchlist.of(broadcast):
                if is_passed and window.folder:
                    watched.is_elsewhere = True
                elif is_passed:
                    watched.company = 1
                elif not window.folder and seen.moments and question.before > seen.oldest:
                    watched.latest = seen.oldest

    # -- what comes of it -------------------------------------------------------------------------------------------

    async def _take(self, seen: Seen, *, is_whole: bool) -> set[BroadcastId]:
        """Applies what a page says; the broadcasts that it has answered for."""
        self._recover()
        rows = defaultdict(list)
        for row in seen.rows:
            rows[row.broadcast].append(row)
        # The rows of a broadcast stand together: what a page may have cut stands at its edges.
        edges = set() if is_whole or not seen.rows else {seen.rows[0].broadcast, seen.rows[-1].broadcast}
        changes: list[tuple[Watched, StateChange]] = []
        answered = set()
        for broadcast, its_rows in rows.items():
            held = {watched.task.key: watched for watched in self._watchlist.of(broadcast)}
            tasks = [watched.task for watched in held.values()]
            for task, row in match_rows(tasks, its_rows, is_whole=broadcast not in edges):
                held[task.key].shown(row.created_on, self._now)
                answered.add(broadcast)
                if change := self._outcome(row.status):
                    changes.append((held[task.key], change))
        await self._apply(changes)
        return answered

    def _outcome(self, status: str) -> StateChange | None:
        change = message_outcome(status)
        if change is None:
            self._states.tell_unknown(status)
        return change

    async def _apply(self, changes: Sequence[tuple[Watched, StateChange]]) -> None:
        """In a task of its own, so that it outlives the asking."""
        if wanted := [(watched, change) for watched, change in changes if self._states.is_news(watched, change)]:
            await asyncio.wait({self._work.create_task(self._states.write(wanted))})

    async def _look_up_silent(self, watched: Watched) -> None:
        """A broadcast that has had no message for long may itself have failed."""
        is_old = self._now - watched.task.created_before >= _SILENT_AFTER
        if watched.is_looked_up or not watched.is_silent or not is_old or self._questions.spare(Scope.GENERAL) == 0:
            return
        query = {"id": watched.task.broadcast}
        answer = await self._rapidpro.list_rows(self._base, Listing.BROADCASTS, query, None)
        if not isinstance(answer, Rows):
            return
        watched.is_looked_up = True
        for listed in filter(None, map(read_listed, answer.rows)):
            change = broadcast_outcome(listed.status)
            is_its = listed.id == watched.task.broadcast and is_plausible(watched.task, listed.created_on)
            if is_its and change.state == State.FAILED:
                await self._apply([(watched, change)])

    def _fail(self, failure: Failure, broadcasts: Collection[BroadcastId]) -> None:
        """The questions of a request that failed. What is not about this one request ends the round."""
        if not isinstance(failure, Doubtful):
            self._is_halted = True  # the budget and the health have been told
            return
        is_ill = self._faults >= _FAULTS  # then it is nobody's own fault
        self._faults += 1
        if self._faults == 1:
            log.warning("question.failed", why=failure.why, messages=len(broadcasts))
        self._is_halted = self._faults >= _FAULTS
        for broadcast in broadcasts:
            for watched in self._watchlist.of(broadcast):
                watched.failed(self._now, round(self._config.interval * 1000))
                if not is_ill:
                    watched.company = max(1, min(watched.company, len(broadcasts)) // 2)

    def _recover(self) -> None:
        if self._faults >= _FAULTS:
            self._watchlist.forgive()
        self._faults = 0


def _is_passed(question: Question, seen: Seen, window: Window) -> bool:
    """Whether the listing is past the place where the message would be."""
    return seen.is_last or (not window.folder and bool(seen.moments) and question.after > seen.oldest)


def _time() -> float:
    return asyncio.get_running_loop().time()

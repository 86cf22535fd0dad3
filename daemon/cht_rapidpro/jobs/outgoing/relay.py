"""The relay: claims messages, posts their broadcasts, settles their tasks.

One loop, `_steer`, decides what starts and waits for nothing but its wake-up; what takes time runs in tasks of its own
and wakes it when it ends. A message is in one place at any moment: waiting in the backlog, being claimed, ready (its
claim stands and surely nothing was sent), in flight, in doubt (it may have been sent), or done. Stopping means that
the loop ends, what is ready is released, and what is in flight is settled. Messages of one text may share a broadcast;
that is so from their turn until its answer, and not remembered: each is claimed, settled and looked up for itself.
"""

import asyncio
import itertools
import math
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.cancellation import end
from cht_rapidpro.config.schema import Outgoing as OutgoingConfig
from cht_rapidpro.config.schema import Rapidpro
from cht_rapidpro.config.secret_store import Keyring
from cht_rapidpro.domain.claim import Claim
from cht_rapidpro.domain.outgoing import (
    Again,
    Answer,
    Created,
    Doubtful,
    Pair,
    Refused,
    Trouble,
    prepare,
)
from cht_rapidpro.domain.task import Message
from cht_rapidpro.domain.valve import Valve
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.backoff import Troubled
from cht_rapidpro.jobs.outgoing.batches import Ready
from cht_rapidpro.jobs.outgoing.batching_policy import Grouping
from cht_rapidpro.jobs.outgoing.claimed_task import HeldTask, Turn
from cht_rapidpro.jobs.outgoing.claims import Claims
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.jobs.outgoing.reconciler import Doubt, Doubts
from cht_rapidpro.jobs.outgoing.send_queue import Backlog, Candidate
from cht_rapidpro.jobs.outgoing.sender import Posting
from cht_rapidpro.telemetry.metrics import Metrics, Outcome

log: structlog.stdlib.BoundLogger = structlog.get_logger()

AHEAD: Final = 4  # broadcasts claimed and not posted, as a multiple of max_concurrency: it stays busy (measured)
RELEASE_AFTER: Final = 5.0  # seconds that sending may stand still before unused claims are given back


class Outgoing:
    """Owns the messages from their claim to their settling; every time and age in here is loop time, in seconds."""

    def __init__(
        self,
        claims: Claims,
        doubts: Doubts,
        backlog: Backlog,
        rapidpro: RapidPro,
        settings: SettingsWatch,
        pause: PauseWatch,
        config: OutgoingConfig,
        limits: Rapidpro,
        keyring: Keyring,
        metrics: Metrics,
    ) -> None:
        self._claims = claims
        self._doubts = doubts
        self._backlog = backlog
        self._rapidpro = rapidpro
        self._settings = settings
        self._pause = pause
        self._keyring = keyring
        self._metrics = metrics
        self._valve = Valve(limits.max_concurrency)
        self._max_ahead = AHEAD * limits.max_concurrency
        self._ready = Ready()
        self._posting = Posting(claims, doubts, rapidpro, settings, pause, self._valve, config.claim_timeout)
        self._troubled = Troubled()
        self._grouping = Grouping(rapidpro, backlog, self._ready, config.coalesce, limits.limits.broadcasts)
        self._numbers = itertools.count()
        self._in_flight = 0  # broadcasts
        self._claiming = False
        self._probing = False
        self._stopping = False
        self._target: str | None = None
        self._token = keyring.secrets.rapidpro_token
        self._wake = asyncio.Event()
        settings.subscribe(self._wake.set)
        pause.subscribe(self._wake.set)
        backlog.subscribe(self._wake.set)
        keyring.subscribe(self._wake.set)

    def limit(self, limits: Rapidpro) -> None:
        """Takes over the pace; broadcasts in flight that are more than may be now are not cut short."""
        self._valve.widen(limits.max_concurrency)
        self._max_ahead = AHEAD * limits.max_concurrency
        self._grouping.limit(limits.limits.broadcasts)
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Relays until `stop` is set, then gives back and settles what it holds; needs CouchDB for that."""
        async with asyncio.TaskGroup() as self._work:
            loops = [
                self._work.create_task(self._steer()),
                self._work.create_task(self._doubts.run(self._adopt, self._repeat)),
            ]
            try:
                await stop.wait()
            finally:
                await end(*loops)  # the claims of messages in doubt stay: the next start looks at them
            self._stopping = True
            self._release_ready()

    # -- deciding ---------------------------------------------------------------------------------------------------

    async def _steer(self) -> NoReturn:
        while True:
            self._wake.clear()
            if (self._target, self._token) != (self._settings.target, self._keyring.secrets.rapidpro_token):
                self._target, self._token = self._settings.target, self._keyring.secrets.rapidpro_token
                self._grouping.reset()
                self._valve.reset()
            delay = self._delay()
            if delay > RELEASE_AFTER:
                self._release_ready()
            elif not delay and (self._valve.needs_probe or self._grouping.has_to_ask(self._target)):
                self._start_probe()
            elif not delay:
                self._start_sends()
                self._start_claim()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay if 0 < delay < math.inf else None):
                    await self._wake.wait()

    def _delay(self) -> float:
        """Seconds until a broadcast may be posted; infinite while sending is not ours, or paused."""
        if self._target is None or not self._token or self._pause.is_on:
            return math.inf
        now = self._time()
        return max(self._valve.delay(now), self._rapidpro.budget.delay(now))

    def _start_probe(self) -> None:
        if not self._probing and (self._ready or len(self._backlog)):
            self._probing = True
            self._start(self._probe())

    async def _probe(self) -> None:
        if self._target is not None:
            answer = await self._rapidpro.probe(self._target)
            if self._valve.needs_probe or answer is None:
                self._valve.probed(answer, self._time())
            self._grouping.asked()
        self._probing = False

    def _start_sends(self) -> None:
        while len(self._ready) and self._in_flight < self._valve.width and self._left() != 0:
            turns = self._ready.pop()
            for turn in turns:
                turn.task.attempts += 1  # from here on the task is not given back
            self._in_flight += 1
            self._start(self._send(turns))

    def _left(self) -> float:
        """Requests left in the budget; those that are about to start count as started."""
        budget = self._rapidpro.budget
        left = budget.left(self._time())
        return math.inf if left is None else max(0, left - max(0, self._in_flight - budget.open))

    def _start_claim(self) -> None:
        base = self._target
        if self._claiming or base is None:
            return
        company = self._grouping.company(base)
        if candidates := self._backlog.take(self._room(), company):
            self._claiming = True
            self._start(self._claim(candidates, company, base))

    def _room(self) -> int:
        """How many broadcasts to claim for now: in batches, never far ahead of the sends, none beyond the budget."""
        if self._doubts.is_full:
            return 0
        width = self._valve.width
        limit = min(self._max_ahead, AHEAD * width) if width > 1 else 1
        room = limit - len(self._ready) - self._in_flight
        if room < max(1, limit // 2):
            return 0
        return int(max(0, min(room, self._left() - len(self._ready))))

    def _release_ready(self) -> None:
        """Gives back every claim that nothing was sent under, so that others can act on the task again."""
        unused = {task for task in self._ready.tasks if task.is_unused}
        self._ready.remove(unused)
        for held in unused:
            self._start(self._claims.release(held))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._work.create_task(work).add_done_callback(lambda _: self._wake.set())

    async def _claim(self, candidates: list[Candidate], company: int, base: str) -> None:
        rapidpro_began = self._rapidpro.clock()
        with self._claims.pulse.step():
            held = await self._claims.claim(candidates)
        self._claiming = False
        for task in held:
            task.rapidpro_began = rapidpro_began
            task.company = self._troubled.company(task, company)
            if task.earlier is not None:
                self._doubt_earlier(task, task.earlier, base)
            else:
                self._queue_all(task)
        if self._stopping:
            self._release_ready()

    # -- sending ----------------------------------------------------------------------------------------------------

    def _queue_all(self, held: HeldTask) -> None:
        for message in held.messages:
            self._queue(held, message)

    def _queue(self, held: HeldTask, message: Message) -> None:
        self._ready.put(Turn(held.due, next(self._numbers), held, message, self._prepare(message)))
        self._wake.set()

    async def _send(self, turns: list[Turn]) -> None:
        """One broadcast; its slot is free again when the answer is there, before the tasks are settled."""
        answers: list[tuple[Turn, Answer | Again]] = []
        try:
            answers = await self._posting.post(turns)
        finally:
            self._in_flight -= 1
            self._wake.set()
        in_doubt = {turn for turn, answer in answers if isinstance(answer, Doubtful)}
        for turn in turns:
            turn.task.attempts -= turn not in in_doubt
        for turn, answer in answers:
            self._conclude(turn, answer)
        if self._stopping:
            self._release_ready()

    def _conclude(self, turn: Turn, answer: Answer | Again) -> None:
        held, message = turn.task, turn.message
        match answer:
            case Created() | Refused():
                self._log_result(turn, answer)
                held.results[message.uuid] = answer
                if held.is_complete:
                    self._start(self._claims.settle(held))
            case Doubtful(why):
                log.warning("broadcast.doubted", doc=held.doc_id, message=message.uuid, why=why)
                self._metrics.count(Outcome.DOUBTED, held.about(message))
            case Again(size):
                held.company = size
                self._queue(held, message)
            case Trouble():
                self._troubled.step_back(held, self._claims.now())
                self._queue(held, message)
            case _:
                self._queue(held, message)

    def _log_result(self, turn: Turn, result: Created | Refused) -> None:
        held, message = turn.task, turn.message
        known = log.bind(doc=held.doc_id, message=message.uuid)
        self._troubled.forget(held)
        if isinstance(result, Refused):
            known.warning("broadcast.refused", reason=result.reason)
            self._metrics.count(Outcome.REFUSED, held.about(message), f"RapidPro refuses it: {result.reason}")
        elif isinstance(turn.pair, Pair):
            self._doubts.know(held, message, turn.pair, result.id)
            known.info("broadcast.created", gateway_ref=result.id, status=result.status)
            self._metrics.sent(held.about(message, result.id), held.due, self._claims.now())

    # -- doubt ------------------------------------------------------------------------------------------------------

    def _prepare(self, message: Message) -> Pair | Refused:
        settings = self._settings.settings
        return prepare(message, settings.values if settings else {})

    def _doubt_earlier(self, held: HeldTask, earlier: Claim, base: str) -> None:
        """An earlier process of ours ended before our start, another daemon's last attempt may be as late as now."""
        is_own = held.is_earlier_process
        since = self._claims.started.loop if is_own else self._time()
        sent_by = held.past.last_sending if is_own and held.past else None
        held.attempts += 1
        for message in held.messages:
            pair = self._prepare(message)
            if isinstance(pair, Pair):
                self._doubts.add(held, message, pair, base, since, sent_by)
            else:
                self._queue(held, message)
        if earlier.instance != self._claims.me.id:
            self._start(self._doubts.keep_alike(held))

    def _repeat(self, doubt: Doubt) -> None:
        self._queue(doubt.held, doubt.message)

    def _adopt(self, doubt: Doubt, created: Created) -> None:
        self._start(self._settle_adopted(doubt, created))

    async def _settle_adopted(self, doubt: Doubt, created: Created) -> None:
        """Settles with a broadcast that was found, and looks once more: two daemons may have found the same."""
        held = doubt.held
        held.results[doubt.message.uuid] = created
        if not held.is_complete:
            return
        await self._claims.settle(held)
        if await self._doubts.is_shared(doubt) and await self._claims.give_back(held, created.id):
            del held.results[doubt.message.uuid]
            self._doubts.add(held, doubt.message, doubt.pair, doubt.base, since=self._time())

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

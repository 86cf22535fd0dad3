"""The relay: claims messages, posts their broadcasts, settles their tasks.

One loop, `_steer`, decides what starts and waits for nothing but its wake-up; what takes time runs in tasks of its own
and wakes it when it ends. A message is in one place at any moment: waiting in the backlog, being claimed, ready (its
claim stands and surely nothing was sent), in flight, in doubt (it may have been sent), or done. Stopping means that
the loop ends, what is ready is released, and what is in flight is settled.
"""

import asyncio
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.rapidpro import RapidPro
from cht_rapidpro.config import Outgoing as OutgoingConfig
from cht_rapidpro.domain.claim import Claim
from cht_rapidpro.domain.outgoing import Answer, Broadcast, Created, Doubtful, Refused, Trouble, prepare
from cht_rapidpro.domain.reconcile import pair_of
from cht_rapidpro.domain.task import Message
from cht_rapidpro.domain.valve import TROUBLE_PAUSE, Valve
from cht_rapidpro.jobs.backlog import Backlog, Candidate, Key
from cht_rapidpro.jobs.claims import Claims
from cht_rapidpro.jobs.doubts import Doubt, Doubts
from cht_rapidpro.jobs.held import HeldTask, Turn
from cht_rapidpro.jobs.settings import SettingsWatch

log: structlog.stdlib.BoundLogger = structlog.get_logger()

AHEAD: Final = 4  # claims without an attempt, as a multiple of max_concurrency: enough to keep it busy (measured)
RELEASE_AFTER: Final = 5.0  # seconds that sending may stand still before unused claims are given back
MAX_DOUBTS: Final = 1000
_LONGEST_STEP_BACK: Final = 3600.0


class Outgoing:
    """Owns the messages from their claim to their settling; every time and age in here is loop time, in seconds."""

    def __init__(
        self,
        claims: Claims,
        doubts: Doubts,
        backlog: Backlog,
        rapidpro: RapidPro,
        settings: SettingsWatch,
        config: OutgoingConfig,
        max_concurrency: int,
    ) -> None:
        self._claims = claims
        self._doubts = doubts
        self._backlog = backlog
        self._rapidpro = rapidpro
        self._settings = settings
        self._config = config
        self._valve = Valve(max_concurrency)
        self._max_ahead = AHEAD * max_concurrency
        self._ready: list[Turn] = []
        self._numbers = itertools.count()
        self._in_flight = 0
        self._claiming = False
        self._probing = False
        self._stopping = False
        self._target: str | None = None
        self._troubled: Counter[Key] = Counter()
        self._wake = asyncio.Event()
        settings.subscribe(self._wake.set)
        backlog.subscribe(self._wake.set)

    async def run(self, stop: asyncio.Event) -> None:
        """Relays until `stop` is set, then gives back and settles what it holds; needs CouchDB for that."""
        async with asyncio.TaskGroup() as self._work:
            loops = [
                self._work.create_task(self._steer()),
                self._work.create_task(self._doubts.run(self._adopt, self._repeat)),
            ]
            await stop.wait()
            for loop in loops:
                loop.cancel()  # the claims of messages in doubt stay: the next start looks at them
            self._stopping = True
            self._release_ready()

    # -- deciding ---------------------------------------------------------------------------------------------------

    async def _steer(self) -> NoReturn:
        while True:
            self._wake.clear()
            if self._target != self._settings.target:
                self._target = self._settings.target
                self._valve.reset()
            delay = self._delay()
            if delay > RELEASE_AFTER:
                self._release_ready()
            elif not delay and self._valve.needs_probe:
                self._start_probe()
            elif not delay:
                self._start_sends()
                self._start_claim()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay if 0 < delay < math.inf else None):
                    await self._wake.wait()

    def _delay(self) -> float:
        """Seconds until a broadcast may be posted; infinite while sending is not ours."""
        if self._target is None:
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
            self._valve.probed(answer, self._time())
        self._probing = False

    def _start_sends(self) -> None:
        while self._ready and self._in_flight < self._valve.width and self._left() != 0:
            turn = heapq.heappop(self._ready)
            turn.task.attempts += 1  # from here on the task is not given back
            self._in_flight += 1
            self._start(self._send(turn))

    def _left(self) -> float:
        """Requests left in the budget; those that are about to start count as started."""
        budget = self._rapidpro.budget
        left = budget.left(self._time())
        return math.inf if left is None else max(0, left - max(0, self._in_flight - budget.open))

    def _start_claim(self) -> None:
        if not self._claiming and (candidates := self._backlog.take(self._room())):
            self._claiming = True
            self._start(self._claim(candidates))

    def _room(self) -> int:
        """How many messages to claim now: in batches, never far ahead of the sends, and none beyond the budget."""
        if len(self._doubts) >= MAX_DOUBTS:
            return 0
        width = self._valve.width
        limit = min(self._max_ahead, AHEAD * width) if width > 1 else 1
        room = limit - len(self._ready) - self._in_flight
        if room < max(1, limit // 2):
            return 0
        return int(max(0, min(room, self._left() - len(self._ready))))

    def _release_ready(self) -> None:
        """Gives back every claim that nothing was sent under, so that others can act on the task again."""
        unused = {turn.task for turn in self._ready if turn.task.is_unused}
        self._ready = [turn for turn in self._ready if turn.task not in unused]
        heapq.heapify(self._ready)
        for held in unused:
            self._start(self._claims.release(held))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._work.create_task(work).add_done_callback(lambda _: self._wake.set())

    async def _claim(self, candidates: list[Candidate]) -> None:
        held = await self._claims.claim(candidates)
        self._claiming = False
        for task in held:
            if task.earlier is not None:
                self._doubt_earlier(task, task.earlier)
            else:
                self._queue_all(task)
        if self._stopping:
            self._release_ready()

    # -- sending ----------------------------------------------------------------------------------------------------

    def _queue_all(self, held: HeldTask) -> None:
        for message in held.messages:
            self._queue(held, message)

    def _queue(self, held: HeldTask, message: Message) -> None:
        heapq.heappush(self._ready, Turn(held.due, next(self._numbers), held, message))
        self._wake.set()

    async def _send(self, turn: Turn) -> None:
        """One message's turn; the slot is free again when the answer is there, before the task is settled."""
        try:
            answer = await self._post(turn.task, turn.message)
        finally:
            self._in_flight -= 1
            self._wake.set()
        if not isinstance(answer, Doubtful):
            turn.task.attempts -= 1
        if answer is not None:
            await self._conclude(turn.task, turn.message, answer)
        elif self._stopping:
            self._release_ready()

    async def _post(self, held: HeldTask, message: Message) -> Answer | None:
        """The answer of RapidPro; None where the message is not ours to send any more."""
        broadcast = self._prepare(message)
        if isinstance(broadcast, Refused):
            return broadcast
        while self._claims.age(held) > self._config.claim_timeout / 2:
            if not await self._claims.renew(held):
                self._doubts.forget(held)
                return None
        if self._target is None:
            self._queue(held, message)
            return None
        pair = pair_of(broadcast)
        with self._doubts.posting(pair):
            answer = await self._rapidpro.post_broadcast(self._target, broadcast)
        if isinstance(answer, Doubtful):
            self._doubts.add(held, message, pair, since=self._time())
        self._valve.learn(answer, self._time())
        return answer

    async def _conclude(self, held: HeldTask, message: Message, answer: Answer) -> None:
        match answer:
            case Created() | Refused():
                self._log_result(held, message, answer)
                held.results[message.uuid] = answer
                if held.is_complete:
                    await self._claims.settle(held)
            case Doubtful(why):
                log.warning("broadcast.doubted", doc=held.doc_id, message=message.uuid, why=why)
            case Trouble():
                self._step_back(held)
                self._requeue(held, message)
            case _:
                self._requeue(held, message)

    def _requeue(self, held: HeldTask, message: Message) -> None:
        self._queue(held, message)
        if self._stopping:
            self._release_ready()

    def _step_back(self, held: HeldTask) -> None:
        """Lets others be tried first after the pause: the trouble may be about this message (a firewall's, say).

        Once it queues behind what waits already; when it meets with trouble again it stays away, ever longer.
        """
        if len(self._troubled) > MAX_DOUBTS:
            self._troubled.clear()
        key = held.keys[0]
        self._troubled[key] += 1
        held.due = max(held.due, self._claims.now())
        if self._troubled[key] > 1:
            held.pause = min(TROUBLE_PAUSE * 2.0 ** (self._troubled[key] - 2), _LONGEST_STEP_BACK)

    def _log_result(self, held: HeldTask, message: Message, result: Created | Refused) -> None:
        known = log.bind(doc=held.doc_id, message=message.uuid)
        self._troubled.pop(held.keys[0], None)
        if isinstance(result, Created):
            self._doubts.know(held, result.id)
            known.info("broadcast.created", gateway_ref=result.id, status=result.status)
        else:
            known.warning("broadcast.refused", reason=result.reason)

    # -- doubt ------------------------------------------------------------------------------------------------------

    def _prepare(self, message: Message) -> Broadcast | Refused:
        settings = self._settings.settings
        return prepare(message, settings.values if settings else {})

    def _doubt_earlier(self, held: HeldTask, earlier: Claim) -> None:
        """An earlier process of ours ended before our start, another daemon's last attempt may be as late as now."""
        started = self._claims.started
        is_own = earlier.instance == self._claims.me.id and earlier.at <= started.wall
        since = started.loop if is_own else self._time()
        held.attempts += 1
        for message in held.messages:
            broadcast = self._prepare(message)
            if isinstance(broadcast, Broadcast):
                self._doubts.add(held, message, pair_of(broadcast), since)
            else:
                self._queue(held, message)
        if not is_own:
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
        if await self._doubts.is_shared(created.id, doubt.pair) and await self._claims.give_back(held, created.id):
            del held.results[doubt.message.uuid]
            self._doubts.add(held, doubt.message, doubt.pair, since=self._time())

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

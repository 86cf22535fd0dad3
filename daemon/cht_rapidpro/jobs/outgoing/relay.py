"""The relay: claims messages, posts their broadcasts, settles their tasks.

One loop, `_steer`, decides what starts and waits for nothing but its wake-up; what takes time runs in tasks of its own
and wakes it when it ends. A message is in one place at any moment: waiting in the send queue, being claimed, ready (its
claim stands and surely nothing was sent), in flight, ambiguous (it may have been sent), or done. Stopping means that
the loop ends, what is ready is released, and what is in flight is settled. Messages of one text may share a broadcast;
that is so from their turn until its answer, and not remembered: each is claimed, settled and looked up for itself.
"""

import asyncio
import itertools
import math
from collections.abc import Coroutine, Sequence
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.concurrency.timing import loop_time, wait_for_event
from cht_rapidpro.config.schema import Outgoing, Rapidpro
from cht_rapidpro.config.secret_store import Keyring
from cht_rapidpro.domain.circuit_breaker import CircuitBreaker
from cht_rapidpro.domain.outgoing import (
    Ambiguous,
    Answer,
    Created,
    Refused,
    RetrySmaller,
    SmsIdentity,
    Trouble,
    prepare,
)
from cht_rapidpro.domain.task import Message
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.backoff import MessageBackoff
from cht_rapidpro.jobs.outgoing.batches import BatchAccumulator
from cht_rapidpro.jobs.outgoing.batching_policy import BatchingPolicy
from cht_rapidpro.jobs.outgoing.claimed_task import ClaimedTask, OutboundMessage
from cht_rapidpro.jobs.outgoing.claims import Claims
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.jobs.outgoing.reconciler import AmbiguousSend, Reconciler
from cht_rapidpro.jobs.outgoing.send_queue import Candidate, SendQueue
from cht_rapidpro.jobs.outgoing.sender import Sender
from cht_rapidpro.jobs.outgoing.takeover import Takeover
from cht_rapidpro.telemetry.metrics import Metrics, Outcome

log: structlog.stdlib.BoundLogger = structlog.get_logger()

AHEAD: Final = 4  # broadcasts claimed and not posted, as a multiple of max_concurrency: it stays busy (measured)
RELEASE_AFTER: Final = 5.0  # seconds that sending may stand still before unused claims are given back


class Relay:
    """Owns the messages from their claim to their settling; every time and age in here is loop time, in seconds."""

    def __init__(
        self,
        claims: Claims,
        reconciler: Reconciler,
        send_queue: SendQueue,
        rapidpro: RapidPro,
        settings: SettingsWatch,
        pause: PauseWatch,
        takeover: Takeover,
        config: Outgoing,
        limits: Rapidpro,
        keyring: Keyring,
        metrics: Metrics,
    ) -> None:
        self._claims = claims
        self._reconciler = reconciler
        self._send_queue = send_queue
        self._rapidpro = rapidpro
        self._settings = settings
        self._pause = pause
        self._takeover = takeover
        self._keyring = keyring
        self._metrics = metrics
        self._circuit_breaker = CircuitBreaker(limits.max_concurrency)
        self._max_ahead = AHEAD * limits.max_concurrency
        self._batches = BatchAccumulator()
        self._sender = Sender(
            claims, reconciler, rapidpro, settings, pause, self._circuit_breaker, self._batches, config.claim_timeout
        )
        self._backoff = MessageBackoff()
        self._batching = BatchingPolicy(rapidpro, send_queue, self._batches, config.coalesce, limits.limits.broadcasts)
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
        takeover.subscribe(self._wake.set)
        send_queue.subscribe(self._wake.set)
        keyring.subscribe(self._wake.set)

    def limit(self, limits: Rapidpro) -> None:
        """Takes over the pace; broadcasts in flight that are more than may be now are not cut short."""
        self._circuit_breaker.widen(limits.max_concurrency)
        self._max_ahead = AHEAD * limits.max_concurrency
        self._batching.limit(limits.limits.broadcasts)
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Relays until `stop` is set, then gives back and settles what it holds; needs CouchDB for that."""
        async with asyncio.TaskGroup() as self._work:
            loops = [
                self._work.create_task(self._steer()),
                self._work.create_task(self._reconciler.run(self._adopt, self._repeat, self._give_back)),
            ]
            try:
                await stop.wait()
            finally:
                await end(*loops)  # the claims of ambiguous messages stay: the next start looks at them
            self._stopping = True
            self._release_ready()

    # -- deciding ---------------------------------------------------------------------------------------------------

    async def _steer(self) -> NoReturn:
        while True:
            self._wake.clear()
            if (self._target, self._token) != (self._settings.target, self._keyring.secrets.rapidpro_token):
                self._target, self._token = self._settings.target, self._keyring.secrets.rapidpro_token
                self._batching.reset()
                self._circuit_breaker.reset()
            delay = self._delay()
            if delay > RELEASE_AFTER:
                self._release_ready()
            elif not delay and (
                self._circuit_breaker.needs_probe or self._batching.has_to_ask(self._target, self._slots)
            ):
                self._start_probe()
            elif not delay:
                self._start_sends()
                self._start_claim()
            await wait_for_event(self._wake, delay if delay > 0 else math.inf)

    def _delay(self) -> float:
        """Seconds until a broadcast may be posted; infinite while sending is not ours, or held."""
        if self._target is None or not self._token or self._pause.is_on or self._takeover.is_opening:
            return math.inf
        now = loop_time()
        return max(self._circuit_breaker.delay(now), self._rapidpro.budget.delay(now))

    @property
    def _slots(self) -> int:
        return self._circuit_breaker.max_in_flight

    def _start_probe(self) -> None:
        if not self._probing and (self._batches or len(self._send_queue)):
            self._probing = True
            self._start(self._probe())

    async def _probe(self) -> None:
        if self._target is not None:
            answer = await self._rapidpro.probe(self._target)
            if self._circuit_breaker.needs_probe or answer is None:
                self._circuit_breaker.probed(answer, loop_time())
            self._batching.asked()
        self._probing = False

    def _start_sends(self) -> None:
        while len(self._batches) and self._in_flight < self._slots and self._left() != 0:
            turns = self._batches.pop()
            for turn in turns:
                turn.task.state.post(turn.message.uuid)
            self._in_flight += 1
            self._start(self._send(turns))

    def _left(self) -> float:
        """Requests left in the budget; those that are about to start count as started."""
        budget = self._rapidpro.budget
        left = budget.left(loop_time())
        return math.inf if left is None else max(0, left - max(0, self._in_flight - budget.open))

    def _start_claim(self) -> None:
        base = self._target
        if self._claiming or base is None:
            return
        max_batch_size = self._batching.max_batch_size(base, self._slots)
        if candidates := self._send_queue.take(self._room(), max_batch_size):
            self._claiming = True
            self._start(self._claim(candidates, max_batch_size, base))

    def _room(self) -> int:
        """How many broadcasts may be claimed now: in batches, never far ahead of the sends, none beyond the budget."""
        if self._reconciler.is_full:
            return 0
        limit = min(self._max_ahead, AHEAD * self._slots) if self._slots > 1 else 1
        room = limit - len(self._batches) - self._in_flight
        if room < max(1, limit // 2):
            return 0
        return int(max(0, min(room, self._left() - len(self._batches))))

    def _release_ready(self) -> None:
        """Gives back every claim that nothing was sent under, so that others can act on the task again.

        Where this gateway is not to send, also what a look-up has shown to be unsent.
        """
        is_leaving = self._settings.target is None or self._pause.is_draining
        unused = {
            task for task in self._batches.tasks if task.state.is_releasable or (is_leaving and task.state.is_unsent)
        }
        self._batches.remove(unused)
        for held in unused:
            self._start(self._claims.release(held))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._work.create_task(work).add_done_callback(lambda _: self._wake.set())

    def take_up(self, candidates: Sequence[Candidate]) -> None:
        """Renews claims of an earlier process of ours, so that their messages are looked up; we do not send."""
        base = self._settings.base
        if candidates and base is not None and not self._claiming and not self._stopping:
            self._claiming = True
            self._start(self._claim(candidates, 1, base, only_own=True))

    async def _claim(
        self, candidates: Sequence[Candidate], max_batch_size: int, base: str, *, only_own: bool = False
    ) -> None:
        rapidpro_began = self._rapidpro.clock()
        with self._claims.liveness.step():
            held = await self._claims.claim(candidates, only_own=only_own)
        self._claiming = False
        for task in held:
            task.rapidpro_began = rapidpro_began
            task.max_batch_size = self._backoff.max_batch_size(task, max_batch_size)
            if task.earlier is not None or task.is_suspect:
                self._mark_ambiguous(task, base)
            else:
                self._queue_all(task)
        if self._stopping:
            self._release_ready()

    # -- sending ----------------------------------------------------------------------------------------------------

    def _queue_all(self, held: ClaimedTask) -> None:
        for message in held.messages:
            self._queue(held, message)

    def _queue(self, held: ClaimedTask, message: Message) -> None:
        self._batches.put(OutboundMessage(held.due, next(self._numbers), held, message, self._prepare(message)))
        self._wake.set()

    async def _send(self, turns: list[OutboundMessage]) -> None:
        """One broadcast; its slot is free again when the answer is there, before the tasks are settled."""
        answers: list[tuple[OutboundMessage, Answer | RetrySmaller]] = []
        began = loop_time()
        try:
            answers = await self._sender.post(turns)
        finally:
            self._in_flight -= 1
            self._wake.set()
        if any(isinstance(answer, Created) for _, answer in answers):
            self._batching.answered(loop_time() - began)
        for turn, answer in answers:
            self._conclude(turn, answer)
        if self._stopping:
            self._release_ready()

    def _conclude(self, turn: OutboundMessage, answer: Answer | RetrySmaller) -> None:
        held, message = turn.task, turn.message
        match answer:
            case Created() | Refused():
                self._log_result(turn, answer)
                held.state.answered(message.uuid, answer)
                if held.state.is_complete:
                    self._start(self._claims.settle(held))
            case Ambiguous(why):
                log.warning("broadcast.ambiguous", doc=held.doc_id, message=message.uuid, why=why)
                self._metrics.count(Outcome.AMBIGUOUS, held.about(message))
                held.state.ambiguous(message.uuid)
            case _:
                if isinstance(answer, RetrySmaller):
                    held.max_batch_size = answer.size
                elif isinstance(answer, Trouble):
                    self._backoff.step_back(held, self._claims.now())
                held.state.not_sent(message.uuid)
                self._queue(held, message)

    def _log_result(self, turn: OutboundMessage, result: Created | Refused) -> None:
        held, message = turn.task, turn.message
        known = log.bind(doc=held.doc_id, message=message.uuid)
        self._backoff.forget(held)
        if isinstance(result, Refused):
            known.warning("broadcast.refused", reason=result.reason)
            self._metrics.count(Outcome.REFUSED, held.about(message), f"RapidPro refuses it: {result.reason}")
        elif isinstance(turn.pair, SmsIdentity):
            self._reconciler.know(held, message, turn.pair, result.id)
            known.info("broadcast.created", gateway_ref=result.id, status=result.status)
            self._metrics.sent(held.about(message, result.id), held.due, self._claims.now())

    # -- ambiguous --------------------------------------------------------------------------------------------------

    def _prepare(self, message: Message) -> SmsIdentity | Refused:
        settings = self._settings.settings
        return prepare(message, settings.values if settings else {})

    def _mark_ambiguous(self, held: ClaimedTask, base: str) -> None:
        """An earlier process of ours ended before our start, another daemon's last attempt may be as late as now.

        Another gateway that we took over from ended when it was last seen to send.
        """
        is_own = held.is_earlier_process
        since = self._claims.started.loop if is_own else loop_time()
        sent_by = held.past.last_sending if is_own and held.past else None
        if held.is_suspect:
            held.began, sent_by = self._takeover.earliest, None
            since = self._takeover.quiet_since if is_own or held.earlier is None else since
        for message in held.messages:
            pair = self._prepare(message)
            if isinstance(pair, SmsIdentity):
                held.state.suspect(message.uuid)
                self._reconciler.add(held, message, pair, base, since, sent_by)
            else:
                self._queue(held, message)
        if held.earlier is not None and held.earlier.instance != self._claims.me.id:
            self._start(self._reconciler.keep_alike(held))

    def _repeat(self, ambiguous: AmbiguousSend) -> None:
        ambiguous.held.state.missing(ambiguous.message.uuid)
        self._queue(ambiguous.held, ambiguous.message)

    def _give_back(self, ambiguous: Sequence[AmbiguousSend]) -> None:
        """These messages of one task were not sent, and are not to be sent by us: any gateway may act on the task."""
        held = ambiguous[0].held
        self._takeover.decided(each.key for each in ambiguous)
        for each in ambiguous:
            held.state.missing(each.message.uuid)
        if held.state.is_unsent:
            self._batches.remove({held})
            self._start(self._claims.release(held))
        else:  # another message of the task was sent, or is being sent
            for each in ambiguous:
                self._queue(held, each.message)

    def _adopt(self, ambiguous: AmbiguousSend, created: Created) -> None:
        ambiguous.held.state.found(ambiguous.message.uuid, created)
        if ambiguous.held.state.is_complete:
            self._start(self._settle_adopted(ambiguous, created))

    async def _settle_adopted(self, ambiguous: AmbiguousSend, created: Created) -> None:
        """Settles with a broadcast that was found, and looks once more: two daemons may have found the same."""
        held = ambiguous.held
        await self._claims.settle(held)
        if await self._reconciler.is_shared(ambiguous) and await self._claims.give_back(held, created.id):
            held.state.reopen(ambiguous.message.uuid)
            self._reconciler.add(held, ambiguous.message, ambiguous.pair, ambiguous.base, since=loop_time())

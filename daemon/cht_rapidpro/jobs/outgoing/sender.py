"""Posts one broadcast: only under young claims, and records messages whose outcome is unknown.

No POST begins under an old claim, which another daemon may soon take over, nor for a message that its document no
longer wants sent. A message with an ambiguous answer is marked as ambiguous before anything else can happen to it.
"""

import asyncio
from typing import Final

from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.circuit_breaker import CircuitBreaker
from cht_rapidpro.domain.outgoing import Ambiguous, Answer, Refused, RetrySmaller, SmsIdentity, join, share
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.batches import BatchAccumulator
from cht_rapidpro.jobs.outgoing.claimed_task import ClaimedTask, OutboundMessage
from cht_rapidpro.jobs.outgoing.claims import FRESH, Claims
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.jobs.outgoing.reconciler import Reconciler

_FOLLOWING: Final = 200  # tasks


class Sender:
    """`claim_timeout`: seconds; `circuit_breaker` learns from every answer; `ready`: what comes next."""

    def __init__(
        self,
        claims: Claims,
        reconciler: Reconciler,
        rapidpro: RapidPro,
        settings: SettingsWatch,
        pause: PauseWatch,
        circuit_breaker: CircuitBreaker,
        ready: BatchAccumulator,
        claim_timeout: float,
    ) -> None:
        self._claims = claims
        self._reconciler = reconciler
        self._rapidpro = rapidpro
        self._settings = settings
        self._pause = pause
        self._circuit_breaker = circuit_breaker
        self._ready = ready
        self._unseen: set[ClaimedTask] = set()
        self._confirming = asyncio.Lock()
        self._claim_timeout = claim_timeout

    async def post(self, turns: list[OutboundMessage]) -> list[tuple[OutboundMessage, Answer | RetrySmaller]]:
        """Posts the messages; returns what the answer means for each. A message under a lost claim is left out."""
        turns = [turn for turn in turns if not turn.task.is_lost]
        turns = await self._confirmed(turns)
        pairs = [turn.pair for turn in turns if isinstance(turn.pair, SmsIdentity)]
        if not pairs:
            return [(turn, turn.pair) for turn in turns if isinstance(turn.pair, Refused)]
        base = self._settings.target
        if base is None or self._pause.is_on:
            return [(turn, RetrySmaller(turn.max_batch_size)) for turn in turns]
        with self._reconciler.posting(pairs):
            answer = await self._rapidpro.post_broadcast(base, join(pairs))
        now = loop_time()
        if isinstance(answer, Ambiguous):
            for turn, pair in zip(turns, pairs, strict=True):
                self._reconciler.add(turn.task, turn.message, pair, base, since=now)
        self._circuit_breaker.learn(answer, now)
        return list(zip(turns, share(answer, len(turns)), strict=True))

    async def _confirmed(self, turns: list[OutboundMessage]) -> list[OutboundMessage]:
        """Renews claims older than half of `claim_timeout`; returns the messages whose claim is still held.

        Documents that were last seen more than two seconds ago are read again: a message may have been cleared, deleted
        or changed meanwhile.
        """
        while turns:
            if stale := {turn.task for turn in turns if self._is_stale(turn.task)}:
                async with asyncio.TaskGroup() as group:
                    for held in stale:
                        group.create_task(self._claims.renew(held, sends=True))
            elif unseen := {turn.task for turn in turns if self._is_unseen(turn.task)}:
                await self._confirm(unseen)
            else:
                break
            for turn in turns:
                if turn.task.is_lost:
                    self._reconciler.forget(turn.task)
            turns = [turn for turn in turns if not turn.task.is_lost]
        return turns

    async def _confirm(self, unseen: set[ClaimedTask]) -> None:
        """Reads their documents again: one read at a time, for all that wait for it and for those that come next."""
        self._unseen |= unseen
        async with self._confirming:
            asked, self._unseen = {held for held in self._unseen if self._is_unseen(held)}, set()
            if asked:
                following = sorted(self._ready.tasks - asked, key=lambda held: held.due)[:_FOLLOWING]
                await self._claims.confirm(
                    asked, [held for held in following if self._claims.unseen_for(held) > FRESH / 2]
                )

    def _is_unseen(self, held: ClaimedTask) -> bool:
        return not held.is_lost and self._claims.unseen_for(held) > FRESH

    def _is_stale(self, held: ClaimedTask) -> bool:
        return self._claims.age(held) > self._claim_timeout / 2

"""Posts one broadcast: only under young claims, and records messages whose outcome is unknown.

No POST begins under an old claim, which another daemon may soon take over, nor for a message that its document no
longer wants sent. A message with an ambiguous answer is put in doubt before anything else can happen to it.
"""

import asyncio

from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.domain.outgoing import Again, Answer, Doubtful, Pair, Refused, join, share
from cht_rapidpro.domain.valve import Valve
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.claimed_task import HeldTask, Turn
from cht_rapidpro.jobs.outgoing.claims import FRESH, Claims
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.jobs.outgoing.reconciler import Doubts


class Posting:
    """`claim_timeout`: seconds; `valve` learns from every answer."""

    def __init__(
        self,
        claims: Claims,
        doubts: Doubts,
        rapidpro: RapidPro,
        settings: SettingsWatch,
        pause: PauseWatch,
        valve: Valve,
        claim_timeout: float,
    ) -> None:
        self._claims = claims
        self._doubts = doubts
        self._rapidpro = rapidpro
        self._settings = settings
        self._pause = pause
        self._valve = valve
        self._claim_timeout = claim_timeout

    async def post(self, turns: list[Turn]) -> list[tuple[Turn, Answer | Again]]:
        """Posts the messages; returns what the answer means for each. A message under a lost claim is left out."""
        turns = [turn for turn in turns if not turn.task.is_lost]
        turns = await self._confirmed(turns)
        pairs = [turn.pair for turn in turns if isinstance(turn.pair, Pair)]
        if not pairs:
            return [(turn, turn.pair) for turn in turns if isinstance(turn.pair, Refused)]
        base = self._settings.target
        if base is None or self._pause.is_on:
            return [(turn, Again(turn.company)) for turn in turns]
        with self._doubts.posting(pairs):
            answer = await self._rapidpro.post_broadcast(base, join(pairs))
        now = asyncio.get_running_loop().time()
        if isinstance(answer, Doubtful):
            for turn, pair in zip(turns, pairs, strict=True):
                self._doubts.add(turn.task, turn.message, pair, base, since=now)
        self._valve.learn(answer, now)
        return list(zip(turns, share(answer, len(turns)), strict=True))

    async def _confirmed(self, turns: list[Turn]) -> list[Turn]:
        """Renews claims older than half of `claim_timeout`; returns the messages whose claim is still held.

        Documents that were last seen more than two seconds ago are read again, in one request: a message may have been
        cleared, deleted or changed meanwhile.
        """
        while turns:
            if stale := {turn.task for turn in turns if self._is_stale(turn.task)}:
                async with asyncio.TaskGroup() as group:
                    for held in stale:
                        group.create_task(self._claims.renew(held, sends=True))
            elif unseen := {turn.task for turn in turns if self._claims.unseen_for(turn.task) > FRESH}:
                await self._claims.confirm(unseen)
            else:
                break
            for turn in turns:
                if turn.task.is_lost:
                    self._doubts.forget(turn.task)
            turns = [turn for turn in turns if not turn.task.is_lost]
        return turns

    def _is_stale(self, held: HeldTask) -> bool:
        return self._claims.age(held) > self._claim_timeout / 2

"""The messages that may have been sent: each is looked up, then adopted or sent again.

RapidPro's 500 may hide a created broadcast, a client that hung up still gets its own, and a daemon may have died in
between. So a message in doubt is found in RapidPro's listing, or it is missing in a *complete* one that began
`settle_time` after its last attempt had ended: only then is it sent again.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog

from cht_rapidpro.domain.outgoing import BroadcastId, Created, Pair
from cht_rapidpro.domain.reconcile import Absent, Found, Key, Listed, Unclear, Verdict, Young
from cht_rapidpro.domain.rivals import Contested
from cht_rapidpro.domain.task import Message
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.broadcast_lookup import Asked, Blocked, Lookup
from cht_rapidpro.jobs.outgoing.claimed_task import HeldTask
from cht_rapidpro.jobs.outgoing.claims import Claims
from cht_rapidpro.jobs.outgoing.known_broadcasts import Known
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.telemetry.metrics import Metrics, Outcome

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_RETRY: Final = 5.0  # seconds until a listing that failed is tried again, doubling up to
_LONGEST_RETRY: Final = 300.0
_UNCLEAR_PAUSE: Final = 600.0  # seconds between two looks at messages that an operator must decide, doubling up to
_LONGEST_UNCLEAR_PAUSE: Final = 6 * 3600.0
_MOST: Final = 1000  # messages in doubt that may still be decided: with more of them nothing new is claimed
_UNCLEAR: Final = (
    "RapidPro hides its numbers (anonymous workspace) and the text alone is ambiguous: look in RapidPro whether this"
    " message was sent, and report it: `cht-rapidpro messages settle`"
)
_CONTESTED: Final = (
    "there are fewer broadcasts than messages of this number and text, and another daemon holds one of them in the"
    " document {doc_id}, which takes no claim: repair that document"
)
_MOVED: Final = (
    "RapidPro's address has changed since this message was tried: look at the old address whether it was sent, and"
    " report it: `cht-rapidpro messages settle`"
)


@dataclass(slots=True, eq=False)
class Doubt:
    """A message whose last attempt, at the RapidPro `base`, ended at `since`; `next_look`: both loop time.

    `found`: the broadcast that it was given; `is_blocked`: another daemon was at a message like it in the last look;
    `sent_by`: the stamp (ms) of the last claim of an earlier process of ours under which it may have been sent, None
    where that is not known or this process has tried it; `told`: how often an operator was needed.
    """

    held: HeldTask
    message: Message
    pair: Pair
    base: str
    since: float
    next_look: float
    sent_by: int | None = None
    told: int = 0
    is_blocked: bool = False
    found: Listed | None = None
    why: str = ""  # only a human can tell, where `told` is not 0

    @property
    def key(self) -> Key:
        return self.held.doc_id, self.message.uuid


Adopt = Callable[[Doubt, Created], None]
Repeat = Callable[[Doubt], None]


class Doubts:
    """`settle_time`, `request_time` (what a request may take, with a margin), `claim_timeout`: seconds.

    `wall_clock`: ms since the epoch.
    """

    def __init__(
        self,
        lookup: Lookup,
        claims: Claims,
        settings: SettingsWatch,
        pause: PauseWatch,
        settle_time: float,
        request_time: float,
        claim_timeout: float,
        wall_clock: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._lookup = lookup
        self._claims = claims
        self._settings = settings
        self._pause = pause
        self._settle_time = settle_time
        self._request_time = request_time
        self._claim_timeout = claim_timeout
        self._wall_clock = wall_clock
        self._metrics = metrics
        self._is_full = False
        self._open: dict[Key, Doubt] = {}
        self._known = Known()
        self._retry = _RETRY
        self._changed = asyncio.Event()
        self._in_flight: Counter[Pair] = Counter()
        settings.subscribe(self._changed.set)
        pause.subscribe(self._on_pause)

    def __len__(self) -> int:
        return len(self._open)

    def find(self, key: Key) -> Doubt | None:
        """The doubt about this message; None: there is none."""
        return self._open.get(key)

    def undecided(self) -> list[tuple[str, str]]:
        """The documents of those that only a human can decide, each with the reason."""
        return [(doubt.held.doc_id, doubt.why) for doubt in self._open.values() if doubt.told]

    @property
    def undecidable(self) -> int:
        """How many messages only an operator can decide."""
        return sum(doubt.told > 0 for doubt in self._open.values())

    @property
    def oldest_due(self) -> int | None:
        """When the first of them was due, in ms since the epoch; None: nothing is in doubt."""
        return min((doubt.held.due for doubt in self._open.values() if doubt.held.due), default=None)

    @property
    def is_full(self) -> bool:
        """Whether so many may still be decided that nothing new is to be claimed; said once."""
        was, self._is_full = self._is_full, sum(not doubt.told for doubt in self._open.values()) >= _MOST
        if self._is_full and not was:
            log.warning(
                "ambiguous.limit_reached", messages=_MOST, means="no new message is claimed until some are decided"
            )
        return self._is_full

    def add(
        self, held: HeldTask, message: Message, pair: Pair, base: str, since: float, sent_by: int | None = None
    ) -> None:
        """This message may have been sent to the RapidPro at `base`, at `since` (loop time) at the latest."""
        doubt = Doubt(held, message, pair, base, since, since, sent_by)
        if not self._has_ended(doubt, self._wall_clock()):
            doubt.next_look = since + min(self._request_time, self._settle_time)
        self._open[doubt.key] = doubt
        self._changed.set()

    def _has_ended(self, doubt: Doubt, *clocks: int | None) -> bool:
        """Whether all these clocks (ms) say that the attempts of earlier processes ended `settle_time` ago.

        No POST begins under a claim older than half of `claim_timeout`, so the claim's stamp bounds the last of them.
        """
        if doubt.sent_by is None:
            return False
        after = self._claim_timeout / 2 + self._request_time + self._settle_time
        return all(clock is not None and clock >= doubt.sent_by + after * 1000 for clock in clocks)

    @contextmanager
    def posting(self, pairs: Collection[Pair]) -> Iterator[None]:
        """While a pair is being posted it is not looked up: the new broadcast would be taken for the one in doubt."""
        self._in_flight.update(pairs)
        try:
            yield
        finally:
            self._in_flight.subtract(pairs)
            self._in_flight = +self._in_flight

    async def is_shared(self, doubt: Doubt) -> bool:
        """Whether more than one task holds the broadcast that was found, for a message of this number and text."""
        settings, found = self._settings.settings, doubt.found
        if settings is None or found is None:
            return False
        if await self._lookup.holders_of(found, doubt.pair, settings.values) <= 1:
            return False
        self._known.forget(doubt.key)
        return True

    def know(self, held: HeldTask, message: Message, pair: Pair, broadcast: BroadcastId) -> None:
        """This message went out in this broadcast; its document may not say so yet."""
        if held.is_lost:
            return  # the present holder of the task has to find it
        self._known.put((held.doc_id, message.uuid), (broadcast, pair.urn))

    def forget(self, held: HeldTask) -> None:
        """Forgets a task that another daemon holds now: its present holder has to find its broadcasts."""
        for key in held.keys:
            self._known.forget(key)
        self._open = {key: doubt for key, doubt in self._open.items() if doubt.held is not held}

    async def keep_alike(self, taken_over: HeldTask) -> None:
        """Renews our claims on messages like those of a task that we have just taken over from another daemon.

        They may be as old: the other daemon would take them over in turn, and the two would swap tasks for ever.
        """
        pairs = {doubt.pair for doubt in self._open.values() if doubt.held is taken_over}
        await self._renew(
            {doubt.held for doubt in self._open.values() if doubt.pair in pairs and doubt.held is not taken_over}
        )

    async def run(self, adopt: Adopt, repeat: Repeat) -> NoReturn:
        """Gives each message in doubt to `adopt` with its broadcast, or to `repeat`, its claim renewed."""
        while True:
            self._changed.clear()
            now = self._time()
            wait = min((doubt.next_look for doubt in self._open.values()), default=math.inf) - now
            if wait <= 0 and self._settings.target is not None:
                await self._look(adopt, repeat)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait if 0 < wait < math.inf else None):
                    await self._changed.wait()

    def _on_pause(self) -> None:
        """Looks again, after a pause, at what would have been sent again in it: much may have happened meanwhile."""
        if not self._pause.is_on:
            for doubt in self._open.values():
                if doubt.next_look == math.inf:
                    doubt.next_look = self._time()
            self._changed.set()

    async def _look(self, adopt: Adopt, repeat: Repeat) -> None:
        """One listing for all that is due, or soon will be; a message that cannot be told widens it for no other."""
        started, clocks = self._time(), (self._wall_clock(), self._lookup.rapidpro_time())
        due = [doubt for doubt in self._open.values() if doubt.next_look <= started + self._request_time]
        await self._outlast(due)
        verdicts = await self._ask([doubt for doubt in due if self._is_open(doubt) and not self._in_flight[doubt.pair]])
        async with asyncio.TaskGroup() as group:
            for doubt in filter(self._is_open, due):
                verdict = verdicts.get(doubt.key)
                if verdict is not None:
                    doubt.is_blocked = isinstance(verdict, Blocked)
                if isinstance(verdict, Found):
                    del self._open[doubt.key]
                    doubt.found = verdict.broadcast
                    adopt(doubt, self._created(doubt, verdict))
                elif isinstance(verdict, Absent) and (
                    started >= doubt.since + self._settle_time or self._has_ended(doubt, *clocks)
                ):
                    if self._pause.is_on:
                        doubt.next_look = math.inf  # until the pause ends
                        continue
                    del self._open[doubt.key]
                    group.create_task(self._send_again(doubt, repeat))
                elif isinstance(verdict, Unclear):
                    group.create_task(self._tell(doubt, _UNCLEAR))
                elif isinstance(verdict, Contested):
                    group.create_task(self._tell(doubt, _CONTESTED.format(doc_id=verdict.doc_id)))
                elif self._settings.target not in (None, doubt.base):
                    group.create_task(self._tell(doubt, _MOVED))
                else:
                    doubt.next_look = self._next_look(doubt, verdict)

    async def _outlast(self, asking: Collection[Doubt]) -> None:
        """Renews claims that could expire during the look-up: another daemon would take them over and start the same
        look-up.

        Skips a message while another daemon holds a claim on the same number and text (both would block for ever), and
        a message that waits for an operator or for RapidPro: each renewal is a revision that replicates to phones.
        """
        if self._retry == _RETRY:
            hopeful = {doubt.held for doubt in asking if not (doubt.is_blocked or doubt.told)}
            await self._renew([held for held in hopeful if self._claims.age(held) > self._claim_timeout / 4])

    async def _renew(self, tasks: Collection[HeldTask]) -> None:
        """Forgets those that are another daemon's by now."""
        async with asyncio.TaskGroup() as group:
            renewing = {held: group.create_task(self._claims.renew(held, sends=False)) for held in tasks}
        for held, renewed in renewing.items():
            if not renewed.result():
                self.forget(held)

    def _is_open(self, doubt: Doubt) -> bool:
        """Whether the message is still in doubt and this daemon's: both may change during a request."""
        return self._open.get(doubt.key) is doubt

    async def _ask(self, asking: list[Doubt]) -> dict[Key, Verdict | Blocked | Contested]:
        """The verdicts on those of the present RapidPro; none at all when it could not be asked."""
        base, settings = self._settings.target, self._settings.settings
        asked = [
            Asked(doubt.key, doubt.pair, doubt.held, until=doubt.since + self._settle_time)
            for doubt in asking
            if doubt.base == base
        ]
        if not asked or base is None or settings is None:
            return {}
        answer = await self._lookup.ask(base, asked, self._known, settings.values, self._claims.held_back.ids())
        if not isinstance(answer, str):
            self._retry = _RETRY
            return answer
        if self._retry == _RETRY:
            log.warning("listing.failed", why=answer, means="messages in doubt wait until RapidPro can be asked")
        self._retry = min(2 * self._retry, _LONGEST_RETRY)
        return {}

    async def _send_again(self, doubt: Doubt, repeat: Repeat) -> None:
        if await self._claims.renew(doubt.held, sends=True):
            log.warning("broadcast.repeated", doc=doubt.held.doc_id, message=doubt.message.uuid)
            self._metrics.count(Outcome.REPEATED, doubt.held.about(doubt.message))
            repeat(doubt)
        else:
            self.forget(doubt.held)

    async def _tell(self, doubt: Doubt, means: str) -> None:
        """Says once that an operator must look, and asks again later, as long as the task is still under our claim."""
        doubt.next_look = self._time() + min(_UNCLEAR_PAUSE * 2.0**doubt.told, _LONGEST_UNCLEAR_PAUSE)
        doubt.told, doubt.why = min(doubt.told + 1, 10), means.partition(":")[0]
        if doubt.told == 1:
            log.error("broadcast.unclear", doc=doubt.held.doc_id, message=doubt.message.uuid, means=means)
        elif not await self._claims.is_held(doubt.held):
            self.forget(doubt.held)

    def _next_look(self, doubt: Doubt, verdict: Absent | Young | Blocked | None) -> float:
        now = self._time()
        match verdict:
            case Absent():
                has_ended = self._has_ended(doubt, self._wall_clock(), self._lookup.rapidpro_time())
                return now if has_ended else doubt.since + self._settle_time
            case Young():
                return now + self._request_time
            case Blocked():
                return now + self._claim_timeout / 4
            case None:
                return now + (_UNCLEAR_PAUSE if doubt.told else self._retry)

    def _created(self, doubt: Doubt, found: Found) -> Created:
        broadcast = found.broadcast
        self.know(doubt.held, doubt.message, doubt.pair, broadcast.id)
        log.info(
            "broadcast.adopted",
            doc=doubt.held.doc_id,
            message=doubt.message.uuid,
            gateway_ref=broadcast.id,
            status=broadcast.status,
        )
        self._metrics.count(Outcome.ADOPTED, doubt.held.about(doubt.message, broadcast.id))
        return Created(broadcast.id, broadcast.status)

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

"""The messages that may have been sent: each is looked up, then adopted or sent again.

RapidPro's 500 may hide a created broadcast, a client that hung up still gets its own, and a daemon may have died in
between. So an ambiguous message is found in RapidPro's listing, or it is missing in a *complete* one that began
`settle_time` after its last attempt had ended: only then is it sent again.
"""

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog

from cht_rapidpro.concurrency.timing import loop_time, wait_for_event
from cht_rapidpro.domain.outgoing import BroadcastId, Created, SmsIdentity
from cht_rapidpro.domain.reconcile import Listed, Matched, NotFound, RecipientSlot, TooRecent, Undecidable, Verdict
from cht_rapidpro.domain.rivals import Contested
from cht_rapidpro.domain.task import Message, MessageKey
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.broadcast_lookup import Asked, Blocked, Lookup
from cht_rapidpro.jobs.outgoing.claimed_task import ClaimedTask
from cht_rapidpro.jobs.outgoing.claims import Claims
from cht_rapidpro.jobs.outgoing.known_broadcasts import Known
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.telemetry.metrics import Metrics, Outcome

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_RETRY: Final = 5.0  # seconds until a listing that failed is tried again, doubling up to
_LONGEST_RETRY: Final = 300.0
_UNDECIDABLE_PAUSE: Final = 600.0  # seconds between two looks at messages that an operator must decide, doubling up to
_LONGEST_UNDECIDABLE_PAUSE: Final = 6 * 3600.0
_MOST: Final = 1000  # ambiguous messages that may still be decided: with more of them nothing new is claimed
_UNDECIDABLE: Final = (
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
class AmbiguousSend:
    """A message whose last attempt, at the RapidPro `base`, ended at `since`; `next_look`: both loop time.

    `found`: the broadcast that it was given; `is_blocked`: another daemon was at a message like it in the last look;
    `sent_by`: the stamp (ms) of the last claim of an earlier process of ours under which it may have been sent, None
    where that is not known or this process has tried it; `reported`: how often an operator was needed.
    """

    held: ClaimedTask
    message: Message
    pair: SmsIdentity
    base: str
    since: float
    next_look: float
    sent_by: int | None = None
    reported: int = 0
    is_blocked: bool = False
    found: Listed | None = None
    why: str = ""  # only a human can tell, where `reported` is not 0

    @property
    def key(self) -> MessageKey:
        return self.held.doc_id, self.message.uuid


Adopt = Callable[[AmbiguousSend, Created], None]
Repeat = Callable[[AmbiguousSend], None]
GiveBack = Callable[[Sequence[AmbiguousSend]], None]


class Reconciler:
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
        self._open: dict[MessageKey, AmbiguousSend] = {}
        self._known = Known()
        self._retry = _RETRY
        self._changed = asyncio.Event()
        self._in_flight: Counter[SmsIdentity] = Counter()
        settings.subscribe(self._reconsider)
        pause.subscribe(self._reconsider)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def known(self) -> Mapping[MessageKey, RecipientSlot]:
        """The broadcasts of this daemon's messages, which their documents may not name yet."""
        return self._known

    def postpone(self, since: float) -> None:
        """Another gateway may have sent any of these, too, at `since` (loop time) at the latest."""
        for ambiguous in self._open.values():
            ambiguous.since, ambiguous.sent_by = max(ambiguous.since, since), None
            ambiguous.next_look = min(ambiguous.next_look, loop_time())
        self._changed.set()

    def find(self, key: MessageKey) -> AmbiguousSend | None:
        """The ambiguous send of this message; None: there is none."""
        return self._open.get(key)

    def undecided(self) -> list[tuple[str, str]]:
        """The documents of those that only a human can decide, each with the reason."""
        return [(ambiguous.held.doc_id, ambiguous.why) for ambiguous in self._open.values() if ambiguous.reported]

    @property
    def undecidable(self) -> int:
        """How many messages only an operator can decide."""
        return sum(ambiguous.reported > 0 for ambiguous in self._open.values())

    @property
    def oldest_due(self) -> int | None:
        """When the first of them was due, in ms since the epoch; None: nothing is ambiguous."""
        return min((ambiguous.held.due for ambiguous in self._open.values() if ambiguous.held.due), default=None)

    @property
    def is_full(self) -> bool:
        """Whether so many may still be decided that nothing new is to be claimed; said once."""
        was, self._is_full = self._is_full, sum(not ambiguous.reported for ambiguous in self._open.values()) >= _MOST
        if self._is_full and not was:
            log.warning(
                "ambiguous.limit_reached", messages=_MOST, means="no new message is claimed until some are decided"
            )
        return self._is_full

    def add(
        self,
        held: ClaimedTask,
        message: Message,
        pair: SmsIdentity,
        base: str,
        since: float,
        sent_by: int | None = None,
    ) -> None:
        """This message may have been sent to the RapidPro at `base`, at `since` (loop time) at the latest."""
        ambiguous = AmbiguousSend(held, message, pair, base, since, since, sent_by)
        if not self._has_ended(ambiguous, self._wall_clock()):
            ambiguous.next_look = since + min(self._request_time, self._settle_time)
        self._open[ambiguous.key] = ambiguous
        self._changed.set()

    def _has_ended(self, ambiguous: AmbiguousSend, *clocks: int | None) -> bool:
        """Whether all these clocks (ms) say that the attempts of earlier processes ended `settle_time` ago.

        No POST begins under a claim older than half of `claim_timeout`, so the claim's stamp bounds the last of them.
        """
        if ambiguous.sent_by is None:
            return False
        after = self._claim_timeout / 2 + self._request_time + self._settle_time
        return all(clock is not None and clock >= ambiguous.sent_by + after * 1000 for clock in clocks)

    @contextmanager
    def posting(self, pairs: Collection[SmsIdentity]) -> Iterator[None]:
        """While a pair is being posted it is not looked up: the new broadcast would be taken for the ambiguous one."""
        self._in_flight.update(pairs)
        try:
            yield
        finally:
            self._in_flight.subtract(pairs)
            self._in_flight = +self._in_flight

    async def is_shared(self, ambiguous: AmbiguousSend) -> bool:
        """Whether more than one task holds the broadcast that was found, for a message of this number and text."""
        settings, found = self._settings.settings, ambiguous.found
        if settings is None or found is None:
            return False
        if await self._lookup.holders_of(found, ambiguous.pair, settings.values) <= 1:
            return False
        self._known.forget(ambiguous.key)
        return True

    def know(self, held: ClaimedTask, message: Message, pair: SmsIdentity, broadcast: BroadcastId) -> None:
        """This message went out in this broadcast; its document may not say so yet."""
        if held.is_lost:
            return  # the present holder of the task has to find it
        self._known.put((held.doc_id, message.uuid), (broadcast, pair.urn))

    def forget(self, held: ClaimedTask) -> None:
        """Forgets a task that another daemon holds now: its present holder has to find its broadcasts."""
        for key in held.keys:
            self._known.forget(key)
        self._open = {key: ambiguous for key, ambiguous in self._open.items() if ambiguous.held is not held}

    async def keep_alike(self, taken_over: ClaimedTask) -> None:
        """Renews our claims on messages like those of a task that we have just taken over from another daemon.

        They may be as old: the other daemon would take them over in turn, and the two would swap tasks for ever.
        """
        pairs = {ambiguous.pair for ambiguous in self._open.values() if ambiguous.held is taken_over}
        await self._renew(
            {
                ambiguous.held
                for ambiguous in self._open.values()
                if ambiguous.pair in pairs and ambiguous.held is not taken_over
            }
        )

    async def run(self, adopt: Adopt, repeat: Repeat, give_back: GiveBack) -> NoReturn:
        """Gives each ambiguous message to `adopt` with its broadcast, or to `repeat`, its claim renewed.

        Where this gateway is not to send, to `give_back` instead, with all of its task.
        """
        while True:
            self._changed.clear()
            now = loop_time()
            wait = min((ambiguous.next_look for ambiguous in self._open.values()), default=math.inf) - now
            if wait <= 0 and self._settings.base is not None and self._settings.settings is not None:
                await self._look(adopt, repeat, give_back)
                continue
            await wait_for_event(self._changed, wait if wait > 0 else math.inf)

    @property
    def _gives_back(self) -> bool:
        """Whether what was not sent is not to be sent by this gateway: another one is chosen, or it is drained."""
        return self._settings.target is None or self._pause.is_draining

    def _reconsider(self) -> None:
        """Looks again at what would have been sent again in a pause that is over: much may have happened meanwhile."""
        if self._gives_back or not self._pause.is_on:
            for ambiguous in self._open.values():
                if ambiguous.next_look == math.inf:
                    ambiguous.next_look = loop_time()
        self._changed.set()

    async def _look(self, adopt: Adopt, repeat: Repeat, give_back: GiveBack) -> None:
        """One listing for all that is due, or soon will be; a message that cannot be told widens it for no other."""
        started, clocks = loop_time(), (self._wall_clock(), self._lookup.rapidpro_time())
        due = [ambiguous for ambiguous in self._open.values() if ambiguous.next_look <= started + self._request_time]
        await self._outlast(due)
        verdicts = await self._ask(
            [ambiguous for ambiguous in due if self._is_open(ambiguous) and not self._in_flight[ambiguous.pair]]
        )
        unsent: dict[ClaimedTask, list[AmbiguousSend]] = defaultdict(list)
        async with asyncio.TaskGroup() as group:
            for ambiguous in filter(self._is_open, due):
                verdict = verdicts.get(ambiguous.key)
                if verdict is not None:
                    ambiguous.is_blocked = isinstance(verdict, Blocked)
                if isinstance(verdict, Matched):
                    del self._open[ambiguous.key]
                    ambiguous.found = verdict.broadcast
                    adopt(ambiguous, self._created(ambiguous, verdict))
                elif isinstance(verdict, NotFound) and (
                    started >= ambiguous.since + self._settle_time or self._has_ended(ambiguous, *clocks)
                ):
                    if self._gives_back:
                        unsent[ambiguous.held].append(ambiguous)
                        ambiguous.next_look = self._next_look(ambiguous, None)
                        continue
                    if self._pause.is_on:
                        ambiguous.next_look = math.inf  # until the pause ends
                        continue
                    del self._open[ambiguous.key]
                    group.create_task(self._send_again(ambiguous, repeat))
                elif isinstance(verdict, Undecidable):
                    group.create_task(self._report(ambiguous, _UNDECIDABLE))
                elif isinstance(verdict, Contested):
                    group.create_task(self._report(ambiguous, _CONTESTED.format(doc_id=verdict.doc_id)))
                elif self._settings.base not in (None, ambiguous.base):
                    group.create_task(self._report(ambiguous, _MOVED))
                else:
                    ambiguous.next_look = self._next_look(ambiguous, verdict)
        for held, found in unsent.items():
            if not any(each.held is held and each not in found for each in self._open.values()):
                for each in found:
                    del self._open[each.key]
                give_back(found)

    async def _outlast(self, asking: Collection[AmbiguousSend]) -> None:
        """Renews claims that could expire during the look-up: another daemon would take them over and start the same
        look-up.

        Skips a message while another daemon holds a claim on the same number and text (both would block for ever), and
        a message that waits for an operator or for RapidPro: each renewal is a revision that replicates to phones.
        """
        if self._retry == _RETRY:
            hopeful = {ambiguous.held for ambiguous in asking if not (ambiguous.is_blocked or ambiguous.reported)}
            await self._renew([held for held in hopeful if self._claims.age(held) > self._claim_timeout / 4])

    async def _renew(self, tasks: Collection[ClaimedTask]) -> None:
        """Forgets those that are another daemon's by now."""
        async with asyncio.TaskGroup() as group:
            renewing = {held: group.create_task(self._claims.renew(held, sends=False)) for held in tasks}
        for held, renewed in renewing.items():
            if not renewed.result():
                self.forget(held)

    def _is_open(self, ambiguous: AmbiguousSend) -> bool:
        """Whether the message is still ambiguous and this daemon's: both may change during a request."""
        return self._open.get(ambiguous.key) is ambiguous

    async def _ask(self, asking: list[AmbiguousSend]) -> dict[MessageKey, Verdict | Blocked | Contested]:
        """The verdicts on those of the present RapidPro; none at all when it could not be asked."""
        base, settings = self._settings.base, self._settings.settings
        asked = [
            Asked(ambiguous.key, ambiguous.pair, ambiguous.held, until=ambiguous.since + self._settle_time)
            for ambiguous in asking
            if ambiguous.base == base
        ]
        if not asked or base is None or settings is None:
            return {}
        answer = await self._lookup.ask(base, asked, self._known, settings.values, self._claims.held_back.ids())
        if not isinstance(answer, str):
            self._retry = _RETRY
            return answer
        if self._retry == _RETRY:
            log.warning("listing.failed", why=answer, means="ambiguous messages wait until RapidPro can be asked")
        self._retry = min(2 * self._retry, _LONGEST_RETRY)
        return {}

    async def _send_again(self, ambiguous: AmbiguousSend, repeat: Repeat) -> None:
        if await self._claims.renew(ambiguous.held, sends=True):
            log.warning("broadcast.resent", doc=ambiguous.held.doc_id, message=ambiguous.message.uuid)
            self._metrics.count(Outcome.RESENT, ambiguous.held.about(ambiguous.message))
            repeat(ambiguous)
        else:
            self.forget(ambiguous.held)

    async def _report(self, ambiguous: AmbiguousSend, means: str) -> None:
        """Says once that an operator must look, and asks again later, as long as the task is still under our claim."""
        ambiguous.next_look = loop_time() + min(
            _UNDECIDABLE_PAUSE * 2.0**ambiguous.reported, _LONGEST_UNDECIDABLE_PAUSE
        )
        ambiguous.reported, ambiguous.why = min(ambiguous.reported + 1, 10), means.partition(":")[0]
        if ambiguous.reported == 1:
            log.error("broadcast.undecidable", doc=ambiguous.held.doc_id, message=ambiguous.message.uuid, means=means)
        elif not await self._claims.is_held(ambiguous.held):
            self.forget(ambiguous.held)

    def _next_look(self, ambiguous: AmbiguousSend, verdict: NotFound | TooRecent | Blocked | None) -> float:
        now = loop_time()
        match verdict:
            case NotFound():
                has_ended = self._has_ended(ambiguous, self._wall_clock(), self._lookup.rapidpro_time())
                return now if has_ended else ambiguous.since + self._settle_time
            case TooRecent():
                return now + self._request_time
            case Blocked():
                return now + self._claim_timeout / 4
            case None:
                return now + (_UNDECIDABLE_PAUSE if ambiguous.reported else self._retry)

    def _created(self, ambiguous: AmbiguousSend, found: Matched) -> Created:
        broadcast = found.broadcast
        self.know(ambiguous.held, ambiguous.message, ambiguous.pair, broadcast.id)
        log.info(
            "broadcast.adopted",
            doc=ambiguous.held.doc_id,
            message=ambiguous.message.uuid,
            gateway_ref=broadcast.id,
            status=broadcast.status,
        )
        self._metrics.count(Outcome.ADOPTED, ambiguous.held.about(ambiguous.message, broadcast.id))
        return Created(broadcast.id, broadcast.status)

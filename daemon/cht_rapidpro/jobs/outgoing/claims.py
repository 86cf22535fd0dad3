"""Claims, renews, releases and settles tasks in CouchDB, and knows which tasks this daemon holds.

The unit is the task: one with several messages sends each and is settled once. Every write here is an edit that decides
anew on each revision (domain/claim.py), so that two daemons never both hold a task and no outcome is lost.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import structlog

from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.config.schema import Outgoing
from cht_rapidpro.domain.claim import (
    EXPIRED,
    Claim,
    ClaimTasks,
    Instance,
    claim_of,
    earlier_claim,
    give_back,
    past,
    release,
    renew,
    settle,
)
from cht_rapidpro.domain.edit import TaskEdit, each, holding
from cht_rapidpro.domain.history import MessageRef
from cht_rapidpro.domain.outgoing import settled
from cht_rapidpro.domain.task import Doc, DocId, MessageKey, Task, messages, tasks
from cht_rapidpro.errors import PermanentError
from cht_rapidpro.jobs.documents.writer import FaultyError, UnconfirmedError, Writer
from cht_rapidpro.jobs.outgoing.claimed_task import ClaimedTask, Moment
from cht_rapidpro.jobs.outgoing.deferred import HeldBack
from cht_rapidpro.jobs.outgoing.send_queue import Candidate, SendQueue
from cht_rapidpro.telemetry.liveness import Liveness
from cht_rapidpro.telemetry.metrics import Metrics, Outcome

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FRESH: Final = 2.0  # seconds; an older copy of a document is read again before its message is claimed
_PASSED_PAUSE: Final = 60.0  # seconds until a sweep may bring a message again that could not be claimed
_REJECTED_PAUSE: Final = 3600.0
_FAULTY_PAUSE: Final = 600.0
_SETTLE_PAUSE: Final = 60.0
_REMEMBERED: Final = 10_000
_GIVEN_UP: Final = "the claim is given up: repair the document"


class Claims:
    """`wall_clock`: ms since the epoch, for what is written into documents; `send_queue` is told what became of each.

    Another instance's claim is taken over when this process has itself seen it unchanged for `claim_timeout` of loop
    time: what a stamp says of its age depends on two clocks.
    """

    def __init__(
        self,
        writer: Writer,
        send_queue: SendQueue,
        me: Instance,
        config: Outgoing,
        wall_clock: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._writer = writer
        self._send_queue = send_queue
        self._config = config
        self._wall_clock = wall_clock
        self._metrics = metrics
        self._held: dict[MessageKey, ClaimedTask] = {}
        self._seen: OrderedDict[DocId, dict[Claim, float]] = OrderedDict()  # claims of others: since when, loop time
        self._lost: OrderedDict[MessageKey, None] = OrderedDict()  # tasks that this process may have sent and gave up
        self.held_back = HeldBack()
        self.is_suspect: Callable[[MessageKey], bool] = lambda _: False  # another gateway may have sent it
        self._settled = Signal[DocId, Task]()
        self.subscribe = self._settled.subscribe  # called with every task that has just been settled, as it is stored
        self.me = me
        self.liveness = Liveness("claim", writer.liveness.needs)
        self.started = Moment(wall_clock(), loop_time())

    def __len__(self) -> int:
        return len(set(self._held.values()))

    def find(self, key: MessageKey) -> ClaimedTask | None:
        """The task under our claim that has this message."""
        return self._held.get(key)

    async def claim(self, candidates: Sequence[Candidate], *, only_own: bool = False) -> list[ClaimedTask]:
        """The tasks that we hold now; the candidates that we could not get stay in the send queue's care.

        `only_own`: only those under a claim of an earlier process of ours.
        """
        wanted: dict[DocId, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            wanted[candidate.doc_id].append(candidate)
        moment = Moment(self._wall_clock(), loop_time())
        async with asyncio.TaskGroup() as group:
            claims = [
                group.create_task(self._claim_in(doc_id, mine, moment, only_own=only_own))
                for doc_id, mine in wanted.items()
            ]
        return [task for claim in claims for task in claim.result()]

    async def _claim_in(
        self, doc_id: DocId, candidates: list[Candidate], moment: Moment, *, only_own: bool
    ) -> list[ClaimedTask]:
        now = moment.wall
        expire_after = self._config.expire_after
        claim = ClaimTasks(
            self.me,
            wanted={candidate.uuid for candidate in candidates},
            held={uuid for held_in, uuid in self._held if held_in == doc_id},
            now=now,
            stale=self._stale_in(doc_id),
            suspects={candidate.uuid for candidate in candidates if self.is_suspect(candidate.key)},
            only_own=only_own,
            expire_before=None if expire_after is None else now - round(expire_after * 1000),
        )
        try:
            doc = await self._writer.apply(doc_id, claim, max_age=FRESH, is_claim=True)
        except UnconfirmedError as error:
            log.warning("claim.unconfirmed", doc=doc_id, why=str(error))
            self._hold_all(candidates, _PASSED_PAUSE)
            return []
        except PermanentError as error:
            self.held_back.hold(doc_id, str(error))
            self._hold_all(candidates, _FAULTY_PAUSE if isinstance(error, FaultyError) else _REJECTED_PAUSE)
            return []
        self.held_back.free(doc_id)
        due = min(candidate.due for candidate in candidates)
        held = [self._take(doc_id, doc, task, due, moment) for task in claim.won(doc)] if doc else []
        self._keep(held)
        won = {key for task in held for key in task.keys}
        missed = [candidate for candidate in candidates if candidate.key not in won]
        if missed and doc:
            self._see(doc_id, doc)
        found = holding(doc, {candidate.uuid for candidate in missed}) if doc else {}
        for candidate in missed:
            self._pass_over(candidate, next(iter(found.get(candidate.uuid, [])), None))
        return held

    def _take(self, doc_id: DocId, doc: Doc, task: Task, due: int, moment: Moment) -> ClaimedTask:
        earlier = earlier_claim(task)
        held = ClaimedTask(doc_id, messages(task), due, moment, earlier, past(task, doc) if earlier else None)
        held.is_suspect = any(map(self.is_suspect, held.keys))
        held.is_earlier_process = (
            earlier is not None
            and earlier.instance == self.me.id
            and earlier.at <= self.started.wall  # a later stamp is a clone's, or of a clock that was ahead: be cautious
            and self._lost.keys().isdisjoint(held.keys)
        )
        log.info("task.claimed", doc=doc_id, message=held.uuid)
        return held

    def _stale_in(self, doc_id: DocId) -> list[Claim]:
        """The claims of other instances in a document that have not changed for `claim_timeout` before our eyes."""
        first = loop_time() - self._config.claim_timeout
        return [claim for claim, since in self._seen.get(doc_id, {}).items() if since <= first]

    def _see(self, doc_id: DocId, doc: Doc) -> None:
        """Notes the claims of other instances in the document, and since when this process sees each unchanged."""
        known, now = self._seen.pop(doc_id, {}), loop_time()
        claims = (claim for task in tasks(doc) if (claim := claim_of(task)) and claim.instance != self.me.id)
        found = {claim: known.get(claim, now) for claim in claims}
        if found:
            self._seen[doc_id] = found
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def _hold_all(self, candidates: Iterable[Candidate], pause: float) -> None:
        for candidate in candidates:
            self._hold_back(candidate, pause)

    def _keep(self, held_tasks: Iterable[ClaimedTask]) -> None:
        keys = {key: held for held in held_tasks for key in held.keys}
        self._send_queue.mark_claimed(keys)
        self._held |= keys

    def _let_go(self, held: ClaimedTask) -> None:
        """Removes the task from the held ones; a task that was claimed again meanwhile is another ClaimedTask, and
        stays.
        """
        ours = [key for key in held.keys if self._held.get(key) is held]
        self._send_queue.forget(ours)
        for key in ours:
            del self._held[key]

    def _lose(self, held: ClaimedTask) -> None:
        """Gives up a task: another daemon has the claim now, or CHT no longer wants the message sent."""
        log.warning("claim.lost", doc=held.doc_id, message=held.uuid)
        held.is_lost = True
        self._let_go(held)
        self._lost |= dict.fromkeys(held.keys)
        while len(self._lost) > _REMEMBERED:
            self._lost.popitem(last=False)

    def _pass_over(self, candidate: Candidate, task: Task | None) -> None:
        """Handles a candidate without a claim: another daemon has it, CHT no longer wants it sent, or it has
        expired.
        """
        claim = claim_of(task) if task else None
        pause = _PASSED_PAUSE
        if claim is not None:
            log.debug("claim.missed", doc=candidate.doc_id, message=candidate.uuid, holder=claim.instance)
            since = self._seen.get(candidate.doc_id, {}).get(claim, loop_time())
            pause = max(0.0, since + self._config.claim_timeout - loop_time())
        elif task and (task.get("state"), task.get("state_details")) == (EXPIRED.state, EXPIRED.details):
            log.warning("task.expired", doc=candidate.doc_id, message=candidate.uuid)
            self._metrics.count(
                Outcome.EXPIRED, _about(candidate, task), "it was due longer ago than expire_after allows"
            )
        self._hold_back(candidate, pause)

    def _hold_back(self, candidate: Candidate, seconds: float) -> None:
        self._send_queue.defer(candidate.key, loop_time() + seconds)

    async def renew(self, held: ClaimedTask, *, sends: bool) -> bool:
        """Gives the claim a new date; False, and the task is given up, when it is not ours any more.

        `sends`: whether a POST may begin under the new claim.
        """
        async with held.renewing:
            if held.is_lost:
                return False  # another of its messages has met with it
            moment = Moment(self._wall_clock(), loop_time())
            edit = renew(self.me, held.uuid, held.claimed.wall, moment.wall, sends=sends)
            try:
                found = await self._writer.apply_to_task(held.doc_id, edit, is_claim=True)
            except UnconfirmedError as error:
                log.warning("claim.unconfirmed", doc=held.doc_id, why=str(error))
                found = []
            except PermanentError as error:
                log.error("claim.rejected", doc=held.doc_id, error=str(error), means=_GIVEN_UP)
                found = []
            if not self._is_ours(found, moment):
                self._lose(held)
                return False
            held.claimed, held.seen = moment, moment.loop
            return True

    async def confirm(self, held_tasks: Collection[ClaimedTask], following: Collection[ClaimedTask] = ()) -> None:
        """Reads their documents again, at once, and gives up each task that is not ours or not wanted as it was.

        Of `following`, whose turn comes later, none is given up yet.
        """
        claimed = {held: held.claimed for held in [*held_tasks, *following]}
        docs = await self._writer.latest({held.doc_id for held in claimed})
        for held, moment in claimed.items():
            if held.claimed is not moment or held.renewing.locked():
                continue  # the answer may be of the moment before or after it
            if self._is_as_claimed(held, docs.get(held.doc_id)):
                held.seen = loop_time()
            elif held in held_tasks:
                self._lose(held)

    def _is_as_claimed(self, held: ClaimedTask, doc: Doc | None) -> bool:
        found = holding(doc, [held.uuid]).get(held.uuid, []) if doc else []
        ours = [task for task in found if claim_of(task) == Claim(self.me.id, held.claimed.wall)]
        return any(messages(task) == held.messages for task in ours)

    async def is_held(self, held: ClaimedTask) -> bool:
        """Whether the task is still under our claim; if not, it is given up."""
        looked = each(held.uuid, lambda task: task)
        if self._is_ours(await self._writer.apply_to_task(held.doc_id, looked, max_age=0.0), held.claimed):
            return True
        self._lose(held)
        return False

    def _is_ours(self, found: Iterable[Task], moment: Moment) -> bool:
        """Whether one of these is under the claim that we made at this moment."""
        return any(claim_of(task) == Claim(self.me.id, moment.wall) for task in found)

    def now(self) -> int:
        """The present in ms since the epoch, on the clock of the documents."""
        return self._wall_clock()

    def age(self, held: ClaimedTask) -> float:
        """Seconds since the claim was made or renewed.

        Loop time stands still in a suspended machine, so the wall clock may make the claim older, never younger.
        """
        return max(loop_time() - held.claimed.loop, (self._wall_clock() - held.claimed.wall) / 1000)

    def unseen_for(self, held: ClaimedTask) -> float:
        """Seconds since CouchDB was last known to want it sent, under our claim."""
        return loop_time() - held.seen

    async def release(self, held: ClaimedTask) -> None:
        """Makes the task `pending` again, for any daemon; in this daemon's send queue it keeps its place."""
        try:
            await self._writer.apply_to_task(held.doc_id, release(self.me, held.uuid, self._wall_clock()))
        except PermanentError as error:
            log.error("release.rejected", doc=held.doc_id, message=held.uuid, error=str(error))
        else:
            log.info("task.released", doc=held.doc_id, message=held.uuid)
        self._let_go(held)
        for key, message in zip(held.keys, held.messages, strict=True):
            if held.pause:
                self._send_queue.defer(key, loop_time() + held.pause, firmly=True)
            else:
                self._send_queue.add(Candidate(held.due, *key, hash(message.text)))

    async def settle(self, held: ClaimedTask) -> None:
        """Writes what became of the task. It is a fact: while the document will not take it, it is tried again."""
        change = settled(held.state.results)
        known = log.bind(doc=held.doc_id, message=held.uuid, gateway_ref=change.gateway_ref)
        found = await self._write_fact(held.doc_id, settle(self.me, held.uuid, change, self._wall_clock()), known)
        if not found:
            known.warning("settle.dropped", why="the document or its task was deleted meanwhile")
        for task in found[:1]:
            known.info("task.settled", state=task.get("state"))
            self._settled.emit(held.doc_id, task)
        self._let_go(held)

    async def give_back(self, held: ClaimedTask, gateway_ref: str) -> bool:
        """Holds the settled task under a claim again, since its broadcast is another task's; whether that worked."""
        moment = Moment(self._wall_clock(), loop_time())
        try:
            edit = give_back(self.me, held.uuid, gateway_ref, moment.wall)
            found = await self._writer.apply_to_task(held.doc_id, edit, is_claim=True)
        except PermanentError as error:
            log.error("claim.rejected", doc=held.doc_id, error=str(error), means="two tasks share one broadcast")
            return False
        if not self._is_ours(found, moment):
            return False
        log.warning("broadcast.given_back", doc=held.doc_id, message=held.uuid, gateway_ref=gateway_ref)
        self._keep([held])
        held.claimed, held.seen = moment, moment.loop
        return True

    async def _write_fact(self, doc_id: DocId, edit: TaskEdit, known: structlog.stdlib.BoundLogger) -> list[Task]:
        complained = False
        while True:
            try:
                return await self._writer.apply_to_task(doc_id, edit, may_wait=True)
            except PermanentError as error:
                if not complained:
                    known.error("settle.rejected", error=str(error), means="sent, but the document cannot say so")
                complained = True
                await asyncio.sleep(_SETTLE_PAUSE)


def _about(candidate: Candidate, task: Task) -> MessageRef:
    numbers = [message.to for message in messages(task) if message.uuid == candidate.uuid]
    return MessageRef(candidate.doc_id, candidate.uuid, *numbers)

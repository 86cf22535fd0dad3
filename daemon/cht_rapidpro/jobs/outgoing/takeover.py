"""Takes over from another gateway without one SMS twice.

What is sendable when this gateway becomes the one that sends may be in the other one's batch. It is held back; one
complete listing of RapidPro's broadcasts, begun `settle_time` after the other gateway's last sign, tells which of it
has a free broadcast: those messages are claimed as ambiguous ones, all others are sent normally. What becomes sendable
later is sent at once. A takeover is over when its suspects are settled; a restart before that begins it again
(docs/exactly-once.md#taking-over-from-another-gateway).
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.host.sender_file import SenderFile
from cht_rapidpro.cancellation import end
from cht_rapidpro.domain.findings import Finding, Level, counted
from cht_rapidpro.domain.outgoing import pair_of
from cht_rapidpro.domain.takeover import FreeBroadcasts, Sender, foreign, is_takeover
from cht_rapidpro.domain.task import Doc, DocId, Message, MessageKey, message_fields, read_message
from cht_rapidpro.errors import GatewayError
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.broadcast_lookup import Lookup
from cht_rapidpro.jobs.outgoing.claimed_task import Moment
from cht_rapidpro.jobs.outgoing.reconciler import Reconciler
from cht_rapidpro.jobs.outgoing.send_queue import SendQueue

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_SENDABLE: Final = "pending-or-forwarded"  # the view's own name for it
_GRACE: Final = 2.0  # seconds in which the other gateway may learn of the app settings later than this one does
_BACK: Final = 3600.0  # seconds before the takeover from which broadcasts are listed
_RETRY: Final = 5.0  # seconds until a listing that failed is tried again, doubling up to
_LONGEST_RETRY: Final = 300.0
_LOOK: Final = 5.0  # seconds between two looks at what became of the suspects, doubling up to
_LONGEST_LOOK: Final = 300.0


class Takeover:
    """`settle_time`: seconds; `wall_clock`: ms since the epoch. Until the file was read nothing is sent.

    `quiet_since`: loop time of the other gateway's last sign; `earliest`: when the first broadcast that counts may have
    been made.
    """

    def __init__(
        self,
        file: SenderFile,
        couch: Couch,
        lookup: Lookup,
        reconciler: Reconciler,
        settings: SettingsWatch,
        send_queue: SendQueue,
        settle_time: float,
        wall_clock: Callable[[], int],
    ) -> None:
        self._file = file
        self._couch = couch
        self._lookup = lookup
        self._reconciler = reconciler
        self._settings = settings
        self._send_queue = send_queue
        self._settle_time = settle_time
        self._wall_clock = wall_clock
        self._last: Sender | None = None
        self._stored: Sender | None = None
        self._held: set[int] | None = None  # hashes of message keys: a backlog may be long. None: hold all
        self._suspects: set[MessageKey] = set()
        self._work: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.quiet_since = _time()
        self.earliest = Moment(wall_clock(), _time())
        settings.subscribe(self._on_settings)

    @property
    def is_opening(self) -> bool:
        """Whether it is not known yet what to hold back."""
        return self._held is None

    @property
    def since(self) -> int | None:
        """When this gateway became the one that sends, ms since the epoch; None: it is not."""
        return self._last.since if self._last is not None and self._last.is_ours else None

    @property
    def undecided(self) -> int:
        """How many messages from before the takeover wait to be decided."""
        return len(self._held or ()) + len(self._suspects)

    def problems(self) -> Iterator[Finding]:
        if waiting := self.undecided:
            yield Finding(
                Level.OK,
                "Messages wait that the gateway before this one may have sent.",
                f"{counted(waiting, 'message')}.",
                "RapidPro is asked which of them it has; new messages are sent at once.",
            )

    def subscribe(self, listener: Callable[[], None]) -> None:
        """`listener` is called when messages may be sent that were held back."""
        self._listeners.append(listener)

    def holds(self, key: MessageKey) -> bool:
        return self._held is None or hash(key) in self._held

    def suspects(self, key: MessageKey) -> bool:
        """Whether the other gateway may have sent it: a broadcast like it is free."""
        return key in self._suspects

    def see(self, doc_id: DocId, doc: Doc) -> None:
        """Takes note of a changed document: the other gateway may have settled one of those that are held back."""
        if self._held:
            sent = {hash((doc_id, uuid)) for uuid, _ in foreign(doc)} & self._held
            if sent:
                self._held -= sent
                self.quiet_since = _time()

    # -- who sends --------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        self._last = self._stored = await asyncio.to_thread(self._file.read)
        self._changed.set()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._follow(group)
        raise AssertionError("unreachable: the loop above has no end")

    def _on_settings(self) -> None:
        """Holds everything back at once; `run` does what takes time."""
        choice, settings = self._settings.choice, self._settings.settings
        if choice is None or settings is None or not choice.sends or is_takeover(self._last, settings.revision):
            self._held = None
            self._send_queue.clear()
        self._changed.set()

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        choice, settings = self._settings.choice, self._settings.settings
        if choice is None or settings is None:
            return
        if not choice.sends:
            await self._stop_work()
            await self._note(Sender(False, settings.revision))
        elif self._last is None or is_takeover(self._last, settings.revision):
            await self._stop_work()
            is_new = self._last is None or not self._last.is_open
            since = self._wall_clock() if is_new or self._last is None else self._last.since
            await self._note(Sender(True, settings.revision, since, is_open=True))
            self._work = group.create_task(self._take_over(is_new=is_new))
        else:
            is_open = self._work is not None and not self._work.done()
            await self._note(replace(self._last, revision=settings.revision, is_open=is_open))
            if not is_open and self._held is None:
                self._let_through(set())

    async def _stop_work(self) -> None:
        self._suspects = set()
        if self._work is not None:
            await end(self._work)
            self._work = None

    async def _note(self, sender: Sender) -> None:
        self._last = replace(sender, is_open=False)
        if sender == self._stored:
            return
        try:
            await asyncio.to_thread(self._file.write, sender)
            self._stored = sender
        except GatewayError as error:
            log.error("sender.unwritten", error=str(error), means="the next start takes over again, and waits for it")

    def _let_through(self, held: set[int]) -> None:
        self._held = held
        self._send_queue.low.set()
        for listener in self._listeners:
            listener()

    # -- taking over ------------------------------------------------------------------------------------------------

    async def _take_over(self, *, is_new: bool) -> None:
        now = Moment(self._wall_clock(), _time())
        ago = 0.0 if is_new or self._last is None else max(0.0, (now.wall - self._last.since) / 1000)
        self.earliest = Moment(now.wall - round((ago + _BACK) * 1000), now.loop - ago - _BACK)
        self._reconciler.doubt(now.loop)
        await asyncio.sleep(_GRACE)
        held = await until_it_works(self._sendable)
        self.quiet_since = _time()
        self._let_through(held)
        if held:
            log.warning(
                "takeover.started", messages=len(held), means=f"they wait {self._settle_time:g} s, new ones not"
            )
            suspects = await self._find_suspects(ago)
            log.info("takeover.listed", suspects=len(suspects), others=len(self._held or ()) - len(suspects))
            self._suspects = suspects
            self._let_through(set())
            await self._until_settled()
        if self._last is not None:
            await self._note(self._last)
        log.info("takeover.finished")

    async def _sendable(self) -> set[int]:
        async with aclosing(self._couch.messages_in(_SENDABLE)) as pages:
            return {
                hash((row.doc_id, found.uuid))
                async for page in pages
                for row in page
                if (found := read_message(message_fields(row.value)))
            }

    async def _find_suspects(self, ago: float) -> set[MessageKey]:
        """The messages held back that have a free broadcast; `ago`: seconds since the takeover began before a restart.

        A free broadcast that is younger than `settle_time` says that the other gateway still sends.
        """
        while True:
            base, now = self._settings.target, await self._clock()
            is_proven = ago >= self._settle_time and now is not None and self._is_past(now)
            if not is_proven:
                await self._until_quiet()
            ago = 0.0
            if base is None:
                await asyncio.sleep(_RETRY)  # the app settings name no RapidPro that can be asked
                continue
            free = await self._list(base)
            found = await until_it_works(self._match, free)
            newest, now = max(found.values(), default=None), await self._clock()
            age = self._settle_time if newest is None or now is None else (now - newest) / 1000
            if age >= self._settle_time:
                return set(found)
            self.quiet_since = max(self.quiet_since, _time() - max(0.0, age))

    async def _clock(self) -> int | None:
        """RapidPro's present time in ms, None where it does not tell."""
        base = self._settings.target
        return None if base is None else await self._lookup.present(base)

    def _is_past(self, now: int) -> bool:
        """Whether this machine's clock and RapidPro's both say that `settle_time` is over since the takeover."""
        since = self._last.since if self._last is not None else self._wall_clock()
        return min(now, self._wall_clock()) >= since + self._settle_time * 1000

    async def _until_quiet(self) -> None:
        while True:
            left = self.quiet_since + self._settle_time - _time()
            if left <= 0:
                return
            await asyncio.sleep(left)  # a sign may come meanwhile

    async def _list(self, base: str) -> FreeBroadcasts:
        retry = _RETRY
        while True:
            settings = self._settings.settings
            after = _time() - self.earliest.loop
            free = await self._lookup.free(base, after, self._reconciler.known, settings.values if settings else {})
            if not isinstance(free, str):
                return free
            if retry == _RETRY:
                log.warning("listing.failed", why=free, means="messages from before the takeover wait for it")
            await asyncio.sleep(retry)
            retry = min(2 * retry, _LONGEST_RETRY)

    async def _match(self, free: FreeBroadcasts) -> dict[MessageKey, int]:
        """Those held back that may have a broadcast, and when its latest one was made; forgets what is not sendable."""
        found: dict[MessageKey, int] = {}
        async with aclosing(self._couch.messages_in(_SENDABLE)) as pages:
            async for page in pages:
                for row in page:
                    message = read_message(message_fields(row.value))
                    if message is not None and self.holds(key := (row.doc_id, message.uuid)):
                        moment = self._broadcast_of(message, free)
                        found |= {} if moment is None else {key: moment}
        return found

    def _broadcast_of(self, message: Message, free: FreeBroadcasts) -> int | None:
        settings = self._settings.settings
        return free.newest(pair_of(message, settings.values if settings else {})) if free.texts else None

    async def _until_settled(self) -> None:
        """A suspect that only an operator can decide stays under its claim, which a restart looks up by itself."""
        pause = _LOOK
        while self._open_suspects():
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)
            sendable = await until_it_works(self._sendable)
            self._suspects = {key for key in self._suspects if hash(key) in sendable}

    def _open_suspects(self) -> Collection[MessageKey]:
        return [
            key for key in self._suspects if (ambiguous := self._reconciler.find(key)) is None or not ambiguous.reported
        ]


def _time() -> float:
    return asyncio.get_running_loop().time()

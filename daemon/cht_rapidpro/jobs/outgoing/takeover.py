"""Takes over from another gateway without one SMS twice.

What is sendable when this gateway becomes the one that sends may be in the other one's batch. It is held back; one
complete listing of RapidPro's broadcasts, begun `settle_time` after the other gateway's last sign, tells which of it
has a free broadcast: those messages are claimed as ambiguous ones, all others are sent normally. What becomes sendable
later is sent at once. A takeover is over when its suspects are settled; a restart before that begins it again
(docs/exactly-once.md#taking-over-from-another-gateway).
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.host.sender_file import SenderFile
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.concurrency.timing import loop_time, wait_for_event
from cht_rapidpro.domain.findings import Finding, Level, counted
from cht_rapidpro.domain.takeover import Sender, foreign, is_takeover
from cht_rapidpro.domain.task import Doc, DocId, MessageKey, Task, message_ids
from cht_rapidpro.errors import GatewayError
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.claimed_task import Moment
from cht_rapidpro.jobs.outgoing.reconciler import Reconciler
from cht_rapidpro.jobs.outgoing.send_queue import SendQueue
from cht_rapidpro.jobs.outgoing.suspects import Suspects

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_GRACE: Final = 2.0  # seconds in which the other gateway may learn of the app settings later than this one does
_LOOK: Final = 5.0  # seconds between two looks at what became of the suspects, doubling up to
_LONGEST_LOOK: Final = 300.0


class Takeover:
    """`wall_clock`: ms since the epoch. Until the file was read nothing is sent."""

    def __init__(
        self,
        file: SenderFile,
        search: Suspects,
        reconciler: Reconciler,
        settings: SettingsWatch,
        send_queue: SendQueue,
        wall_clock: Callable[[], int],
    ) -> None:
        self._file = file
        self._search = search
        self._reconciler = reconciler
        self._settings = settings
        self._send_queue = send_queue
        self._wall_clock = wall_clock
        self._last: Sender | None = None
        self._stored: Sender | None = None
        self._held: set[int] | None = None  # hashes of message keys: a backlog may be long. None: hold all
        self._suspects: set[MessageKey] = set()
        self._work: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._decided = asyncio.Event()
        self._let_go = Signal[()]()
        self.subscribe = self._let_go.subscribe  # called when messages may be sent that were held back
        settings.subscribe(self._on_settings)

    @property
    def is_opening(self) -> bool:
        """Whether it is not known yet what to hold back."""
        return self._held is None

    @property
    def is_finished(self) -> bool:
        """Whether nothing from before a takeover may still be decided."""
        return self._held is not None and not self._held and not self.open_suspects()

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

    def settled(self, doc_id: DocId, task: Task) -> None:
        """Takes note of a task that has been settled."""
        self.decided((doc_id, uuid) for uuid in message_ids(task))

    def decided(self, keys: Iterable[MessageKey]) -> None:
        """These are settled, or given back after a look-up."""
        self._suspects.difference_update(keys)
        self._decided.set()

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
                self._search.quiet_since = loop_time()

    @property
    def quiet_since(self) -> float:
        """When the other gateway was last seen to send, loop time."""
        return self._search.quiet_since

    @property
    def earliest(self) -> Moment:
        """When the first broadcast that counts may have been made."""
        return self._search.earliest

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
            self._work = group.create_task(self._take_over(since))
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
        self._send_queue.want_sweep()
        self._let_go.emit()

    # -- taking over ------------------------------------------------------------------------------------------------

    async def _take_over(self, since: int) -> None:
        self._search.begin(since)
        self._reconciler.postpone(self._search.quiet_since)
        await asyncio.sleep(_GRACE)
        held = await until_it_works(self._search.sendable)
        self._search.quiet_since = loop_time()
        self._let_through(held)
        if held:
            log.warning("takeover.started", messages=len(held), means="they wait for a look-up; new ones are sent")
            suspects = await self._search.find(self.holds)
            log.info("takeover.listed", suspects=len(suspects), others=len(held) - len(suspects))
            self._suspects = suspects
            self._let_through(set())
            await self._until_settled()
        if self._last is not None:
            await self._note(self._last)
        log.info("takeover.finished")

    async def _until_settled(self) -> None:
        """A suspect that only an operator can decide stays under its claim, which a restart looks up by itself."""
        pause = _LOOK
        while self.open_suspects():
            self._decided.clear()
            if await wait_for_event(self._decided, pause):
                continue
            pause = min(2 * pause, _LONGEST_LOOK)
            sendable = await until_it_works(self._search.sendable)
            self._suspects = {key for key in self._suspects if hash(key) in sendable}

    def open_suspects(self) -> Collection[MessageKey]:
        """Those that may still be decided without an operator."""
        return [
            key for key in self._suspects if (ambiguous := self._reconciler.find(key)) is None or not ambiguous.reported
        ]

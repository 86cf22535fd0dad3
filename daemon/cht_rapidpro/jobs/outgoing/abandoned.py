"""Takes up the claims that an earlier process of this daemon has left behind, while this gateway is not to send.

While it sends, a sweep brings them by itself. Where another gateway is chosen, or is about to be, nothing is claimed
anew; but these may have been sent, and the other gateway would send them again. So they are looked up, and settled or
given back (docs/exactly-once.md#leaving). So are the suspects of a takeover that is not finished: the gateway before
would send them again, too.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final, NoReturn

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.concurrency.timing import wait_for_event
from cht_rapidpro.domain.claim import claim_of
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Doc, MessageKey, Task, due, is_sendable, messages, tasks
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.claims import Claims
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.jobs.outgoing.send_queue import Candidate
from cht_rapidpro.jobs.outgoing.takeover import Takeover

_AGAIN: Final = 5.0  # seconds until the next look, while the last one has found some, doubling up to
_LONGEST: Final = 300.0


class AbandonedClaims:
    """`take_up` is given what was found. `is_done`: none is left, as far as a look since the last change shows."""

    def __init__(
        self,
        couch: Couch,
        settings: SettingsWatch,
        pause: PauseWatch,
        claims: Claims,
        takeover: Takeover,
        take_up: Callable[[Sequence[Candidate]], None],
    ) -> None:
        self._couch = couch
        self._settings = settings
        self._pause = pause
        self._claims = claims
        self._takeover = takeover
        self._take_up = take_up
        self._changed = asyncio.Event()
        self._was_leaving = False
        self.is_done = False
        settings.subscribe(self._on_change)
        pause.subscribe(self._on_change)
        takeover.subscribe(self._on_suspects)

    @property
    def _is_leaving(self) -> bool:
        """Whether this gateway is not to send, and RapidPro can be asked."""
        is_known = self._settings.settings is not None and self._settings.base is not None
        return is_known and (self._settings.target is None or self._pause.is_draining)

    def _on_change(self) -> None:
        if self._is_leaving != self._was_leaving:
            self._was_leaving, self.is_done = self._is_leaving, False
            self._changed.set()

    def _on_suspects(self) -> None:
        if self._is_leaving:
            self.is_done = False
            self._changed.set()

    async def run(self) -> NoReturn:
        pause = _AGAIN
        while True:
            await wait_for_event(self._changed, pause if self._is_leaving and not self.is_done else math.inf)
            pause = _AGAIN if self._changed.is_set() else min(2 * pause, _LONGEST)
            self._changed.clear()
            if self._is_leaving:
                found = await until_it_works(self._look)
                self.is_done = not found
                self._take_up(found)

    async def _look(self) -> list[Candidate]:
        ids = {doc_id for doc_id, _ in self._takeover.open_suspects()}
        async with aclosing(self._couch.messages_in(State.FORWARDED_TO_GATEWAY)) as pages:
            async for page in pages:
                ids.update(row.doc_id for row in page)
        found: list[Candidate] = []
        async with aclosing(self._couch.documents(sorted(ids))) as parts:
            async for docs in parts:
                found += [each for doc in docs.values() if doc for each in self._own(doc)]
        return found

    def _own(self, doc: Doc) -> list[Candidate]:
        """The messages under a claim of ours that this process does not hold, and the suspects without a claim."""
        return [
            Candidate(due(task, doc) or 0, doc["_id"], message.uuid, hash(message.text))
            for task in tasks(doc)
            if is_sendable(task)
            for message in messages(task)
            if self._is_ours(task, key := (doc["_id"], message.uuid)) and self._claims.find(key) is None
        ]

    def _is_ours(self, task: Task, key: MessageKey) -> bool:
        claim = claim_of(task)
        return self._takeover.suspects(key) if claim is None else claim.instance == self._claims.me.id

"""Notices another gateway that sends while this one is chosen: two gateways are two SMS.

The feed shows each task that has just got a `gateway_ref` which no cht-rapidpro has written. Stamps in documents decide
only whether an operator is told: an entry from before the takeover, or an old one in a document that changes for
another reason, is no sign.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import structlog

from cht_rapidpro.concurrency.timing import loop_time, wait_for_event
from cht_rapidpro.domain.findings import Finding, Level, counted
from cht_rapidpro.domain.takeover import foreign
from cht_rapidpro.domain.task import Doc, DocId, MessageKey
from cht_rapidpro.jobs.outgoing.takeover import Takeover

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_RECENT: Final = 600_000  # ms
_QUIET: Final = 300.0  # seconds without a sign until the other gateway counts as gone: five ticks of CHT's own one
_MOST: Final = 10_000
_ADVICE: Final = (
    "Messages may go out twice. Set sms.outgoing_service to 'cht-rapidpro' in the app settings, and find the gateway"
    " that goes on: an API of CHT with old settings, a second site, a phone."
)


class ContestWatch:
    """`settle_time`: seconds that the other gateway may take to end; `wall_clock`: ms since the epoch."""

    def __init__(self, takeover: Takeover, settle_time: float, wall_clock: Callable[[], int]) -> None:
        self._takeover = takeover
        self._settle_time = settle_time
        self._wall_clock = wall_clock
        self._found: dict[MessageKey, int] = {}
        self._seen_at = 0.0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many messages the other gateway has sent, as far as it is still at work."""
        return len(self._found)

    def look(self, doc_id: DocId, doc: Doc) -> None:
        since = self._takeover.since
        if since is None:
            return
        first = max(since + round(self._settle_time * 1000), self._wall_clock() - _RECENT)
        fresh = [((doc_id, uuid), at) for uuid, at in foreign(doc) if at >= first]
        fresh = [(key, at) for key, at in fresh if self._found.get(key, 0) < at]
        if not fresh:
            return
        if not self._found:
            log.error("sending.contested", doc=doc_id, message=fresh[0][0][1], means=_ADVICE)
        if len(self._found) < _MOST:
            self._found |= dict(fresh)
        self._seen_at = loop_time()
        self._changed.set()

    def problems(self) -> Iterator[Finding]:
        if self._found:
            more = f"{counted(len(self._found), 'message')} so far."
            yield Finding(Level.BROKEN, "Another gateway sends, too.", more, _ADVICE)

    async def run(self) -> NoReturn:
        """Ends the alarm five minutes after the last sign, also where another gateway is chosen meanwhile."""
        while True:
            self._changed.clear()
            left = self._seen_at + _QUIET - loop_time()
            if self._found and (left <= 0 or self._takeover.since is None):
                log.info("sending.uncontested", messages=len(self._found))
                self._found = {}
            await wait_for_event(self._changed, max(left, 0.0) if self._found else math.inf)

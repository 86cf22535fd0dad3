"""What the running daemon has in memory of single messages, for an operator's commands.

They ask over the control socket. An order is written into CouchDB by the command itself; then the daemon is told, so
that a message that it gave up on is looked at again at once and not after its pause.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from cht_rapidpro.adapters.web.control import Control
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.orders import Phase
from cht_rapidpro.domain.send_state import SendPhase
from cht_rapidpro.domain.task import DocId, MessageId, MessageKey
from cht_rapidpro.errors import PermanentError
from cht_rapidpro.jobs.outgoing.claims import Claims
from cht_rapidpro.jobs.outgoing.reconciler import Reconciler
from cht_rapidpro.jobs.outgoing.send_queue import SendQueue

_MOST: Final = 1000  # messages a request
_PHASES: Final = {
    SendPhase.READY: Phase.READY,
    SendPhase.IN_FLIGHT: Phase.IN_FLIGHT,
    SendPhase.AMBIGUOUS: Phase.AMBIGUOUS,
    SendPhase.DONE: Phase.IN_FLIGHT,  # other messages of its task are
}


class Memory:
    """Answers two routes of the control socket; each takes `{"messages": [[document, uuid], …]}`."""

    def __init__(self, send_queue: SendQueue, claims: Claims, reconciler: Reconciler) -> None:
        self._send_queue = send_queue
        self._claims = claims
        self._reconciler = reconciler

    def add_to(self, control: Control) -> None:
        control.application.router.add_post("/messages/known", self._known)
        control.application.router.add_post("/messages/changed", self._changed)

    def tell(self, key: MessageKey) -> dict[str, Any]:
        """The phase of a message and what belongs to it; times in seconds from now."""
        now = loop_time()
        told: dict[str, Any] = {"phase": self.phase(key), "held_back": self._claims.held_back.reason(key[0])}
        if (place := self._send_queue.place(key)) is not None:
            told["before_it"] = place
        if (until := self._send_queue.held_until(key)) is not None:
            told["looked_at_again_in"] = max(0.0, until - now)
        if (ambiguous := self._reconciler.find(key)) is not None:
            told |= {"since": now - ambiguous.since, "is_blocked": ambiguous.is_blocked, "told": ambiguous.reported}
            if ambiguous.next_look < float("inf"):
                told["next_look_in"] = max(0.0, ambiguous.next_look - now)
        return told

    def phase(self, key: MessageKey) -> Phase:
        if (ambiguous := self._reconciler.find(key)) is not None:
            return Phase.UNDECIDABLE if ambiguous.reported else Phase.AMBIGUOUS
        if (held := self._claims.find(key)) is not None:
            return _PHASES[held.state.phase(key[1])]
        if self._send_queue.place(key) is not None:
            return Phase.WAITING
        if self._send_queue.is_held(key):
            return Phase.TAKEN_OVER
        return Phase.NOWHERE if self._send_queue.held_until(key) is None else Phase.PASSED_OVER

    async def _known(self, request: web.Request) -> web.Response:
        return web.json_response({"messages": [self.tell(key) for key in _keys(await request.json())]})

    async def _changed(self, request: web.Request) -> web.Response:
        """Checks the claims of undecidable messages again, and forgets those that are lost."""
        keys = _keys(await request.json())
        for key in keys:
            ambiguous = self._reconciler.find(key)
            if ambiguous is not None and ambiguous.reported and not await self._claims.is_held(ambiguous.held):
                self._reconciler.forget(ambiguous.held)
            self._send_queue.reconsider(key)
        return web.json_response({"messages": len(keys)})


def _keys(body: Mapping[str, Any]) -> Sequence[MessageKey]:
    found = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(found, list) or len(found) > _MOST or not all(_is_pair(each) for each in found):
        raise PermanentError(f'allowed: {{"messages": [[document, uuid], …]}}, {_MOST} at most')
    return [(DocId(doc), MessageId(uuid)) for doc, uuid in found]


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)

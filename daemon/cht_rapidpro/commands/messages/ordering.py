"""`messages resend`, `cancel` and `settle`: an order is decided about and written, against each revision anew.

Written by the daemon's own writer, so a conflict reads the document again and decides again; then the running daemon is
told to look.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cht_rapidpro.commands.messages.site import Site, now
from cht_rapidpro.commands.messages.tracing import find_broadcast, is_taken, trace_of
from cht_rapidpro.domain.decisions import decide
from cht_rapidpro.domain.edit import TaskEdit, holding
from cht_rapidpro.domain.orders import Cancel, Order, Phase, Refusal, SentAs, Situation, seen_in
from cht_rapidpro.domain.outgoing import pair_of
from cht_rapidpro.domain.task import Change, Doc, DocId, MessageId, Task, enter_state, messages
from cht_rapidpro.domain.trace import Trace, is_like
from cht_rapidpro.errors import GatewayError, TransientError

_PATIENCE: Final = 60.0  # seconds for CouchDB to take one order


@dataclass(slots=True)
class _Deciding:
    """The edit of the task, and what was decided at the last revision that it was given."""

    order: Order
    situation: Callable[[], Situation]
    decided: Change | Refusal = field(default_factory=lambda: Refusal("its document was deleted"))

    def __call__(self, found: list[Task]) -> list[Task]:
        if isinstance(self.decided, Change) and all(_is_written(task, self.decided) for task in found):
            return found  # the answer to the write was lost
        situation = self.situation()
        self.decided = decide(self.order, found, situation)
        if isinstance(self.decided, Refusal):
            return found
        return [enter_state(task, self.decided, situation.now) for task in found]


def _is_written(task: Task, change: Change) -> bool:
    return (task.get("state"), task.get("state_details")) == (change.state, change.details)


async def carry_out(site: Site, order: Order, doc: Doc, uuid: MessageId, *, is_dry: bool) -> Change | Refusal:
    """What was written, or with `is_dry` would be, or why nothing was. Raises GatewayError where CouchDB refuses."""
    doc_id = DocId(doc["_id"])
    tasks = holding(doc, [uuid]).get(uuid, [])
    task = tasks[0] if tasks else {}
    trace = Trace(base=site.base) if isinstance(order, Cancel) else await trace_of(site, task, uuid)
    if isinstance(order, SentAs):
        order = await _looked_up(site, order, task, uuid)
    phase = await _phase(site, doc_id, uuid)
    outgoing = site.config.outgoing

    def situation() -> Situation:
        return Situation(
            now(),
            site.me,
            phase,
            trace,
            seen_in(task),
            round(outgoing.claim_timeout * 1000),
            round(outgoing.settle_time * 1000),
        )

    deciding = _Deciding(order, situation)
    if is_dry:
        deciding(tasks)
        return deciding.decided
    try:
        async with asyncio.timeout(_PATIENCE):
            await site.writer.apply_to_task(doc_id, TaskEdit(uuid, lambda found: deciding(list(found))), max_age=0.0)
    except TimeoutError as error:
        raise TransientError(
            "CouchDB does not answer: whether it is written is not known, `messages show` says"
        ) from error
    if isinstance(deciding.decided, Change):
        await _report(site, doc_id, uuid)
    return deciding.decided


async def _looked_up(site: Site, order: SentAs, task: Task, uuid: MessageId) -> SentAs:
    """The order with what RapidPro and CouchDB say of its broadcast; what cannot be asked is in the trace already."""
    found = next((each for each in messages(task) if each.uuid == uuid), None)
    if found is None or not site.base:
        return order
    pair = pair_of(found, site.values)
    broadcast = await find_broadcast(site, order.ref)
    if broadcast is None:
        return order
    return SentAs(order.ref, broadcast, is_like(broadcast, pair), await is_taken(site, broadcast, pair, uuid))


async def _phase(site: Site, doc_id: DocId, uuid: MessageId) -> Phase | None:
    daemon = await site.daemon((doc_id, uuid))
    return None if daemon is None else daemon.phase


async def _report(site: Site, doc_id: DocId, uuid: MessageId) -> None:
    try:
        await site.tell_changed([(doc_id, uuid)])
    except GatewayError:
        return  # it is written; the daemon sees it by the feed, or by its next look

"""Reads what the losing branches of a document say about its messages.

A phone may edit a document offline from the revision before the claim. When it syncs, its branch may win, and then the
claim or the settlement is in a branch that no view shows. Invariant: a message is not sent while any branch says that
it was sent, or may have been. Such a claim or settlement is written into the winning branch; CHT resolves the conflict
itself.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from cht_rapidpro.domain.claim import claim_of, knows_claim
from cht_rapidpro.domain.edit import holding
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Doc, Task, gateway_ref, history, is_sendable, map_tasks, message_ids, tasks

_SETTLED: Final = (
    State.RECEIVED_BY_GATEWAY,
    State.FORWARDED_BY_GATEWAY,
    State.SENT,
    State.DELIVERED,
    State.FAILED,
)  # a tuple, because a state in a document may be unhashable
_TAKEN: Final = ("state", "state_details", "gateway_ref")


def adopt(leaves: Sequence[Doc]) -> Callable[[Doc], Doc]:
    """Returns an edit of the winning revision: its sendable tasks get the settlement or the claim of a losing branch.

    A claim or settlement that the winning branch already has in its history (a message to be sent again) is not copied.
    """

    def edit(doc: Doc) -> Doc:
        sendable = {uuid for task in tasks(doc) if is_sendable(task) for uuid in message_ids(task)}
        found: dict[Any, list[Task]] = {}
        for leaf in leaves:
            for uuid, held in holding(leaf, sendable).items():
                found.setdefault(uuid, []).extend(held)
        return map_tasks(
            doc, lambda task: _adopted(task, [each for uuid in message_ids(task) for each in found.get(uuid, ())])
        )

    return edit


def _adopted(task: Task, others: Sequence[Task]) -> Task:
    if not is_sendable(task):
        return task
    settled = [other for other in others if _settles(other, task)]
    if settled:
        return _joined(task, max(settled, key=lambda other: len(history(other))))
    for other in others:
        claim = claim_of(other)
        if claim is not None and not knows_claim(task, claim):
            task = _joined(task, other)
    return task


def _settles(other: Task, task: Task) -> bool:
    """Whether `other` is settled in a way that the history of `task` does not have."""
    if other.get("state") not in _SETTLED:
        return False
    past = history(other)
    if past:
        return past[-1] not in history(task)
    return bool(gateway_ref(other)) and gateway_ref(other) != gateway_ref(task)


def _joined(task: Task, other: Task) -> Task:
    """Returns the task in the state of the other one, with both histories."""
    kept = {name: value for name, value in task.items() if name not in _TAKEN}
    known = history(task)
    added = [entry for entry in history(other) if entry not in known]
    return {
        **kept,
        **{name: other[name] for name in _TAKEN if name in other},
        "state_history": [*known, *added],
    }

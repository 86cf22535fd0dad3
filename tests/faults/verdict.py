"""Compares what RapidPro and CouchDB hold at the end with what the writer wanted.

Counted in multisets of (URN, text), which for texts that are all different means message by message. A task is wanted
when the writer's model of it is pending; what it cleared, muted or left scheduled must not have been sent.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from demo.database import Doc
from demo.rapidpro import Broadcast
from tests.faults.documents import foreign, tasks_of
from tests.faults.population import SmsIdentity, pair
from tests.faults.times import CLAIM_TIMEOUT, TIMEOUT
from tests.faults.writer import Model

_WANTED: Final = "pending"  # in the model, which knows nothing of claims
_WITHDRAWN: Final = "withdrawn"
# Seconds from the last look at a document to its broadcast: what is believed without a look, a daemon that is stopped
# in between, an answer that takes effect late.
_GRACE: Final = 2.0 + 1.5 * CLAIM_TIMEOUT + 2 * TIMEOUT


@dataclass(frozen=True)
class Verdict:
    """`messages`: how many, by the state that CHT left their tasks in; `violations`: each in a line that names it."""

    messages: Counter[str]
    broadcasts: int
    violations: Mapping[str, Sequence[str]]

    @property
    def wanted(self) -> int:
        return self.messages[_WANTED]

    @property
    def is_good(self) -> bool:
        return not any(self.violations.values())


def judge(models: Mapping[str, Model], leaves: Mapping[str, Sequence[Doc]], broadcasts: Sequence[Broadcast]) -> Verdict:
    """`leaves`: of each document that is there, by its id, the last revision of each branch, the winning one first."""
    docs = {doc_id: found[0] for doc_id, found in leaves.items()}
    models = {doc_id: _judged(model, leaves.get(doc_id, ())) for doc_id, model in models.items()}
    messages = [
        (_will(model, task), pair(each))
        for model in models.values()
        for task in model.tasks
        for each in task["messages"]
    ]
    wanted = Counter(known for state, known in messages if state == _WANTED)
    perhaps = Counter(known for state, known in messages if state == _WITHDRAWN)
    sent = Counter((urn, broadcast.text) for broadcast in broadcasts for urn in broadcast.urns)
    surplus = sent - wanted - perhaps
    unwanted = Counter({each: count for each, count in surplus.items() if each not in wanted})
    return Verdict(
        Counter(state for state, _ in messages),
        len(broadcasts),
        {
            "duplicates": _each(surplus - unwanted),
            "sent though cleared, muted or scheduled": _each(unwanted),
            "sent long after it was withdrawn": list(_too_late(models, wanted, broadcasts)),
            "lost": _each(wanted - sent),
            "wrong refs": list(_wrong_refs(models, docs, broadcasts)),
            "changed documents": list(_changed(models, docs)),
        },
    )


def _judged(model: Model, leaves: Sequence[Doc]) -> Model:
    """The model, where what was cleared in one branch counts as withdrawn if another one has had a claim on it."""
    claimed = {
        task["messages"][0]["uuid"]
        for leaf in leaves
        for task in tasks_of(leaf)
        if any(entry["state"] == "forwarded-to-gateway" for entry in task["state_history"])
    }
    perhaps = {uuid: moment for uuid, moment in model.cleared_here.items() if uuid in claimed}
    return replace(model, withdrawn=perhaps | model.withdrawn)


def _will(model: Model, task: Doc) -> str:
    """The state that CHT left the task in; `withdrawn`: it was claimed before, and may have been sent by then."""
    return _WITHDRAWN if task["messages"][0]["uuid"] in model.withdrawn else str(task["state"])


def _too_late(
    models: Mapping[str, Model], wanted: Mapping[SmsIdentity, int], broadcasts: Sequence[Broadcast]
) -> Iterator[str]:
    """What was sent although its document had said for a long time that it shall not be."""
    withdrawn = {
        pair(each): model.withdrawn[task["messages"][0]["uuid"]]
        for model in models.values()
        for task in model.tasks
        if _will(model, task) == _WITHDRAWN
        for each in task["messages"]
    }
    for broadcast in broadcasts:
        for urn in broadcast.urns:
            known = (urn, broadcast.text)
            if known not in wanted and broadcast.created_on.timestamp() > withdrawn.get(known, math.inf) + _GRACE:
                yield f"{urn}: {broadcast.text!r}"


def _each(counted: Counter[SmsIdentity]) -> list[str]:
    return [f"{urn}: {text!r}" for urn, text in counted.elements()]


def _wrong_refs(models: Mapping[str, Model], docs: Mapping[str, Doc], broadcasts: Sequence[Broadcast]) -> Iterator[str]:
    """A wanted task is settled with the id of its first message's broadcast, where no other task has its number."""
    sent: dict[object, set[SmsIdentity]] = {
        str(each.id): {(urn, each.text) for urn in each.urns} for each in broadcasts
    }
    seen: set[object] = set()
    for doc_id, task, stored in _tasks(models, docs):
        ref = stored.get("gateway_ref")
        if _will(models[doc_id], task) == _WITHDRAWN:
            continue
        if task["state"] == _WANTED:
            own = pair(task["messages"][0])
            is_its_own = (ref, own) not in seen and own in sent.get(ref, ())
            right = is_its_own and stored["state"] == "received-by-gateway"
            seen.add((ref, own))
        else:
            right = ref is None
        if not right:
            yield f"{doc_id}: {stored['state']}, gateway_ref {ref!r}, {pair(task['messages'][0])}"


def _tasks(models: Mapping[str, Model], docs: Mapping[str, Doc]) -> Iterator[tuple[str, Doc, Doc]]:
    """The id of the document, the task in the model, the stored task."""
    for doc_id, model in models.items():
        stored = {task["messages"][0]["uuid"]: task for task in tasks_of(docs[doc_id])} if doc_id in docs else {}
        for task in model.tasks:
            if task["messages"][0]["uuid"] in stored:
                yield doc_id, task, stored[task["messages"][0]["uuid"]]


def _changed(models: Mapping[str, Model], docs: Mapping[str, Doc]) -> Iterator[str]:
    """What is not the gateway's; what the writer wrote into a history is still there, in its order."""
    for doc_id, model in models.items():
        if (doc_id in docs) == model.is_deleted:
            yield f"{doc_id}: not there, or brought back"
        elif model.is_deleted:
            continue
        elif foreign(docs[doc_id]) != foreign(model.doc):
            yield f"{doc_id}: {foreign(docs[doc_id])} instead of {foreign(model.doc)}"
    for doc_id, task, stored in _tasks(models, docs):
        if _will(models[doc_id], task) == _WITHDRAWN:
            continue
        entries = iter(stored["state_history"])
        if not all(entry in entries for entry in task["state_history"]):
            yield f"{doc_id}: history {stored['state_history']} instead of {task['state_history']}"
        if task["state"] != _WANTED and stored["state"] != task["state"]:
            yield f"{doc_id}: {stored['state']} instead of {task['state']}"

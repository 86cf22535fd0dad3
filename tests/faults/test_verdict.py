"""The verdict sees each kind of violation: a fault suite that cannot find any proves nothing."""

import copy
import time
from collections.abc import Callable

import pytest

from demo.database import Doc
from demo.medic import data_record, message, task
from demo.rapidpro.workspace import Workspace
from tests.faults.verdict import Verdict, judge
from tests.faults.writer import Model

URN = "tel:+254712000001"
RECORD = data_record(
    task(message("wanted @ noon ", "0712 000001")),
    task(message("cleared", "0712 000001"), state="cleared"),
    scheduled_tasks=[],
)


def verdict(change: Callable[[Doc], object], texts: list[str]) -> Verdict:
    """Of one document that was settled and then changed, and of broadcasts with these texts."""
    workspace = Workspace("token")
    for text in texts:
        workspace.create_broadcast([URN], text)
    stored = copy.deepcopy(RECORD)
    settled = {"state": "received-by-gateway", "gateway_ref": "1", "state_details": "Queued"}
    stored["tasks"][0].update(settled)
    stored["tasks"][0]["state_history"].append({"state": "received-by-gateway"})
    change(stored)
    return judge({RECORD["_id"]: Model(RECORD)}, {RECORD["_id"]: [stored]}, workspace.broadcasts)


SENT = "wanted @@ noon"
CASES: dict[str, tuple[Callable[[Doc], object], list[str], list[str]]] = {
    "all is well": (lambda _: None, [SENT], []),
    "twice": (lambda _: None, [SENT, SENT], ["duplicates"]),
    "never": (lambda doc: doc["tasks"][0].pop("gateway_ref"), [], ["lost", "wrong refs"]),
    "the cleared one, too": (lambda _: None, [SENT, "cleared"], ["sent though cleared, muted or scheduled"]),
    "a number as ref": (lambda doc: doc["tasks"][0].update(gateway_ref=1), [SENT], ["wrong refs"]),
    "another's ref": (lambda doc: doc["tasks"][0].update(gateway_ref="2"), [SENT], ["wrong refs"]),
    "not settled": (lambda doc: doc["tasks"][0].update(state="forwarded-to-gateway"), [SENT], ["wrong refs"]),
    "a field dropped": (lambda doc: doc.pop("reported_date"), [SENT], ["changed documents"]),
    "a task's field changed": (lambda doc: doc["tasks"][0].update(timestamp=1), [SENT], ["changed documents"]),
    "history lost": (lambda doc: doc["tasks"][0]["state_history"].pop(0), [SENT], ["changed documents"]),
    "the cleared one revived": (lambda doc: doc["tasks"][1].update(state="pending"), [SENT], ["changed documents"]),
}


@pytest.mark.parametrize(("change", "texts", "violated"), CASES.values(), ids=CASES)
def test_each_violation_is_found(change: Callable[[Doc], object], texts: list[str], violated: list[str]) -> None:
    found = verdict(change, texts).violations
    assert [name for name, examples in found.items() if examples] == violated


@pytest.mark.parametrize(("is_claimed", "violated"), [(False, ["sent though cleared, muted or scheduled"]), (True, [])])
def test_a_cleared_task_may_have_been_sent_where_a_losing_branch_had_a_claim(
    is_claimed: bool, violated: list[str]
) -> None:
    workspace = Workspace("token")
    workspace.create_broadcast([URN], "cleared")
    record = data_record(task(message("cleared", "0712 000001"), state="cleared"), scheduled_tasks=[])
    losing = copy.deepcopy(record)
    if is_claimed:
        losing["tasks"][0]["state_history"].append({"state": "forwarded-to-gateway"})
    model = Model(record, cleared_here={record["tasks"][0]["messages"][0]["uuid"]: time.time()})
    found = judge({record["_id"]: model}, {record["_id"]: [record, losing]}, workspace.broadcasts).violations
    assert [name for name, examples in found.items() if examples] == violated

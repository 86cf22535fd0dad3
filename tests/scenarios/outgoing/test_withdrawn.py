"""Invariant 1: the latest will of the document counts until the POST."""

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Fault, RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure, passes, reaches, running
from tests.support.fault_proxy import Gate, until


def _in(state: str) -> Callable[[Database, str], Awaitable[object]]:
    def edit(doc: Doc) -> Doc:
        doc["tasks"][0]["state"] = state
        return doc

    return lambda medic, doc_id: medic.edit(doc_id, edit)


def _without_tasks(doc: Doc) -> Doc:
    return {**doc, "tasks": []}


def _with_another_text(doc: Doc) -> Doc:
    doc["tasks"][0]["messages"][0]["message"] = "another text"
    return doc


def _with_another_number(doc: Doc) -> Doc:
    doc["tasks"][0]["messages"][0]["to"] = "+254712000000"
    return doc


WITHDRAWN: dict[str, Callable[[Database, str], Awaitable[object]]] = {
    "deleted": lambda medic, doc_id: medic.delete(doc_id),
    "without tasks": lambda medic, doc_id: medic.edit(doc_id, _without_tasks),
    "another text": lambda medic, doc_id: medic.edit(doc_id, _with_another_text),
    "another number": lambda medic, doc_id: medic.edit(doc_id, _with_another_number),
    **{state: _in(state) for state in ("cleared", "muted", "denied", "duplicate", "scheduled", "sent")},
}


@pytest.mark.parametrize("withdraw", WITHDRAWN.values(), ids=WITHDRAWN)
async def test_a_task_withdrawn_after_its_claim_is_not_sent(
    withdraw: Callable[[Database, str], Awaitable[object]], gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record, other = data_record(task(message("hello"))), data_record(task(message("other")))
    await medic.bulk([record, other])
    rapidpro.fail(Fault("POST broadcasts", Answer(429, "{}", headers={"Retry-After": "4"}), times=None))
    with capture_logs() as logs:

        async def claimed() -> bool:
            return Counter(entry["event"] for entry in logs)["task.claimed"] == 2

        async with running(configure(gate, medic, rapidpro, TOKEN, sweep_interval=1.0)):
            assert await passes(60, 1, claimed)
            await withdraw(medic, record["_id"])
            await passes(60, 10)
            rapidpro.clear_faults()
            # Long enough for a look-up: a request that takes long while the clock jumps leaves the outcome open.
            assert await passes(600, 5, lambda: _has_sent(rapidpro, "other"))
    assert "hello" not in [made.text for made in rapidpro.broadcasts if made.urns == ("tel:+254712345678",)]


async def test_one_look_serves_all_that_come_next(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    records = [data_record(task(message(f"hello {number}"))) for number in range(30)]
    await medic.bulk(records)
    rapidpro.fail(Fault("POST broadcasts", Answer(429, "{}", headers={"Retry-After": "4"}), times=None))
    with capture_logs() as logs:

        async def claimed() -> bool:
            return Counter(entry["event"] for entry in logs)["task.claimed"] == 30

        async with running(configure(gate, medic, rapidpro, TOKEN, sweep_interval=3600.0)):
            assert await passes(60, 1, claimed)
            rapidpro.clear_faults()
            reads = gate.requests.count("POST _all_docs")
            await passes(4, 1)
            for record in records:
                await reaches(medic, record["_id"], "received-by-gateway")
    assert gate.requests.count("POST _all_docs") - reads < 10


async def _has_sent(rapidpro: RapidPro, text: str) -> bool:
    return text in [made.text for made in rapidpro.broadcasts]


async def test_the_last_look_waits_for_a_couchdb_that_is_away(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)
    rapidpro.fail(Fault("POST broadcasts", Answer(429, "{}", headers={"Retry-After": "4"}), times=None))
    async with running(configure(gate, medic, rapidpro, TOKEN, sweep_interval=1.0)):
        await until(lambda: any(call.target == "POST broadcasts" for call in rapidpro.calls))
        gate.is_closed = True
        rapidpro.clear_faults()
        await passes(30, 1)
        assert not rapidpro.broadcasts, "nobody knows whether it is still wanted"
        gate.is_closed = False
        await reaches(medic, record["_id"], "received-by-gateway", hurry=0.5)
    assert len(rapidpro.broadcasts) == 1

"""Invariant 2 while a document has branches: what a losing one says of a message counts."""

import asyncio
import copy
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.domain.claim import Instance
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import Delay, Fault, RapidPro, Reset
from tests.conftest import TOKEN
from tests.support.daemon import claimed, configure, passes, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump

ONE, TWO = Instance("1" * 32, "one"), Instance("2" * 32, "two")
RECEIVED = "received-by-gateway"


async def sync(medic: Database, base: Doc, generations: int) -> None:
    """What replication does when a phone that has edited `base` offline so many times comes back: its branch wins."""
    start, own = base["_rev"].split("-")
    edits = ["f" * 32] + [f"{number:032x}" for number in range(generations - 1)]
    number = int(start) + generations
    leaf = {
        **base,
        "edited_offline": True,
        "_rev": f"{number}-{edits[0]}",
        "_revisions": {"start": number, "ids": [*edits, own]},
    }
    await medic.request("POST", "_bulk_docs", body={"docs": [leaf], "new_edits": False})


async def wins(medic: Database, doc_id: str) -> Doc:
    doc = await medic.get(doc_id)
    assert doc["edited_offline"]
    return doc


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_message_that_a_losing_branch_has_settled_is_not_sent_again(
    restarts: bool, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)
    first = await medic.get(record["_id"])
    config = configure(gate, medic, rapidpro, TOKEN, sweep_interval=0.2)
    async with AsyncExitStack() as first_daemon:
        await first_daemon.enter_async_context(running(config, ONE))
        settled = await reaches(medic, record["_id"], RECEIVED)
        if restarts:
            await first_daemon.aclose()
        await sync(medic, first, int(settled["_rev"].split("-")[0]))
        assert states(await wins(medic, record["_id"])) == ["pending"] or not restarts
        if restarts:
            await first_daemon.enter_async_context(running(config, ONE))
        doc = await reaches(medic, record["_id"], RECEIVED, hurry=0.1)
    assert len(rapidpro.broadcasts) == 1
    assert doc["edited_offline"], "what was adopted stands in the winning branch"
    assert doc["tasks"][0]["gateway_ref"] == str(rapidpro.broadcasts[0].id)


@pytest.mark.parametrize("other", [ONE, TWO])
async def test_a_message_that_is_on_its_way_under_a_losing_claim_is_not_sent_again(
    other: Instance, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """The phone's branch comes in while the POST is in flight, and another daemon starts."""
    record = data_record(task(message("hello")))
    await medic.put(record)
    first = await medic.get(record["_id"])
    rapidpro.fail(Fault("POST broadcasts", Delay(2), times=1))
    config = configure(gate, medic, rapidpro, TOKEN, sweep_interval=0.2, timeout=5.0)
    async with running(config, ONE):
        await until(lambda: any(call.target == "POST broadcasts" for call in rapidpro.calls))
        await sync(medic, first, 2)
        async with running(config, TWO if other is TWO else Instance("3" * 32, "three")):
            await reaches(medic, record["_id"], RECEIVED)
            await asyncio.sleep(1)
    assert len(rapidpro.broadcasts) == 1


async def test_a_claim_of_which_only_a_losing_branch_knows_makes_the_message_ambiguous(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)
    first = await medic.get(record["_id"])
    rapidpro.fail(Fault("POST broadcasts", Reset(), after=True))
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0)
    with capture_logs() as logs:
        async with running(config, ONE):
            await until(lambda: any(entry["event"] == "broadcast.ambiguous" for entry in logs))
    await sync(medic, first, 3)
    await wins(medic, record["_id"])
    async with running(config, ONE):
        doc = await reaches(medic, record["_id"], RECEIVED, hurry=0.5)
    assert doc["tasks"][0]["gateway_ref"] == str(rapidpro.broadcasts[0].id)
    assert len(rapidpro.broadcasts) == 1


async def test_a_message_that_is_to_be_sent_again_is_sent_in_spite_of_an_old_branch(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Conflicts stay unresolved for years. The winning branch knows the settlement, and a human wants another one."""
    record = data_record(task(message("hello")))
    await medic.put(record)
    config = configure(gate, medic, rapidpro, TOKEN, sweep_interval=0.2)

    def again(doc: Doc) -> Doc:
        entry = {"state": "pending", "timestamp": "2030-01-01T00:00:00.000Z"}
        doc["tasks"][0] |= {"state": "pending", "state_history": [*doc["tasks"][0]["state_history"], entry]}
        return doc

    async with running(config, ONE):
        settled = await reaches(medic, record["_id"], RECEIVED)
        start, own = settled["_rev"].split("-")
        number = int(start) + 1
        for digit, doc in (("0", settled), ("f", again(copy.deepcopy(settled)))):  # the losing one first
            revisions = {"start": number, "ids": [digit * 32, own]}
            leaf = {**doc, "_rev": f"{number}-{digit * 32}", "_revisions": revisions}
            await medic.request("POST", "_bulk_docs", body={"docs": [leaf], "new_edits": False})
        await until(lambda: len(rapidpro.broadcasts) == 2)
        await reaches(medic, record["_id"], RECEIVED, hurry=0.1)


async def test_a_broadcast_that_only_a_losing_branch_names_is_not_adopted_for_an_equal_message(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """The phone's branch hides whose broadcast it is from the view; the document itself cannot be claimed just now."""
    hidden, ambiguous = data_record(task(message("same"))), data_record(claimed(ONE, "same", ago=1))
    await medic.put(hidden)
    first = await medic.get(hidden["_id"])
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0)
    async with running(config, TWO):
        settled = await reaches(medic, hidden["_id"], RECEIVED)
    await sync(medic, first, int(settled["_rev"].split("-")[0]))
    await medic.put(ambiguous)
    refuse = f"function (doc) {{ if (doc._id === '{hidden['_id']}') throw({{forbidden: 'not now'}}); }}"
    await medic.put({"_id": "_design/strict", "validate_doc_update": refuse})
    async with running(config, ONE):
        second = await reaches(medic, ambiguous["_id"], RECEIVED, hurry=0.5)
        await medic.edit("_design/strict", lambda doc: {**doc, "validate_doc_update": "function () {}"})
        one = await reaches(medic, hidden["_id"], RECEIVED, hurry=60)
    assert one["tasks"][0]["gateway_ref"] != second["tasks"][0]["gateway_ref"]
    assert len(rapidpro.broadcasts) == 2


async def test_nothing_is_sent_under_a_claim_that_too_few_nodes_have(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """202 Accepted: on the other side of a partition another daemon's claim may win as well."""
    record = data_record(task(message("hello")))
    await medic.put(record)
    gate.rewrites = _without_quorum
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0, sweep_interval=1.0)
    with capture_logs() as logs:
        async with running(config, ONE):
            await until(lambda: any(entry["event"] == "claim.unconfirmed" for entry in logs))
            await passes(600, 20)
            assert not rapidpro.broadcasts
            gate.rewrites = None
            await reaches(medic, record["_id"], RECEIVED, hurry=5)
    assert len(rapidpro.broadcasts) == 1


async def test_nothing_is_sent_again_under_a_claim_that_too_few_nodes_renew(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """On the other side of a partition another daemon may have taken the claim over."""
    record = data_record(task(message("hello")))
    rapidpro.fail(Fault("POST broadcasts", Reset()))
    await medic.put(record)
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0, sweep_interval=1.0)
    with capture_logs() as logs:
        async with running(config, ONE):
            await until(lambda: any(entry["event"] == "broadcast.ambiguous" for entry in logs))
            gate.rewrites = _without_quorum
            await until(lambda: _hurry() and any(entry["event"] == "claim.unconfirmed" for entry in logs))
            await passes(600, 20)
            assert sum(call.target == "POST broadcasts" for call in rapidpro.calls) == 1
            gate.rewrites = None
            await reaches(medic, record["_id"], RECEIVED, hurry=5)
    assert len(rapidpro.broadcasts) == 1


async def test_a_settlement_that_too_few_nodes_have_stands(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """It is a fact, and replicates when the partition ends."""
    record = data_record(task(message("hello")))

    async def settles(name: str, body: bytes) -> None:
        if name == "POST _bulk_docs" and RECEIVED.encode() in body:
            gate.rewrites = _without_quorum

    gate.replies = settles
    await medic.put(record)
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN), ONE):
            await until(lambda: any(entry["event"] in ("task.settled", "settle.rejected") for entry in logs))
    assert not any(entry["event"] == "settle.rejected" for entry in logs)


def _without_quorum(name: str, response: Any) -> Any:
    if name == "POST _bulk_docs":
        response.set_status(202)
    return response


def _hurry() -> bool:
    jump(0.1)
    return True

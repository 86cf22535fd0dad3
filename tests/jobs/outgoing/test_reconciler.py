"""Invariant 2: one message, one broadcast, whatever RapidPro's answer hides and whoever has died in between."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.domain.claim import Claim, ClaimTasks, Instance, claim_of
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Broadcast, Delay, Fault, HalfBody, Hang, RapidPro, Reset
from demo.rapidpro.faults import Trouble
from tests.conftest import TOKEN
from tests.support.daemon import claimed, configure, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

ME = Instance("0123456789abcdef" * 2, "test")
OTHER = Instance("f" * 32, "other")
TROUBLE: dict[str, Trouble] = {
    "500": Answer(500, "<html>Server Error</html>"),
    "502 of a proxy": Answer(502, "<html>Bad Gateway</html>"),
    "reset": Reset(),
    "silence": Hang(300),
    "half a body": HalfBody(),
    "201 that is no JSON": Answer(201, "<html>ok</html>"),
    "too late": Delay(30),
}


def logged(logs: Any, event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


async def claim_in(medic: Database, doc_id: str) -> Claim:
    found = claim_of((await medic.get(doc_id))["tasks"][0])
    assert found is not None
    return found


async def take_over(medic: Database, doc_id: str, by: Instance, seen: Claim) -> None:
    """Another daemon takes the task over if its claim is still the one that it has seen."""
    uuid = (await medic.get(doc_id))["tasks"][0]["messages"][0]["uuid"]
    await medic.edit(doc_id, ClaimTasks(by, {uuid}, wall_clock(), stale=[seen]))


def broadcast(rapidpro: RapidPro, text: str, to: str = "+254712345678") -> Broadcast:
    """A broadcast that RapidPro holds already."""
    return rapidpro.create_broadcast([f"tel:{to}"], text)


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
async def test_a_broadcast_that_was_made_after_all_is_adopted(
    trouble: Trouble, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("  Ask @fields.name\t", "0712345678")))
    rapidpro.fail(Fault("POST broadcasts", trouble, after=True))
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0)):
            await medic.put(record)
            await until(lambda: bool(logged(logs, "broadcast.ambiguous")))
            doc = await reaches(medic, record["_id"], "received-by-gateway", hurry=0.1)
    (made,) = rapidpro.broadcasts
    assert doc["tasks"][0]["gateway_ref"] == str(made.id)
    assert len(logged(logs, "broadcast.adopted")) == 1
    assert not logged(logs, "broadcast.resent")


async def test_a_broadcast_of_an_earlier_process_is_adopted_and_its_unsent_message_is_sent(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    sent, unsent = data_record(claimed(ME, "sent")), data_record(claimed(ME, "unsent"))
    made = broadcast(rapidpro, "sent")
    await medic.bulk([sent, unsent])
    async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0), ME):
        doc = await reaches(medic, sent["_id"], "received-by-gateway", hurry=0.1)
        await reaches(medic, unsent["_id"], "received-by-gateway", hurry=0.5)
    assert doc["tasks"][0]["gateway_ref"] == str(made.id)
    assert [one.text for one in rapidpro.broadcasts] == ["sent", "unsent"]


async def test_a_broadcast_that_is_another_tasks_is_not_adopted(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """The same reminder to the same number, settled for one task, ambiguous for the other."""
    made = broadcast(rapidpro, "again")
    settled = data_record(task(message("again"), state="received-by-gateway", gateway_ref=made.id))
    lost = data_record(claimed(ME, "again"))
    await medic.bulk([settled, lost])
    async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0), ME):
        doc = await reaches(medic, lost["_id"], "received-by-gateway", hurry=0.5)
    assert len(rapidpro.broadcasts) == 2
    assert doc["tasks"][0]["gateway_ref"] == str(rapidpro.broadcasts[1].id)


async def test_a_message_that_another_daemon_settles_meanwhile_takes_no_place_of_an_equal_one(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Both were sent; while we read who holds the broadcasts, the first one's task is settled by somebody else."""
    first, second = data_record(claimed(ME, "same", ago=5)), data_record(claimed(ME, "same", ago=4))
    theirs, ours = broadcast(rapidpro, "same"), broadcast(rapidpro, "same")

    def received(doc: Doc) -> Doc:
        doc["tasks"][0] |= {"state": "received-by-gateway", "gateway_ref": str(theirs.id)}
        return doc

    async def settle() -> None:
        await medic.edit(first["_id"], received)

    await medic.bulk([first, second])
    gate.before("POST messages_by_gateway_ref", settle)
    async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0), ME):
        doc = await reaches(medic, second["_id"], "received-by-gateway", hurry=0.5)
    assert doc["tasks"][0]["gateway_ref"] == str(ours.id)
    assert rapidpro.broadcasts == [theirs, ours]


async def test_every_message_of_a_task_is_looked_up(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record = data_record(task(message("one"), message("two"), message("three")))
    rapidpro.fail(Fault("POST broadcasts", Reset(), after=True, contains="one"))
    rapidpro.fail(Fault("POST broadcasts", Reset(), contains="two"))
    async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0)):
        await medic.put(record)
        doc = await reaches(medic, record["_id"], "received-by-gateway", hurry=0.2)
    refs = {made.text: str(made.id) for made in rapidpro.broadcasts}
    assert sorted(made.text for made in rapidpro.broadcasts) == ["one", "three", "two"]
    assert doc["tasks"][0]["gateway_ref"] == refs["one"]


async def test_nothing_is_decided_while_another_daemon_is_at_the_same_message(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    made = broadcast(rapidpro, "same")
    mine, theirs = data_record(claimed(ME, "same")), data_record(claimed(OTHER, "same"))
    await medic.bulk([mine, theirs])
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0, claim_timeout=60.0)
    async with running(config, ME):
        await until(lambda: _hurry(0.2) and sum(call.target == "GET broadcasts" for call in rapidpro.calls) >= 2)
        assert states(await medic.get(mine["_id"])) == ["forwarded-to-gateway"]
        await reaches(medic, mine["_id"], "received-by-gateway", hurry=2)
        await reaches(medic, theirs["_id"], "received-by-gateway", hurry=2)
    docs = [await medic.get(record["_id"]) for record in (mine, theirs)]
    assert len(rapidpro.broadcasts) == 2, "one was there, one was missing"
    assert {doc["tasks"][0]["gateway_ref"] for doc in docs} == {str(made.id), str(rapidpro.broadcasts[1].id)}


async def test_a_claim_outlasts_a_long_look(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """Or another daemon takes it over and begins the same look, which the first one takes over in turn."""
    record = data_record(claimed(ME, "unsent"))
    broadcast(rapidpro, "other")
    await medic.put(record)
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=20.0, claim_timeout=60.0)

    too_early = asyncio.Event()
    seen: list[Claim] = []

    async def short() -> None:
        """The first look cannot tell yet that nothing was sent."""
        seen.append(await claim_in(medic, record["_id"]))
        too_early.set()

    async def long() -> None:
        jump(40)
        await take_over(medic, record["_id"], OTHER, seen[0])

    gate.before("POST messages_by_gateway_ref", short)
    gate.before("POST messages_by_gateway_ref", long)
    with capture_logs() as logs:
        async with running(config, ME):
            await until(lambda: bool(logged(logs, "task.claimed")))
            jump(3)
            await too_early.wait()
            jump(20)
            await reaches(medic, record["_id"], "received-by-gateway")
    assert not logged(logs, "claim.lost")
    assert [made.text for made in rapidpro.broadcasts] == ["other", "unsent"]


async def test_a_broken_listing_decides_nothing(gate: Gate, medic: Database) -> None:
    async with RapidPro(TOKEN, clock=lambda: wall_clock() / 1000, page_size=2) as rapidpro:
        await _broken_listing(gate, medic, rapidpro)


async def _broken_listing(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    for number in range(3):
        broadcast(rapidpro, f"other {number}")
    record = data_record(claimed(ME, "sent"))
    made = broadcast(rapidpro, "sent")
    rapidpro.create_broadcast(["tel:+254712345671"], "")  # a picture, say: a broadcast need not have a text
    for number in range(3):
        broadcast(rapidpro, f"newer {number}")
    await medic.put(record)
    rapidpro.fail(Fault("GET broadcasts", Answer(500, "<html></html>"), times=2))
    rapidpro.fail(Fault("GET broadcasts", HalfBody(), times=1))
    rapidpro.fail(
        Fault("GET broadcasts", Answer(404, '{"detail":"Invalid cursor"}', "application/json"), contains="cursor")
    )
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN, settle_time=10.0), ME):
            doc = await reaches(medic, record["_id"], "received-by-gateway", hurry=0.5)  # far below the timeout
    assert doc["tasks"][0]["gateway_ref"] == str(made.id)
    assert len(rapidpro.broadcasts) == 8
    assert sum(call.faulty for call in rapidpro.calls) == 4
    assert len(logged(logs, "listing.failed")) == 1, "said once, not at every try"


async def test_while_rapidpro_cannot_be_asked_no_claim_is_renewed(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(claimed(ME, "sent"))
    made = broadcast(rapidpro, "sent")
    await medic.put(record)
    rapidpro.fail(Fault("GET broadcasts", Answer(500, "<html></html>"), times=10))
    async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0), ME):
        await until(lambda: _hurry(0.1) and any(call.faulty for call in rapidpro.calls))
        await until(lambda: _hurry(20) and sum(call.faulty for call in rapidpro.calls) == 10)
        (held,) = (await medic.get(record["_id"]))["tasks"]
        doc = await reaches(medic, record["_id"], "received-by-gateway", hurry=10)
    assert len(held["state_history"]) == 2, "of the earlier process and of this one"
    assert doc["tasks"][0]["gateway_ref"] == str(made.id)


async def test_an_anonymous_workspace_is_matched_by_text_where_that_is_enough(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    rapidpro.anonymous = True
    clear, unclear = data_record(claimed(ME, "once")), data_record(claimed(ME, "often"))
    made = broadcast(rapidpro, "once")
    broadcast(rapidpro, "often", "+254712345671")
    broadcast(rapidpro, "often", "+254712345672")
    await medic.bulk([clear, unclear])
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0), ME):
            doc = await reaches(medic, clear["_id"], "received-by-gateway", hurry=0.1)
            await until(lambda: _hurry(0.5) and bool(logged(logs, "broadcast.undecidable")))
            jump(1300)
            other = data_record(task(message("other")))
            await medic.put(other)
            await reaches(medic, other["_id"], "received-by-gateway")
            (held,) = (await medic.get(unclear["_id"]))["tasks"]
            assert held["state"] == "forwarded-to-gateway"
            assert len(held["state_history"]) == 2, "the claim is not renewed while only a human can help"
            await medic.edit(unclear["_id"], lambda doc: {**doc, "tasks": [{**doc["tasks"][0], "state": "sent"}]})
            await until(lambda: _hurry(5) and bool(logged(logs, "claim.lost")))
    assert doc["tasks"][0]["gateway_ref"] == str(made.id)
    (told,) = logged(logs, "broadcast.undecidable")
    assert (told["doc"], told["log_level"]) == (unclear["_id"], "error")
    assert [one.text for one in rapidpro.broadcasts] == ["once", "often", "often", "other"]


async def test_a_task_is_not_given_back_while_one_of_its_messages_is_on_its_way(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """One message waits for its claim to be renewed, the other for its turn, and a stop comes."""
    record = data_record(task(message("one"), message("two")))
    rapidpro.fail(Fault("POST broadcasts", Answer(429, "{}", headers={"Retry-After": "3"}), times=2))
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0, claim_timeout=2.0)
    renewing, stopped = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        renewing.set()
        await stopped.wait()

    async with running(config, ME) as stop:
        await medic.put(record)
        await until(lambda: len(rapidpro.calls) == 2)
        gate.before("POST _bulk_docs", hold)
        await until(lambda: _hurry(0.1) and renewing.is_set())
        stop.set()
        await asyncio.sleep(0)
        stopped.set()
    assert states(await medic.get(record["_id"])) == ["forwarded-to-gateway"]
    async with running(config, ME):
        await reaches(medic, record["_id"], "received-by-gateway", hurry=0.5)
    assert sorted(made.text for made in rapidpro.broadcasts) == ["one", "two"]


async def test_a_broadcast_from_before_a_lost_claim_is_found_after_the_next_claim(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("one"), message("two", "+254712345679")))
    throttled = Answer(429, "{}", headers={"Retry-After": "70"})
    rapidpro.fail(Fault("POST broadcasts", throttled, contains="two"))
    config = configure(
        gate, medic, rapidpro, TOKEN, timeout=1.0, settle_time=10.0, claim_timeout=60.0, sweep_interval=5.0
    )
    with capture_logs() as logs:
        async with running(config, ME):
            await medic.put(record)
            await until(lambda: bool(logged(logs, "rapidpro.throttled")) and len(rapidpro.broadcasts) == 1)
            jump(62)
            await take_over(medic, record["_id"], OTHER, await claim_in(medic, record["_id"]))
            await until(lambda: _hurry(0.5) and bool(logged(logs, "claim.lost")))
            await reaches(medic, record["_id"], "received-by-gateway", hurry=0.5)
    assert sorted(made.text for made in rapidpro.broadcasts) == ["one", "two"]


async def test_a_message_that_becomes_sendable_does_not_send_its_task_again(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Somebody fills in a number while the task's other messages are on their way."""
    record = data_record(task(message("one"), message("two", ""), message("three", "+254712345670")))
    rapidpro.fail(Fault("POST broadcasts", Hang(), contains="three"))
    config = configure(gate, medic, rapidpro, TOKEN, timeout=5.0, settle_time=10.0, sweep_interval=1.0)

    def fill_in(doc: Doc) -> Doc:
        doc["tasks"][0]["messages"][1]["to"] = "+254712345679"
        return doc

    async with running(config, ME):
        await medic.put(record)
        await until(lambda: len(rapidpro.calls) == 2)
        await medic.edit(record["_id"], fill_in)
        sweeps = gate.requests.count("GET messages_by_state")
        await until(lambda: _hurry(0.05) and gate.requests.count("GET messages_by_state") >= sweeps + 2)
        await reaches(medic, record["_id"], "received-by-gateway", hurry=0.2)
    assert sorted(made.text for made in rapidpro.broadcasts) == ["one", "three"]


def _hurry(seconds: float) -> bool:
    jump(seconds)
    return True


async def test_a_task_of_several_that_is_settled_during_the_look_keeps_all_its_broadcasts(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Its gateway_ref names the first message's broadcast, which is younger than the listing that has the second's."""
    several = claimed(Instance("2" * 32, "other"), "first", ago=5)
    several["messages"].append(message("same"))
    theirs, ours = data_record(several), data_record(claimed(ME, "same", ago=5))
    await medic.bulk([theirs, ours])
    rapidpro.create_broadcast(["tel:+254712345678"], "same")
    jump(60)

    def settled(doc: Doc) -> Doc:
        made = rapidpro.create_broadcast(["tel:+254712345678"], "first")
        doc["tasks"][0] |= {"state": "received-by-gateway", "gateway_ref": str(made.id)}
        return doc

    async def settles(name: str, body: bytes) -> None:
        has_listed = any(call.target == "GET broadcasts" for call in rapidpro.calls)
        if name == "GET messages_by_state" and has_listed and len(rapidpro.broadcasts) == 1:
            await medic.edit(theirs["_id"], settled)

    gate.replies = settles
    async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0), ME):
        doc = await reaches(medic, ours["_id"], "received-by-gateway", hurry=0.5)
    assert [made.text for made in rapidpro.broadcasts] == ["same", "first", "same"]
    assert doc["tasks"][0]["gateway_ref"] == str(rapidpro.broadcasts[2].id)

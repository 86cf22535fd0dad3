"""Two daemons on one database: each message goes out once, whoever gets it and whatever keeps them waiting."""

from collections import Counter

import pytest

from cht_rapidpro.domain.claim import Instance
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Delay, Fault, HalfBody, RapidPro, Reset
from demo.rapidpro.faults import Trouble
from tests.conftest import TOKEN
from tests.support.daemon import claimed, configure, reaches, running
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump

ONE, TWO = Instance("1" * 32, "one"), Instance("2" * 32, "two")


async def _all_received(medic: Database, records: list[Doc], hurry: float) -> list[str]:
    """The gateway_refs, when every record has one."""
    docs = [await reaches(medic, record["_id"], "received-by-gateway", hurry=hurry) for record in records]
    return [doc["tasks"][0]["gateway_ref"] for doc in docs]


async def test_a_backlog_is_shared_and_nothing_goes_out_twice(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    records = [data_record(task(message(f"reminder {number % 5}"))) for number in range(60)]
    await medic.bulk(records)
    rapidpro.fail(Fault("POST broadcasts", Delay(20), times=4))
    config = configure(gate, medic, rapidpro, TOKEN, max_concurrency=4, timeout=30.0)

    async def is_shared() -> bool:
        docs = [await medic.get(record["_id"]) for record in records]
        claims = [entry for doc in docs for entry in doc["tasks"][0].get("state_history", [])[1:2]]
        return {entry["state_details"] for entry in claims} == {ONE.details, TWO.details}

    async with running(config, ONE), running(config, TWO):
        await until(is_shared)
        jump(20)
        refs = await _all_received(medic, records, hurry=0)
    assert sorted(refs) == sorted(str(made.id) for made in rapidpro.broadcasts)
    assert Counter(made.text for made in rapidpro.broadcasts) == {f"reminder {number}": 12 for number in range(5)}


async def test_a_429_longer_than_the_claim_timeout_makes_no_second_broadcast(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Measured on a trial without the release of unused claims: every message went out twice."""
    records = [data_record(task(message(f"hello {number}"))) for number in range(8)]
    rapidpro.fail(Fault("POST broadcasts", Answer(429, "{}", headers={"Retry-After": "120"}), times=6))
    await medic.bulk(records)
    config = configure(gate, medic, rapidpro, TOKEN, timeout=5.0, claim_timeout=60.0)
    async with running(config, ONE), running(config, TWO):
        refs = await _all_received(medic, records, hurry=1.0)
    assert sum(call.faulty for call in rapidpro.calls) == 6
    assert sorted(refs) == sorted(str(made.id) for made in rapidpro.broadcasts)
    assert len(rapidpro.broadcasts) == 8


@pytest.mark.parametrize("trouble", [Answer(500, "<html></html>"), Reset(), HalfBody()], ids=["500", "reset", "half"])
async def test_equal_messages_in_doubt_on_both_sides(
    trouble: Trouble, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """The same text to the same number in both daemons' hands, some of it sent and some not, and nobody knows."""
    records = [data_record(task(message("again"))) for _ in range(8)]
    for after in (True, False, True, False):
        rapidpro.fail(Fault("POST broadcasts", trouble, after=after))
    await medic.bulk(records)
    config = configure(
        gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0, claim_timeout=30.0, max_concurrency=2
    )
    async with running(config, ONE), running(config, TWO):
        refs = await _all_received(medic, records, hurry=0.2)
    assert sorted(refs) == sorted(str(made.id) for made in rapidpro.broadcasts)
    assert len(rapidpro.broadcasts) == 8


async def test_equal_messages_that_both_have_sent_and_died_of(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """Each blocks the other's until one of them has all; if both kept their claims alive that would never be."""
    records = [data_record(claimed(owner, "again")) for owner in (ONE, TWO) * 2]
    for _ in range(2):
        rapidpro.create_broadcast(["tel:+254712345678"], "again")
    await medic.bulk(records)
    config = configure(
        gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0, claim_timeout=30.0, sweep_interval=2.0
    )

    async def each_has_its_own() -> bool:
        refs = await _all_received(medic, records, hurry=0.2)
        return sorted(refs) == sorted(str(made.id) for made in rapidpro.broadcasts)

    async with running(config, ONE), running(config, TWO):
        await until(each_has_its_own)
    assert len(rapidpro.broadcasts) == 4

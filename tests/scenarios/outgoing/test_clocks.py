"""Invariant 2 under any clock: a stamp in a document is shown to people and decides nothing alone."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.domain.claim import Instance
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Fault, RapidPro, Reset
from tests.conftest import TOKEN
from tests.support.daemon import claimed, configure, passes, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

ONE, TWO = Instance("1" * 32, "one"), Instance("2" * 32, "two")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
RECEIVED = "received-by-gateway"


def ahead(seconds: float) -> Callable[[], int]:
    """A wall clock that is so many seconds ahead of the right one."""
    return lambda: wall_clock() + round(seconds * 1000)


@pytest.mark.parametrize("seconds", [12 * MINUTE, -2 * HOUR, 365 * DAY])
async def test_two_daemons_with_clocks_apart_send_each_message_once(
    seconds: float, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """The first one holds claims without sending for minutes; nothing but the stamps says that they are old."""
    records = [data_record(task(message(f"hello {number}"))) for number in range(8)]
    await medic.bulk(records)
    rapidpro.fail(Fault("POST broadcasts", Answer(429, "{}", headers={"Retry-After": "4"}), times=None))
    config = configure(gate, medic, rapidpro, TOKEN, max_concurrency=2, sweep_interval=1.0)

    async def all_received() -> bool:
        return all([states(await medic.get(record["_id"])) == [RECEIVED] for record in records])

    with capture_logs() as logs:
        async with running(config, ONE, clock=ahead(min(seconds, 0))):
            await until(lambda: Counter(entry["event"] for entry in logs)["task.claimed"] == 8)
            async with running(config, TWO, clock=ahead(max(seconds, 0))):
                await passes(2.5 * MINUTE, 2)
                rapidpro.clear_faults()
                assert await passes(30 * MINUTE, 2, all_received)
    assert Counter(made.text for made in rapidpro.broadcasts) == {f"hello {number}": 1 for number in range(8)}


@pytest.mark.parametrize("step", [-3 * HOUR, 3 * HOUR, -30 * DAY])
async def test_a_clock_that_is_set_before_the_look_up_hides_no_broadcast(
    step: float, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    offset = [max(-step, 0.0)]
    record = data_record(task(message("hello")))
    rapidpro.fail(Fault("POST broadcasts", Reset(), after=True))
    await medic.put(record)
    with capture_logs() as logs:
        config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0)
        async with running(config, ONE, clock=lambda: ahead(offset[0])()):
            await until(lambda: any(entry["event"] == "broadcast.ambiguous" for entry in logs))
            offset[0] += step
            await reaches(medic, record["_id"], RECEIVED, hurry=0.5)
    assert len(rapidpro.broadcasts) == 1


@pytest.mark.parametrize(
    ("wrong_by", "later", "still_wrong_by"),
    [
        (20 * MINUTE, 0.0, 0.0),
        (3 * HOUR, HOUR, 0.0),
        (3 * HOUR, 4 * HOUR, 0.0),
        (-3 * HOUR, HOUR, 0.0),
        (90 * DAY, DAY, 0.0),
        (3 * HOUR, HOUR, 3 * HOUR),
        (90 * DAY, DAY, 90 * DAY),
        (90 * DAY, DAY, 3 * HOUR),
    ],
)
async def test_a_broadcast_sent_under_a_wrong_clock_is_found_by_the_next_process(
    wrong_by: float, later: float, still_wrong_by: float, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(claimed(ONE, "sent", ago=-wrong_by))
    rapidpro.create_broadcast(["tel:+254712345678"], "sent")
    await medic.put(record)
    jump(later)
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0)
    async with running(config, ONE, clock=ahead(still_wrong_by)):
        await reaches(medic, record["_id"], RECEIVED, hurry=0.5)
    assert len(rapidpro.broadcasts) == 1


@pytest.mark.parametrize(("is_known", "is_set"), [(True, False), (True, True), (False, True)])
async def test_a_broadcast_from_before_a_suspend_is_found(
    is_known: bool, is_set: bool, gate: Gate, medic: Database
) -> None:
    """The loop's time stands still in a suspended machine. RapidPro's clock tells, where it was known; else ours."""
    asleep = [0.0]
    earlier, record = data_record(task(message("earlier"))), data_record(task(message("hello")))
    async with RapidPro(TOKEN, clock=lambda: wall_clock() / 1000 + asleep[0]) as rapidpro:
        config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0)
        with capture_logs() as logs:
            async with running(config, ONE, clock=lambda: ahead(asleep[0] if is_set else 0.0)()):
                if is_known:
                    await medic.put(earlier)
                    await reaches(medic, earlier["_id"], RECEIVED)
                rapidpro.fail(Fault("POST broadcasts", Reset(), after=True))
                await medic.put(record)
                await until(lambda: any(entry["event"] == "broadcast.ambiguous" for entry in logs))
                asleep[0] = 8 * HOUR
                await reaches(medic, record["_id"], RECEIVED, hurry=0.5)
        assert [made.text for made in rapidpro.broadcasts][-1:] == ["hello"]
        assert len(rapidpro.broadcasts) == 1 + is_known


@pytest.mark.parametrize("wrong_by", [365 * DAY, -365 * DAY])
async def test_a_claim_of_any_date_is_taken_over_after_it_was_seen_for_long_enough_and_not_before(
    wrong_by: float, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    theirs, ours = data_record(claimed(TWO, "same", ago=-wrong_by)), data_record(claimed(ONE, "same", ago=5))
    await medic.bulk([theirs, ours])

    async def settled() -> bool:
        return [states(await medic.get(doc["_id"])) for doc in (theirs, ours)] == [[RECEIVED], [RECEIVED]]

    async with running(configure(gate, medic, rapidpro, TOKEN, sweep_interval=5.0), ONE):
        await passes(9 * MINUTE, 20)
        assert not rapidpro.broadcasts, "what the other daemon holds may have been sent, and may be settled yet"
        assert await passes(2 * HOUR, 20, settled)
    assert len(rapidpro.broadcasts) == 2


async def test_a_daemon_that_restarts_all_the_time_settles_in_the_end(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """No POST begins under an old claim, so the claim bounds the last attempt, whichever process made it."""
    record = data_record(task(message("hello")))
    rapidpro.fail(Fault("POST broadcasts", Reset()))
    await medic.put(record)
    config = configure(gate, medic, rapidpro, TOKEN)
    with capture_logs() as logs:
        for life in range(12):
            async with running(config, ONE):
                await until(lambda: any(entry["event"] in ("task.claimed", "broadcast.created") for entry in logs))
                await passes(80, 8)
            if states(await medic.get(record["_id"])) == [RECEIVED]:
                break
            assert not (life < 4 and rapidpro.broadcasts), "settle_time and half of claim_timeout are not over yet"
            logs.clear()
    assert len(rapidpro.broadcasts) == 1
    assert states(await medic.get(record["_id"])) == [RECEIVED]


async def test_a_stamp_that_jumped_back_shortens_no_wait(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """The claim was written by a clock that was hours behind: it looks old, and its request may still take effect."""
    made: Doc = task(message("hello"), state="forwarded-to-gateway", state_details=ONE.details)
    made["state_history"].append(claimed(ONE, "hello", ago=5 * HOUR)["state_history"][-1])
    record = data_record(made)
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN), ONE):
        await passes(MINUTE, 10)
        await asyncio.sleep(0.3)
        assert not rapidpro.broadcasts

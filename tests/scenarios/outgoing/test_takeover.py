"""Another gateway has sent so far: what it may have sent is looked up, what is new goes at once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from cht_rapidpro.adapters.host.pause_file import PauseFile
from cht_rapidpro.adapters.web import control
from cht_rapidpro.config.schema import Cht, Config
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.pause import Pause
from cht_rapidpro.domain.task import timestamp
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Fault, RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure, passes, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

NUMBER = "tel:+254712345678"
RECEIVED = "received-by-gateway"


@pytest.fixture
def config(gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path) -> Config:
    made = configure(gate, medic, rapidpro, TOKEN, timeout=3, settle_time=60.0, claim_timeout=60.0, sweep_interval=5.0)
    return replace(made, cht=Cht(state_dir=str(tmp_path)))


def events(logs: Sequence[Any], *names: str) -> list[str]:
    return [entry["event"] for entry in logs if entry["event"] in names]


async def happens(logs: Sequence[Any], event: str, hurry: float = 0.0) -> None:
    def is_there() -> bool:
        jump(hurry)
        return event in events(logs, event)

    await until(is_there)


def records(count: int, start: int = 0) -> list[Doc]:
    return [data_record(task(message(f"hello @ {number}"))) for number in range(start, start + count)]


def posts(rapidpro: RapidPro) -> int:
    return sum(call.target == "POST broadcasts" for call in rapidpro.calls)


async def choose(medic: Database, service: str) -> None:
    await medic.edit(
        "settings", lambda doc: {**doc, "settings": {**doc["settings"], "sms": {"outgoing_service": service}}}
    )


async def test_a_suspect_is_adopted_or_sent_and_a_new_message_goes_at_once(
    config: Config, medic: Database, rapidpro: RapidPro
) -> None:
    sent, unsent, new = records(2), records(2, 10), records(1, 20)
    await medic.bulk([*sent, *unsent])
    for record in sent:  # CHT's own gateway posts the text as it is
        rapidpro.create_broadcast([NUMBER], record["tasks"][0]["messages"][0]["message"])
    with capture_logs() as logs:
        async with running(config, is_first=True):
            await happens(logs, "takeover.started", hurry=0.2)
            await medic.bulk(new)
            await reaches(medic, new[0]["_id"], RECEIVED)
            assert len(rapidpro.broadcasts) == 3
            await passes(50, 5)
            assert [states(await medic.get(one["_id"])) for one in [*sent, *unsent]] == [["pending"]] * 4
            for one in [*sent, *unsent]:
                await reaches(medic, one["_id"], RECEIVED, hurry=1)
            await happens(logs, "takeover.finished", hurry=1)
    assert len(rapidpro.broadcasts) == 5
    refs = [(await medic.get(one["_id"]))["tasks"][0]["gateway_ref"] for one in sent]
    assert sorted(refs) == ["1", "2"]
    assert len(events(logs, "broadcast.adopted")) == 2
    assert sum(call.target == "GET broadcasts" for call in rapidpro.calls) <= 3


async def test_a_restart_is_no_takeover(config: Config, medic: Database, rapidpro: RapidPro) -> None:
    with capture_logs() as logs:
        async with running(config, is_first=True):
            await happens(logs, "takeover.finished", hurry=0.2)
        [record] = records(1)
        await medic.put(record)
        await choose(medic, "cht-rapidpro")  # one edit, from us to us
        async with running(config):
            await reaches(medic, record["_id"], RECEIVED)
    assert not events(logs, "takeover.started")


async def test_two_edits_that_were_not_seen_are_a_takeover(config: Config, medic: Database, rapidpro: RapidPro) -> None:
    """Another gateway was chosen and left again while the daemon was down."""
    with capture_logs() as logs:
        async with running(config, is_first=True):
            await happens(logs, "takeover.finished", hurry=0.2)
        [record] = records(1)
        await medic.put(record)
        await choose(medic, "rapidpro")
        rapidpro.create_broadcast([NUMBER], "hello @ 0")
        await choose(medic, "cht-rapidpro")
        async with running(config):
            await reaches(medic, record["_id"], RECEIVED, hurry=1)
    assert events(logs, "takeover.started", "broadcast.adopted") == ["takeover.started", "broadcast.adopted"]
    assert len(rapidpro.broadcasts) == 1


async def test_a_sign_of_the_other_gateway_prolongs_the_wait(
    config: Config, medic: Database, rapidpro: RapidPro
) -> None:
    """Its batch is long: a number as gateway_ref, and a broadcast without a task, are signs."""
    docs = records(3)
    await medic.bulk(docs)
    with capture_logs() as logs:
        async with running(config, is_first=True):
            await happens(logs, "takeover.started", hurry=0.2)
            await passes(40, 5)
            history = [{"state": "pending"}, {"state": RECEIVED, "state_details": "Queued"}]
            changes = {"state": RECEIVED, "gateway_ref": 17, "state_history": history}
            await medic.edit(docs[0]["_id"], lambda doc: {**doc, "tasks": [{**doc["tasks"][0], **changes}]})
            await passes(40, 5)
            assert not events(logs, "takeover.listed")
            rapidpro.create_broadcast([NUMBER], "hello @ 1")
            await passes(40, 5)
            assert posts(rapidpro) == 0
            for doc in docs:
                await reaches(medic, doc["_id"], RECEIVED, hurry=1)
    assert (posts(rapidpro), len(rapidpro.broadcasts)) == (1, 2)


async def test_a_takeover_that_was_broken_off_is_begun_again(
    config: Config, medic: Database, rapidpro: RapidPro
) -> None:
    docs = records(3)
    await medic.bulk(docs)
    for number in range(2):
        rapidpro.create_broadcast([NUMBER], f"hello @ {number}")
    rapidpro.fail(Fault("GET broadcasts", Answer(500, "{}"), times=None))
    with capture_logs() as logs:
        async with running(config, is_first=True):
            await happens(logs, "listing.failed", hurry=1)
        rapidpro.clear_faults()
        async with running(config):
            for doc in docs:
                await reaches(medic, doc["_id"], RECEIVED, hurry=1)
            await happens(logs, "takeover.finished", hurry=1)
    assert len(events(logs, "takeover.started")) == 2
    assert (posts(rapidpro), len(rapidpro.broadcasts)) == (1, 3)


async def test_a_drain_in_a_takeover_settles_what_the_other_gateway_has_sent(
    config: Config, medic: Database, rapidpro: RapidPro
) -> None:
    """It would send that again when it is chosen again; the rest is left to it."""
    docs, folder = records(2), Path(config.cht.state_dir)
    await medic.bulk(docs)
    rapidpro.create_broadcast([NUMBER], "hello @ 0")
    await asyncio.to_thread(PauseFile(folder).write, Pause(wall_clock(), None, drains=True))

    async def is_drained() -> bool:
        found = await control.ask(folder, "GET", "/leftovers")
        assert found is not None
        return bool(found["is_known"] and not found["is_taking_over"] and not found["claimed"])

    with capture_logs() as logs:
        async with running(config, is_first=True):
            await happens(logs, "takeover.started", hurry=0.2)
            assert not await is_drained()
            await reaches(medic, docs[0]["_id"], RECEIVED, hurry=1)
            await until(is_drained)
    assert states(await medic.get(docs[1]["_id"])) == ["pending"]
    assert (posts(rapidpro), len(rapidpro.broadcasts)) == (0, 1)
    assert not events(logs, "stop.left_over")


async def test_another_gateway_that_goes_on_is_an_error_until_it_is_quiet(
    config: Config, medic: Database, rapidpro: RapidPro
) -> None:
    [old, new] = records(2)
    old["tasks"][0] |= {"state": RECEIVED, "gateway_ref": 16}
    await medic.put(old)
    with capture_logs() as logs:
        async with running(config, is_first=True):
            await happens(logs, "takeover.finished", hurry=0.2)
            await medic.edit(old["_id"], lambda doc: {**doc, "fields": {"a": 1}})  # changes for another reason
            await passes(120, 20)
            await medic.put(new)
            await reaches(medic, new["_id"], RECEIVED)
            entry = {"state": RECEIVED, "state_details": "Queued", "timestamp": timestamp(wall_clock())}

            def overwrite(doc: Doc) -> Doc:
                [found] = doc["tasks"]
                history = [*found["state_history"], entry]
                return {**doc, "tasks": [{**found, "gateway_ref": 17, "state_history": history}]}

            await medic.edit(new["_id"], overwrite)
            await happens(logs, "sending.contested")
            status = await control.ask(Path(config.cht.state_dir), "GET", "/status")
            await happens(logs, "sending.uncontested", hurry=20)
    assert status is not None
    assert (status["state"], status["figures"]["contested_messages"]) == ("broken", 1)
    [told] = [one for one in logs if one["event"] == "sending.contested"]
    assert (told["doc"], told["log_level"]) == (new["_id"], "error")


async def test_while_another_gateway_is_chosen_claims_are_looked_up_and_given_back(
    config: Config, medic: Database, rapidpro: RapidPro
) -> None:
    """Never resent: the other gateway does that."""
    docs = records(2)
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "{}"), contains="hello @@ 0", after=True))
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "{}"), contains="hello @@ 1"))
    with capture_logs() as logs:
        async with running(config):
            await medic.bulk(docs)
            await until(lambda: len(events(logs, "broadcast.ambiguous")) == 2)
            await choose(medic, "rapidpro")
            await happens(logs, "sending.conflicted")
            await reaches(medic, docs[0]["_id"], RECEIVED, hurry=1)
            await reaches(medic, docs[1]["_id"], "pending", hurry=1)
            await asyncio.sleep(0.2)
    assert len(rapidpro.broadcasts) == 1
    assert not events(logs, "broadcast.resent", "stop.left_over")


async def test_an_earlier_process_send_is_looked_up_while_another_gateway_is_chosen(
    config: Config, medic: Database, rapidpro: RapidPro
) -> None:
    docs = records(2)
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "{}"), contains="hello @@ 0", after=True))
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "{}"), contains="hello @@ 1"))
    me = Instance("1" * 32, "me")
    with capture_logs() as logs:
        async with running(config, me):
            await medic.bulk(docs)
            await until(lambda: len(events(logs, "broadcast.ambiguous")) == 2)
        await choose(medic, "rapidpro")
        async with running(config, me):
            await reaches(medic, docs[0]["_id"], RECEIVED, hurry=1)
            await reaches(medic, docs[1]["_id"], "pending", hurry=1)
    [left] = [entry for entry in logs if entry["event"] == "stop.left_over"]
    assert (left["claimed"], left["ambiguous"], left["spooled"]) == (2, 2, 0)
    assert len(rapidpro.broadcasts) == 1

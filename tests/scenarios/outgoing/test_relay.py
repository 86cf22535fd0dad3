"""A message's way from its document to RapidPro and back, with everything in between being real."""

import json
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock


async def test_a_pending_message_becomes_a_broadcast_and_its_task_says_so(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("Come to the clinic", "0712 345 678", uuid="m-1"), gateway_ref="old"))
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        await medic.put(record)
        doc = await reaches(medic, record["_id"], "received-by-gateway")
    (broadcast,) = rapidpro.broadcasts
    assert (broadcast.urns, broadcast.text) == (("tel:+254712345678",), "Come to the clinic")
    (sent,) = doc["tasks"]
    assert (sent["gateway_ref"], sent["state_details"]) == (str(broadcast.id), "Queued")
    assert [entry["state"] for entry in sent["state_history"]] == [
        "pending",
        "forwarded-to-gateway",
        "received-by-gateway",
    ]
    assert doc["_rev"].startswith("3-"), "one revision for the claim and one for the outcome"


async def test_tasks_from_before_the_start_are_found_in_both_lists(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(
        task(message("one")),
        task(message("leftover of another gateway"), state="forwarded-to-gateway"),
        task(message("not yet"), state="scheduled"),
        task(message("not wanted"), state="cleared"),
        task(message("nobody", "")),
        scheduled_tasks=[task(message("two"))],
    )
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        received = "received-by-gateway"
        await reaches(medic, record["_id"], received, received, "scheduled", "cleared", "pending", received)
    assert sorted(broadcast.text for broadcast in rapidpro.broadcasts) == ["leftover of another gateway", "one", "two"]


async def test_a_text_arrives_as_cht_wrote_it(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    rapidpro.globals["key"] = "the secret"
    record = data_record(task(message("Write to info@contact.org or @globals.key @(1+2) @@")))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        await reaches(medic, record["_id"], "received-by-gateway")
    assert [sms.text for sms in rapidpro.messages] == ["Write to info@contact.org or @globals.key @(1+2) @@"]


@pytest.mark.parametrize(
    ("sms", "reason", "posts"),
    [
        (message("hello", "phone1"), "Invalid URN: tel:phone1. Ensure phone numbers contain country codes.", 1),
        (message(" \t "), "This field may not be blank.", 1),
        (message("@" * 2049), "Text too long: 4098 characters (each @ counts as two), RapidPro takes 4096", 0),
        (message("x" * 1_000_000), "Text too long: 1000000 characters, RapidPro takes 4096", 0),
    ],
    ids=["bad number", "blank", "too long once escaped", "a megabyte"],
)
async def test_a_refused_message_fails_with_rapidpros_reason(
    sms: Doc, reason: str, posts: int, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(sms))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        doc = await reaches(medic, record["_id"], "failed")
    assert doc["tasks"][0]["state_details"] == reason
    assert (len(rapidpro.broadcasts), len(rapidpro.calls)) == (0, posts)


async def test_a_task_with_several_messages_is_settled_once(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    good, bad = data_record(task(message("a"), message("b"))), data_record(task(message("c"), message("d", "phone1")))
    await medic.bulk([good, bad])
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        done = await reaches(medic, good["_id"], "received-by-gateway")
        failed = await reaches(medic, bad["_id"], "failed")
    refs = {broadcast.text: str(broadcast.id) for broadcast in rapidpro.broadcasts}
    assert sorted(refs) == ["a", "b", "c"]
    assert (done["tasks"][0]["gateway_ref"], failed["tasks"][0]["gateway_ref"]) == (refs["a"], refs["c"])
    assert done["_rev"][:2] == failed["_rev"][:2] == "3-"


async def test_a_message_cleared_just_before_its_claim_is_not_sent(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Invariant 1: only if the latest revision still wants it."""
    record = data_record(task(message("too late")))

    async def clear() -> None:
        await medic.edit(record["_id"], lambda doc: {**doc, "tasks": [{**doc["tasks"][0], "state": "cleared"}]})

    gate.before("POST _bulk_docs", clear)
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        await medic.put(record)
        await until(lambda: gate.requests.count("POST _all_docs") >= 2)  # the settings, and the look after the conflict
    doc = await medic.get(record["_id"])
    assert (states(doc), doc["_rev"][:2], len(rapidpro.calls)) == (["cleared"], "2-", 0)


async def test_nothing_else_in_the_document_changes(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record = data_record(
        task(message("hello"), type="Reminder", group=1, unknown={"deep": [1, None, "é"]}),
        task(message("later"), state="scheduled"),
        fields={"n": 0.1, "list": []},
        contact={"_id": "c", "parent": {"_id": "p"}},
        _attachments={"content": {"content_type": "text/plain", "data": "aGVsbG8="}},
    )
    await medic.put(record)
    before = await medic.get(record["_id"])
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        after = await reaches(medic, record["_id"], "received-by-gateway", "scheduled")
    for owned in ("state", "state_details", "state_history", "gateway_ref"):
        before["tasks"][0].pop(owned, None)
        after["tasks"][0].pop(owned)
    del before["_rev"], after["_rev"]
    assert after == before


async def test_others_may_write_the_document_twenty_times_before_the_outcome_is_in(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)

    async def touch() -> None:
        if rapidpro.broadcasts:
            await medic.edit(record["_id"], lambda doc: {**doc, "touched": doc.get("touched", 0) + 1})

    gate.before("POST _bulk_docs", touch, times=21)
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        doc = await reaches(medic, record["_id"], "received-by-gateway", hurry=0.2)
    assert (doc["touched"], len(rapidpro.broadcasts)) == (20, 1)


async def test_a_document_deleted_after_the_send_is_dropped(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)

    async def delete() -> None:
        if rapidpro.broadcasts:
            await medic.delete(record["_id"])

    gate.before("POST _bulk_docs", delete, times=2)
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await until(lambda: any(entry["event"] == "settle.dropped" for entry in logs))
    assert len(rapidpro.broadcasts) == 1


async def test_an_answer_that_is_lost_is_looked_up(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)
    gate.loses_answers = True

    async def heal() -> None:
        gate.loses_answers = False

    async with running(configure(gate, medic, rapidpro, TOKEN)):
        await until(lambda: gate.requests.count("POST _bulk_docs") == 1)
        gate.before("POST _all_docs", heal)
        doc = await reaches(medic, record["_id"], "received-by-gateway")
    assert (len(rapidpro.broadcasts), doc["_rev"][:2]) == (1, "3-")


async def test_couchdb_away_after_the_send(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record, other = data_record(task(message("hello"))), data_record(task(message("other")))
    await medic.put(record)

    async def close() -> None:
        if rapidpro.broadcasts:
            gate.is_closed = True

    gate.before("POST _bulk_docs", close, times=2)
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await until(lambda: gate.is_closed)
            await medic.put(other)
            jump(600)
            await until(lambda: gate.requests.count("POST _all_docs") >= 3)
            assert len(rapidpro.broadcasts) == 1
            gate.is_closed = False
            await reaches(medic, record["_id"], "received-by-gateway", hurry=1)
            await reaches(medic, other["_id"], "received-by-gateway", hurry=1)
            await until(lambda: any(entry["event"] == "dependency.recovered" for entry in logs))
    assert len(rapidpro.broadcasts) == 2
    edges = [entry["event"] for entry in logs if entry["event"].startswith("dependency")]
    assert edges == ["dependency.lost", "dependency.recovered"]


async def test_old_messages_expire_where_the_user_wants_it(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    now = wall_clock()
    old, young = data_record(task(message("old"), due=now - 7_200_000)), data_record(task(message("young"), due=now))
    await medic.bulk([old, young])
    async with running(configure(gate, medic, rapidpro, TOKEN, expire_after=3600.0)):
        doc = await reaches(medic, old["_id"], "failed")
        await reaches(medic, young["_id"], "received-by-gateway")
    assert doc["tasks"][0]["state_details"] == "Expired"
    assert [broadcast.text for broadcast in rapidpro.broadcasts] == ["young"]


async def test_the_settings_switch_sending_on_and_off(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    def chooses(service: str) -> Any:
        def change(doc: Doc) -> Doc:
            return {**doc, "settings": {**doc["settings"], "sms": {"outgoing_service": service}}}

        return change

    await medic.edit("settings", chooses("medic-gateway"))
    first, second = data_record(task(message("first"))), data_record(task(message("second")))
    await medic.put(first)
    with capture_logs() as logs:

        def off() -> int:
            return sum(entry["event"] == "sending.disabled" for entry in logs)

        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await until(lambda: off() == 1)
            assert not rapidpro.calls
            await medic.edit("settings", chooses("cht-rapidpro"))
            await reaches(medic, first["_id"], "received-by-gateway", hurry=1)
            await medic.edit("settings", chooses("none"))
            await until(lambda: off() == 2)
            await medic.put(second)
    assert [broadcast.text for broadcast in rapidpro.broadcasts] == ["first"]


async def test_a_document_that_no_decoder_takes_stops_no_other(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    deep, good = data_record(task(message("deep"))), data_record(task(message("good")))
    body = json.dumps({**deep, "fields": "HERE"}).replace('"HERE"', "[" * 1500 + "]" * 1500)
    async with (
        aiohttp.ClientSession(headers={"Authorization": aiohttp.encode_basic_auth(gate.user, gate.password)}) as http,
        http.put(f"{medic.url}/{deep['_id']}", data=body, headers={"Content-Type": "application/json"}) as put,
    ):
        assert put.status == 201
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await medic.put(good)
            await reaches(medic, good["_id"], "received-by-gateway")
            await until(
                lambda: any(entry.get("doc") == deep["_id"] and entry["log_level"] == "error" for entry in logs)
            )
    assert [made.text for made in rapidpro.broadcasts] == ["good"]

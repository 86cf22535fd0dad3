"""Delivery states on their way from RapidPro into tasks, with everything in between being real."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from cht_rapidpro.config import Delivery
from cht_rapidpro.demo.database import Database, Doc
from cht_rapidpro.demo.medic import data_record, iso_time, message, task
from cht_rapidpro.demo.rapidpro import RapidPro
from tests.clock import jump, wall_clock
from tests.conftest import TOKEN
from tests.gate import Gate, until
from tests.gateway import configure, reaches, running, states
from tests.jobs.followed import asked_for, followed, followed_by_log, listings

ON = Delivery()
RECEIVED = "received-by-gateway"


async def test_a_sent_message_is_followed_until_it_is_delivered(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await reaches(medic, record["_id"], RECEIVED)
            for status, state in (("wired", "forwarded-by-gateway"), ("sent", "sent"), ("delivered", "delivered")):
                rapidpro.move(1, status)
                jump(60)
                await reaches(medic, record["_id"], state)
    doc = await medic.get(record["_id"])
    assert doc["_rev"][:2] == "6-", "a claim, an outcome, and one revision for each change"
    assert [(entry["state"], entry.get("state_details")) for entry in doc["tasks"][0]["state_history"][2:]] == [
        (RECEIVED, "Queued"),
        ("forwarded-by-gateway", "Wired"),
        ("sent", "Sent"),
        ("delivered", "Delivered"),
    ]
    changes = log.named("state.changed")
    assert [entry["state"] for entry in changes] == ["forwarded-by-gateway", "sent", "delivered"]
    known = {"doc": record["_id"], "message": record["tasks"][0]["messages"][0]["uuid"], "gateway_ref": "1"}
    assert all(known.items() <= entry.items() for entry in changes)


async def test_what_was_sent_before_the_start_is_followed_and_nothing_changes_without_news(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Also where CHT's own gateway has left numbers."""
    followings = [await followed(medic, rapidpro, index) for index in range(6)]
    await medic.edit(followings[0].doc_id, lambda doc: with_task(doc, gateway_ref=followings[0].broadcast))
    before = [await medic.get(each.doc_id) for each in followings]
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(2)
            assert [await medic.get(each.doc_id) for each in followings] == before
            for each in followings:
                rapidpro.move(each.broadcast, "delivered")
            jump(60)
            for each in followings:
                await reaches(medic, each.doc_id, "delivered")
    assert (await medic.get(followings[0].doc_id))["tasks"][0]["gateway_ref"] == followings[0].broadcast
    assert len(listings(rapidpro)) <= 4, "one listing a round answers for all"


async def test_the_rest_of_the_document_stays_as_it_is(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    one = await followed(medic, rapidpro, 1)
    odd = {"n": 0.1, "deep": [{"é": None}]}
    await medic.edit(
        one.doc_id, lambda doc: {**doc, "odd": odd, "scheduled_tasks": [task(message("x"), state="muted")]}
    )
    rapidpro.move(one.broadcast, "delivered")
    before = await medic.get(one.doc_id)
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        after = await reaches(medic, one.doc_id, "delivered", "muted")
    for owned in ("state", "state_details", "state_history"):
        before["tasks"][0].pop(owned, None)
        after["tasks"][0].pop(owned)
    del before["_rev"], after["_rev"]
    assert after == before


async def test_without_anything_outstanding_nothing_is_asked(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """Final states, those without a ref, those of another gateway, those that others took back."""
    now = datetime.fromtimestamp(wall_clock() / 1000, UTC)
    records = [
        data_record(task(message("hello"), state=state, at=now, **ref))
        for state, ref in (
            ("delivered", {"gateway_ref": "1"}),
            ("failed", {"gateway_ref": "2"}),
            ("sent", {}),
            ("sent", {"gateway_ref": ""}),
            ("sent", {"gateway_ref": None}),
            ("sent", {"gateway_ref": "ATXid_3"}),
            ("received-by-gateway", {"gateway_ref": "0192aaaa-0000-7000-8000-000000000001"}),
            ("muted", {"gateway_ref": "4"}),
            ("cleared", {"gateway_ref": "5"}),
        )
    ]
    await medic.bulk(records)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(4)
    assert not rapidpro.calls


async def test_two_tasks_of_a_document_change_in_one_revision(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    made = [rapidpro.create_broadcast([f"tel:+25471234500{index}"], "hello") for index in range(2)]
    now = datetime.fromtimestamp(wall_clock() / 1000, UTC)
    sent = [task(message("hello", each.urns[0][4:]), state=RECEIVED, at=now, gateway_ref=str(each.id)) for each in made]
    record = data_record(sent[0], scheduled_tasks=[sent[1]])
    await medic.put(record)
    for each in made:
        rapidpro.move(each.id, "sent")
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        doc = await reaches(medic, record["_id"], "sent", "sent")
    assert doc["_rev"][:2] == "2-"


STORIES: dict[str, tuple[list[str], list[str]]] = {
    "delivered stays": (["delivered", "sent", "errored", "failed", "queued"], ["delivered"]),
    "read is delivered, and stays": (["read", "delivered", "failed"], ["delivered"]),
    "failed, delivered after all": (["failed", "sent", "errored", "delivered", "failed"], ["failed", "delivered"]),
    "an error after the send": (["sent", "errored", "sent"], ["sent", RECEIVED, "sent"]),
    "errors until it fails": (["wired", "errored", "failed"], ["forwarded-by-gateway", RECEIVED, "failed"]),
    "backwards": (["sent", "wired", "queued"], ["sent", "forwarded-by-gateway", RECEIVED]),
    "resent": (["sent", "resent"], ["sent", "sent"]),
    "nobody knows it": (["teleported", "sent"], ["sent"]),
}


@pytest.mark.parametrize(("statuses", "expected"), STORIES.values(), ids=STORIES)
async def test_statuses_in_any_order(
    statuses: list[str], expected: list[str], gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Its neighbours, which move along, make sure that they are listed, and show that the listing has been read."""
    before, one, after = [await followed(medic, rapidpro, number) for number in range(3)]
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        for index, status in enumerate(statuses):
            rapidpro.move(one.broadcast, status)
            for neighbour in (before, after):
                rapidpro.move(neighbour.broadcast, ("wired", "sent")[index % 2])
            jump(60)
            for neighbour in (before, after):
                await reaches(medic, neighbour.doc_id, ("forwarded-by-gateway", "sent")[index % 2])
    doc = await medic.get(one.doc_id)
    assert [entry["state"] for entry in doc["tasks"][0]["state_history"]] == [RECEIVED, *expected]
    assert doc["_rev"].partition("-")[0] == str(1 + len(expected))


async def test_an_unknown_status_is_told_once(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    for index in range(3):
        one = await followed(medic, rapidpro, index)
        rapidpro.move(one.broadcast, "teleported")
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(3)
    assert [(entry["status"], entry["log_level"]) for entry in log.named("status.unknown")] == [
        ("teleported", "warning")
    ]
    assert not log.named("state.changed")


@pytest.mark.parametrize("state", ["muted", "cleared", "pending"])
async def test_a_task_that_somebody_else_has_changed_meanwhile_is_left_alone(
    state: str, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    one, other = await followed(medic, rapidpro, 1), await followed(medic, rapidpro, 2)
    await medic.edit("settings", lambda doc: doc)

    async def intervene() -> None:
        await medic.edit(one.doc_id, lambda doc: with_task(doc, state=state, messages=[]))

    gate.before("POST _bulk_docs", intervene)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(1)
            for each in (one, other):
                rapidpro.move(each.broadcast, "delivered")
            jump(60)
            await reaches(medic, other.doc_id, "delivered")
            await log.rounds(0)
    assert states(await medic.get(one.doc_id)) == [state]


async def test_a_document_deleted_meanwhile_is_forgotten(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    one = await followed(medic, rapidpro, 1)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(1)
            await medic.delete(one.doc_id)
            rapidpro.move(one.broadcast, "delivered")
            await log.rounds(1)
            asked = len(rapidpro.calls)
            await log.rounds(3)
            assert len(rapidpro.calls) == asked


async def test_only_final_states_are_written_where_the_user_wants_it(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    one = await followed(medic, rapidpro, 1)
    config = configure(gate, medic, rapidpro, TOKEN, delivery=Delivery(write="final"))
    with followed_by_log() as log:
        async with running(config):
            for status in ("wired", "errored"):
                rapidpro.move(one.broadcast, status)
                await log.rounds(1)
            assert (await medic.get(one.doc_id))["_rev"][:2] == "1-"
            rapidpro.move(one.broadcast, "sent")
            jump(60)
            await reaches(medic, one.doc_id, "sent")
            rapidpro.move(one.broadcast, "errored")
            await log.rounds(1)
            assert (await medic.get(one.doc_id))["_rev"][:2] == "2-"
            rapidpro.move(one.broadcast, "delivered")
            jump(60)
            await reaches(medic, one.doc_id, "delivered")


async def test_it_asks_ever_more_rarely_and_then_gives_up(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    await followed(medic, rapidpro, 1)
    asked: list[int] = []
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=Delivery(give_up_after=86_400.0))):
            for _ in range(3):
                before = len(rapidpro.calls)
                for _ in range(10):
                    await log.rounds(1)
                asked.append(len(rapidpro.calls) - before)
                jump(3 * 3600)
            jump(86_400)
            await log.rounds(2)
            given_up = len(rapidpro.calls)
            await log.rounds(3)
    assert asked[0] >= 9
    assert 1 <= asked[1] <= 2
    assert 1 <= asked[2] <= 2
    assert len(rapidpro.calls) == given_up


async def test_a_message_older_than_that_is_never_asked_for(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    old = datetime.fromtimestamp(wall_clock() / 1000 - 8 * 86_400, UTC)
    await medic.put(data_record(task(message("hello"), state="sent", gateway_ref="1", at=old)))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(3)
    assert not rapidpro.calls


async def test_among_many_incoming_messages_the_folder_of_the_sent_ones_is_listed(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """One that is not in it any more is found all the same."""
    those = []
    for number in range(30):
        those.append(await followed(medic, rapidpro, number, "sent", "Sent"))
        rapidpro.move(those[-1].broadcast, "sent")
        for _ in range(50):
            jump(1)
            rapidpro.receive("tel:+254712345999", "hello")
    rapidpro.move(those[5].broadcast, "errored")
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(1)
            asked = listings(rapidpro)
            for each in those:
                rapidpro.move(each.broadcast, "delivered")
            await log.rounds(6)
            for each in those:
                await reaches(medic, each.doc_id, "delivered")
    assert "sent" in {call.query.get("folder") for call in asked}
    assert len([call for call in asked if "folder" not in call.query]) <= 5, "twice all would be twelve"
    assert [entry["gateway_ref"] for entry in log.named("state.changed") if entry["state"] == RECEIVED] == [
        str(those[5].broadcast)
    ]


async def test_a_broadcast_without_a_message_is_looked_up_once_after_a_quarter_of_an_hour(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    rapidpro.unresolvable |= {"tel:+254712345001", "tel:+254712345002"}
    failed, queued = await followed(medic, rapidpro, 1), await followed(medic, rapidpro, 2)
    rapidpro.broadcasts[queued.broadcast - 1].status = "queued"
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(10)
            assert asked_for(rapidpro, "GET broadcasts") == []
            jump(600)
            doc = await reaches(medic, failed.doc_id, "failed")
            await log.rounds(3)
            jump(1800)
            await log.rounds(3)
    assert doc["tasks"][0]["state_details"] == "Failed"
    assert states(await medic.get(queued.doc_id)) == [RECEIVED]
    looked_up = [call.query for call in asked_for(rapidpro, "GET broadcasts")]
    assert sorted(looked_up, key=str) == [{"id": str(failed.broadcast)}, {"id": str(queued.broadcast)}]


async def test_a_ref_of_another_rapidpro_changes_nothing(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """The site had another RapidPro before; its ids are other messages' here."""
    one = await followed(medic, rapidpro, 1)
    rapidpro.move(one.broadcast, "delivered")
    old = iso_time(datetime.fromtimestamp(wall_clock() / 1000 - 3 * 86_400, UTC))
    history = [{"state": RECEIVED, "timestamp": old}]
    await medic.edit(one.doc_id, lambda doc: with_task(doc, state_history=history, timestamp=old))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await until(lambda: bool(asked_for(rapidpro, "GET messages")))
            await log.rounds(2)
    assert states(await medic.get(one.doc_id)) == [RECEIVED]


async def test_nothing_is_asked_while_another_gateway_sends(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    await followed(medic, rapidpro, 1)
    await medic.edit("settings", lambda doc: {**doc, "settings": {"sms": {"outgoing_service": "medic-gateway"}}})
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await until(lambda: bool(log.named("sending.disabled")))
            jump(120)
            await asyncio.sleep(0)
            assert not rapidpro.calls
            await medic.edit("settings", lambda doc: {**doc, "settings": {"sms": {"outgoing_service": "cht-rapidpro"}}})
            await until(lambda: bool(rapidpro.calls))


async def test_what_is_being_written_at_a_stop_is_written(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    one = await followed(medic, rapidpro, 1)
    rapidpro.move(one.broadcast, "delivered")
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)) as stop:

        async def end() -> None:
            stop.set()
            for _ in range(10):
                await asyncio.sleep(0)

        gate.before("POST _bulk_docs", end)
        await stop.wait()
    assert states(await medic.get(one.doc_id)) == ["delivered"]


async def test_couchdb_away_is_waited_out(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    one = await followed(medic, rapidpro, 1)

    async def close() -> None:
        gate.is_closed = True

    gate.before("POST _bulk_docs", close)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(1)
            rapidpro.move(one.broadcast, "delivered")
            jump(60)
            await until(lambda: gate.is_closed)
            jump(600)
            gate.is_closed = False
            await reaches(medic, one.doc_id, "delivered", hurry=1)


async def test_conflicts_are_tried_again_until_the_state_is_in(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    one = await followed(medic, rapidpro, 1)
    rapidpro.move(one.broadcast, "delivered")

    async def touch() -> None:
        await medic.edit(one.doc_id, lambda doc: {**doc, "touched": doc.get("touched", 0) + 1})

    gate.before("POST _bulk_docs", touch, times=10)
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        doc = await reaches(medic, one.doc_id, "delivered", hurry=0.2)
    assert (doc["touched"], len(doc["tasks"][0]["state_history"])) == (10, 2)


async def test_a_document_that_takes_no_state_stops_no_other(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    bad, good = await followed(medic, rapidpro, 1), await followed(medic, rapidpro, 2)
    deny = f"function (doc) {{ if (doc._id === '{bad.doc_id}') throw({{forbidden: 'no'}}); }}"
    await medic.put({"_id": "_design/deny", "language": "javascript", "validate_doc_update": deny})
    for each in (bad, good):
        rapidpro.move(each.broadcast, "delivered")
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await reaches(medic, good.doc_id, "delivered")
            await until(lambda: bool(log.named("state.rejected")))
    assert [entry["doc"] for entry in log.named("state.rejected")] == [bad.doc_id]


def with_task(doc: Doc, **fields: Any) -> Doc:
    """The document with its first task changed."""
    return {**doc, "tasks": [{**doc["tasks"][0], **fields}, *doc["tasks"][1:]]}

"""Delivery states on their way from RapidPro into tasks, with everything in between being real."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cht_rapidpro.config.schema import Delivery
from cht_rapidpro.domain.claim import Instance
from demo.database import Database, Doc
from demo.medic import data_record, iso_time, message, task
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.scenarios.outgoing.followed import Followed, asked_for, followed, followed_by_log, listings, questions
from tests.support.daemon import configure, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

ON = Delivery()
RECEIVED = "received-by-gateway"
ME = Instance("1" * 32, "one")


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


async def test_messages_sent_before_the_start_are_followed_and_unchanged_without_news(
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
    assert not questions(rapidpro)


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
async def test_a_task_that_another_program_has_changed_meanwhile_is_left_alone(
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
            asked = len(questions(rapidpro))
            await log.rounds(3)
            assert len(questions(rapidpro)) == asked


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


async def test_a_message_without_news_is_asked_for_ever_more_rarely_and_then_given_up(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    await followed(medic, rapidpro, 1)
    asked: list[int] = []
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=Delivery(give_up_after=86_400.0))):
            for _ in range(3):
                before = len(questions(rapidpro))
                for _ in range(10):
                    await log.rounds(1)
                asked.append(len(questions(rapidpro)) - before)
                jump(3 * 3600)
            jump(86_400)
            await log.rounds(2)
            given_up = len(questions(rapidpro))
            await log.rounds(3)
    assert asked[0] >= 9
    assert 1 <= asked[1] <= 2
    assert 1 <= asked[2] <= 2
    assert len(questions(rapidpro)) == given_up


async def test_a_message_older_than_that_is_never_asked_for(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    old = datetime.fromtimestamp(wall_clock() / 1000 - 8 * 86_400, UTC)
    await medic.put(data_record(task(message("hello"), state="sent", gateway_ref="1", at=old)))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(3)
    assert not questions(rapidpro)


async def group(
    medic: Database, rapidpro: RapidPro, number: int, size: int, state: str = RECEIVED, details: str = "Queued"
) -> tuple[str, int]:
    """A document with a task for each recipient of one broadcast, and the broadcast."""
    numbers = [f"+254712{number:03}{index:03}" for index in range(size)]
    broadcast = rapidpro.create_broadcast([f"tel:{to}" for to in numbers], f"hello {number}")
    now = datetime.fromtimestamp(wall_clock() / 1000, UTC)
    sent = [task(message("hello", to), state=state, at=now, gateway_ref=str(broadcast.id)) for to in numbers]
    record = data_record(*({**each, "state_details": details} for each in sent))
    await medic.put(record)
    return record["_id"], broadcast.id


async def test_in_a_group_each_gets_its_own_state(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """One is delivered and waits for nothing any more; then the other, whose row is the only one left, fails."""
    those = []
    for number in range(20):
        those.append(await group(medic, rapidpro, number, 2, "sent", "Sent"))
        rapidpro.move(those[-1][1], "sent")
        for _ in range(30):
            jump(1)
            rapidpro.receive("tel:+254712999999", "hello")
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(1)
            for index, status in ((0, "delivered"), (1, "failed")):
                for _, broadcast in those:
                    rapidpro.move(rapidpro.messages_of(broadcast)[index], status)
                await log.rounds(2)
    assert {tuple(states(await medic.get(doc_id))) for doc_id, _ in those} == {("delivered", "failed")}


async def test_a_message_to_another_number_of_the_person_is_matched_as_the_last_one(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """One of three has another number; of two of three that tells nothing, and is said once."""
    for number in (1, 2):
        rapidpro.add_contact(f"tel:+25570000000{number}", f"tel:+25471200{number}000")
    rapidpro.add_contact("tel:+255700000003", "tel:+254712002001")
    clear, _ = await group(medic, rapidpro, 1, 3)
    unclear, _ = await group(medic, rapidpro, 2, 3)
    for sms in list(rapidpro.messages):
        rapidpro.move(sms, "sent")
    rapidpro.move(rapidpro.messages_of(1)[0], "failed")
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(3)
    assert states(await medic.get(clear)) == ["failed", "sent", "sent"]
    assert states(await medic.get(unclear)) == [RECEIVED, RECEIVED, "sent"]
    assert [line["doc"] for line in log.named("state.unmatched")] == [unclear, unclear]
    assert len(asked_for(rapidpro, "GET broadcasts")) == 2


@pytest.mark.parametrize("count", [300, 1000])
async def test_a_campaign_is_read_to_its_end_in_each_round(
    count: int, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Made within a second, among a few of others; no more pages than hold it, and one."""
    those = [await group(medic, rapidpro, number, 100) for number in range(count // 100)]
    rapidpro.receive("tel:+254712999999", "hello")
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(1)
            for status, state in (("wired", "forwarded-by-gateway"), ("sent", "sent")):
                for _, broadcast in those:
                    rapidpro.move(broadcast, status)
                before = len(rapidpro.calls)
                await log.rounds(1)
                assert len(rapidpro.calls) - before <= -(-(count + 1) // 250) + 1
                await log.rounds(0)
                for doc_id, _ in those:
                    assert set(states(await medic.get(doc_id))) == {state}


async def test_a_message_that_stands_alone_is_asked_for_alone(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    those = []
    for number in range(3):
        those.append(await followed(medic, rapidpro, number))
        for _ in range(260):
            rapidpro.receive("tel:+254712999999", "hello")
        jump(400)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(1)
            listed = len(listings(rapidpro))
            for each in those:
                rapidpro.move(each.broadcast, "delivered")
            jump(600)
            await log.rounds(2)
    assert listed
    assert len(listings(rapidpro)) == listed
    assert {(await medic.get(each.doc_id))["tasks"][0]["state"] for each in those} == {"delivered"}


@pytest.mark.parametrize("late", [20 * 60, 5 * 3600], ids=["20 minutes", "5 hours"])
async def test_a_message_that_is_made_late_is_found(late: int, gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """RapidPro's queue was long."""
    one = await followed(medic, rapidpro, 1)
    (sms,) = rapidpro.messages_of(one.broadcast)
    sms.created_on += timedelta(seconds=late)
    jump(late)
    rapidpro.move(one.broadcast, "delivered")
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        await reaches(medic, one.doc_id, "delivered", hurry=1)


async def a_day(medic: Database, rapidpro: RapidPro, ahead: float) -> list[Followed]:
    """Messages whose tasks a clock has written that was so many seconds ahead."""
    those = [await followed(medic, rapidpro, number) for number in range(2)]
    moment = iso_time(datetime.fromtimestamp(wall_clock() / 1000 + ahead, UTC))
    history = [{"state": RECEIVED, "state_details": "Queued", "timestamp": moment}]
    for each in those:
        await medic.edit(each.doc_id, lambda doc: with_task(doc, state_history=history))
    return those


@pytest.mark.parametrize("ahead", [-20 * 60, -20 * 3600, 20 * 3600], ids=["20 minutes slow", "slow", "fast"])
async def test_a_clock_that_was_wrong_when_the_task_was_written_hides_no_state(
    ahead: float, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    those = await a_day(medic, rapidpro, ahead)
    for each in those:
        rapidpro.move(each.broadcast, "delivered")
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        for each in those:
            await reaches(medic, each.doc_id, "delivered", hurry=1)


@dataclass
class Wall:
    """Our clock, `ahead` seconds of the true one."""

    ahead: float = 0.0

    def __call__(self) -> int:
        return wall_clock() + round(self.ahead * 1000)


@pytest.mark.parametrize("ahead", [86_400.0, 30 * 86_400.0, -30 * 86_400.0])
async def test_a_step_of_our_clock_stops_no_asking(
    ahead: float, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)
    wall = Wall(ahead)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON), clock=wall):
            await reaches(medic, record["_id"], RECEIVED)
            await log.rounds(2)
            wall.ahead = 0.0
            rapidpro.move(1, "sent")
            await log.rounds(2)
            await reaches(medic, record["_id"], "sent")
            wall.ahead = ahead
            rapidpro.move(1, "delivered")
            await log.rounds(2)
            await reaches(medic, record["_id"], "delivered")


@pytest.mark.parametrize("status", ["sent", "completed"])
async def test_a_broadcast_that_ended_without_a_message_has_failed(
    status: str, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Older versions make none for a blocked contact. One that is not old enough may still get its message."""
    rapidpro.unresolvable |= {"tel:+254712345001", "tel:+254712345002"}
    one, queued = await followed(medic, rapidpro, 1), await followed(medic, rapidpro, 2)
    rapidpro.broadcasts[one.broadcast - 1].status = status
    rapidpro.broadcasts[queued.broadcast - 1].status = "queued"
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(13)
            assert states(await medic.get(one.doc_id)) == [RECEIVED]
            jump(180)
            doc = await reaches(medic, one.doc_id, "failed")
            assert doc["tasks"][0]["state_details"] == "No message"
            assert states(await medic.get(queued.doc_id)) == [RECEIVED]
            rapidpro.broadcasts[queued.broadcast - 1].status = status
            jump(3 * 3600)
            await reaches(medic, queued.doc_id, "failed", hurry=1)
    assert len(asked_for(rapidpro, "GET broadcasts")) <= 4


async def test_messages_that_are_gone_leave_the_state_that_they_told(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """RapidPro archives them."""
    one = await followed(medic, rapidpro, 1)
    rapidpro.move(one.broadcast, "sent")
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(1)
            await reaches(medic, one.doc_id, "sent")
            rapidpro.messages_of(one.broadcast).clear()
            rapidpro.messages.clear()
            for _ in range(20):
                jump(600)
                await log.rounds(1)
    assert states(await medic.get(one.doc_id)) == ["sent"]


async def test_a_status_that_is_null_is_a_message_all_the_same(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """RapidPro 9.0.0 has none for what it does not know."""
    rapidpro.community = True
    one = await followed(medic, rapidpro, 1)
    rapidpro.move(one.broadcast, "read")
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            for _ in range(10):
                jump(300)
                await log.rounds(1)
            assert states(await medic.get(one.doc_id)) == [RECEIVED]
            rapidpro.move(one.broadcast, "delivered")
            await reaches(medic, one.doc_id, "delivered", hurry=1)
    assert not asked_for(rapidpro, "GET broadcasts")
    assert not log.named("status.unknown")


async def test_tasks_without_a_history_are_asked_for(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """Their own time, and the document's, stand for it, as in CHT's view."""
    those = [await followed(medic, rapidpro, number) for number in range(2)]
    await medic.edit(those[0].doc_id, lambda doc: with_task(doc, state_history=None))
    await medic.edit(those[1].doc_id, lambda doc: with_task(doc, state_history=None, timestamp=None))
    for each in those:
        rapidpro.move(each.broadcast, "delivered")
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        for each in those:
            await reaches(medic, each.doc_id, "delivered", hurry=1)


async def test_a_task_that_has_just_changed_is_written_later(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """Sentinel may be between its read and its write of the same document."""
    one = await followed(medic, rapidpro, 1)
    rapidpro.move(one.broadcast, "delivered")
    loop = asyncio.get_running_loop()
    changed = loop.time()
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=Delivery(interval=0.1))):
            await log.rounds(0)
            await reaches(medic, one.doc_id, "delivered")
            assert loop.time() - changed >= 2


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


async def test_while_another_gateway_is_chosen_earlier_messages_are_still_followed(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """What the other one has sent is none of ours."""
    ours, theirs = await followed(medic, rapidpro, 1), await followed(medic, rapidpro, 2)
    claim = {"state": "forwarded-to-gateway", "state_details": ME.details, "timestamp": iso_time(datetime.now(UTC))}
    await medic.edit(ours.doc_id, lambda doc: with_task(doc, state_history=[claim, *history_of(doc)]))
    for each in (ours, theirs):
        rapidpro.move(each.broadcast, "delivered")
    await medic.edit("settings", lambda doc: {**doc, "settings": {"sms": {"outgoing_service": "medic-gateway"}}})
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await reaches(medic, ours.doc_id, "delivered", hurry=1)
            await log.rounds(2)
    assert log.named("sending.disabled")
    assert states(await medic.get(theirs.doc_id)) == [RECEIVED]


async def test_nothing_is_asked_while_chts_own_gateway_asks(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    one = await followed(medic, rapidpro, 1)
    claim = {"state": "forwarded-to-gateway", "state_details": ME.details, "timestamp": iso_time(datetime.now(UTC))}
    await medic.edit(one.doc_id, lambda doc: with_task(doc, state_history=[claim, *history_of(doc)]))
    await medic.edit("settings", lambda doc: {**doc, "settings": {"sms": {"outgoing_service": "rapidpro"}}})
    await medic.edit("_design/medic", lambda doc: {**doc, "build_info": {"version": "5.2.0"}})
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await until(lambda: bool(log.named("sending.conflicted")))
            for _ in range(20):
                jump(10)
                await asyncio.sleep(0.03)
            assert not questions(rapidpro)
            await medic.edit("settings", lambda doc: {**doc, "settings": {"sms": {"outgoing_service": "cht-rapidpro"}}})
            await until(lambda: bool(questions(rapidpro)))


async def test_a_write_in_flight_at_a_stop_is_finished(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
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


def history_of(doc: Doc) -> list[Any]:
    """Of its first task."""
    found: list[Any] = doc["tasks"][0]["state_history"]
    return found


def with_task(doc: Doc, **fields: Any) -> Doc:
    """The document with its first task changed."""
    return {**doc, "tasks": [{**doc["tasks"][0], **fields}, *doc["tasks"][1:]]}

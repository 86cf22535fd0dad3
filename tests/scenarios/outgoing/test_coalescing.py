"""Messages of one text go out as one broadcast, and each of them still ends as if it had gone alone."""

from collections import Counter

import pytest
from structlog.testing import capture_logs

from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Broadcast, Fault, HalfBody, RapidPro, Reset
from demo.rapidpro.faults import Trouble
from tests.conftest import TOKEN
from tests.support.daemon import configure, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

HTML = "text/html"


def campaign(*numbers: str, text: str = "Vaccination on Monday") -> Doc:
    """As CHT's Messages tab writes it: one document, a task for each recipient."""
    return data_record(*(task(message(text, number)) for number in numbers))


def phone(number: int) -> str:
    return f"+254712{number:06}"


def refs(doc: Doc) -> dict[str, str]:
    """The gateway_ref by URN."""
    return {f"tel:{task['messages'][0]['to']}": task["gateway_ref"] for task in doc["tasks"]}


def posts(rapidpro: RapidPro) -> int:
    return sum(call.target == "POST broadcasts" for call in rapidpro.calls)


def places(broadcasts: list[Broadcast]) -> dict[str, str]:
    return {urn: str(made.id) for made in broadcasts for urn in made.urns}


async def test_a_district_is_told_in_few_requests(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record = campaign(*map(phone, range(250)))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        doc = await reaches(medic, record["_id"], *["received-by-gateway"] * 250)
    assert sorted(len(made.urns) for made in rapidpro.broadcasts) == [50, 100, 100]
    assert refs(doc) == places(rapidpro.broadcasts)
    assert all(len(task["state_history"]) == 3 for task in doc["tasks"]), "pending, claimed, received"


@pytest.mark.parametrize(
    ("coalesce", "people", "per_hour", "broadcasts"),
    [
        ("off", 8, 60, 8),
        ("auto", 2, 120, 2),
        ("auto", 8, 60, 1),
        ("auto", 8, None, 8),
        ("auto", 400, None, 4),
        ("always", 2, None, 1),
    ],
)
async def test_when_equal_texts_go_together(
    coalesce: str, people: int, per_hour: int | None, broadcasts: int, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """`auto`: only where more wait than a minute's share of the budget, or than are sent in two seconds, so that a
    single one keeps exact states.
    """
    record = campaign(*map(phone, range(people)))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, coalesce=coalesce, requests_per_hour=per_hour)):
        doc = await reaches(medic, record["_id"], *["received-by-gateway"] * people)
    assert len(rapidpro.broadcasts) == broadcasts
    assert refs(doc) == places(rapidpro.broadcasts)


async def test_the_same_number_twice_is_two_broadcasts(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """RapidPro would make one SMS of them; a number may be written in two ways."""
    record = campaign(phone(1), "0712000001", phone(2))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always")):
        await reaches(medic, record["_id"], *["received-by-gateway"] * 3)
    sent = Counter(urn for made in rapidpro.broadcasts for urn in made.urns)
    assert sent == {"tel:+254712000001": 2, "tel:+254712000002": 1}
    assert len(rapidpro.broadcasts) == 2


async def test_a_task_of_several_messages_keeps_a_broadcast_for_each(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """It has one gateway_ref: which broadcast its other messages are in is told by their texts alone."""
    record = data_record(task(message("one", phone(1)), message("one", phone(2))), task(message("one", phone(3))))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always")):
        await reaches(medic, record["_id"], *["received-by-gateway"] * 2)
    assert [made.urns for made in rapidpro.broadcasts] == [(f"tel:{phone(number)}",) for number in (1, 2, 3)]


async def test_bad_numbers_fail_and_the_others_are_sent(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record = campaign(phone(1), "phone1", phone(2), "20880", phone(3))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always")):
        good, bad = "received-by-gateway", "failed"
        doc = await reaches(medic, record["_id"], good, bad, good, bad, good)
    assert [made.urns for made in rapidpro.broadcasts] == [tuple(f"tel:{phone(number)}" for number in (1, 2, 3))]
    assert posts(rapidpro) == 2
    assert "tel:phone1" in doc["tasks"][1]["state_details"]
    assert "tel:20880" in doc["tasks"][3]["state_details"]
    assert "gateway_ref" not in doc["tasks"][1]


async def test_a_refusal_that_names_no_recipient_is_narrowed_down(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = campaign(*map(phone, range(8)))
    refusal = Answer(400, '{"urns":["This one is not welcome."]}', "application/json")
    rapidpro.fail(Fault("POST broadcasts", refusal, times=None, contains=phone(5)))
    await medic.put(record)
    good, bad = "received-by-gateway", "failed"
    async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always")):
        doc = await reaches(medic, record["_id"], *[good] * 5, bad, *[good] * 2)
    assert doc["tasks"][5]["state_details"] == "This one is not welcome."
    sent = [urn for made in rapidpro.broadcasts for urn in made.urns]
    assert sorted(sent) == [f"tel:{phone(number)}" for number in range(8) if number != 5]
    assert posts(rapidpro) <= 8


async def test_a_text_that_rapidpro_refuses_fails_for_all_at_once(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = campaign(*map(phone, range(8)), text="a\0b")
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always")):
        await reaches(medic, record["_id"], *["failed"] * 8)
    assert posts(rapidpro) == 1


async def test_a_proxy_that_takes_no_group_gets_smaller_ones(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """Our trouble fails nobody; what may be one of a group's alone is tried with half as many."""
    record = campaign(*map(phone, range(4)))
    blocked = Answer(403, "<html>blocked</html>", HTML)
    rapidpro.fail(Fault("POST broadcasts", blocked, times=None, contains=phone(2)))
    await medic.put(record)
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always")):
            await until(lambda: _hurry(0.5) and len(rapidpro.broadcasts) >= 2)
            sent = [urn for made in rapidpro.broadcasts for urn in made.urns]
            await until(lambda: _hurry(0.5) and len(places(rapidpro.broadcasts)) == 3)
            rapidpro.clear_faults()
            doc = await reaches(medic, record["_id"], *["received-by-gateway"] * 4, hurry=30)
    assert f"tel:{phone(2)}" not in sent
    assert refs(doc) == places(rapidpro.broadcasts)
    assert len(places(rapidpro.broadcasts)) == sum(len(made.urns) for made in rapidpro.broadcasts) == 4
    assert not [entry for entry in logs if entry["event"] == "broadcast.refused"]


TROUBLE: dict[str, tuple[Trouble, bool]] = {
    "500, created": (Answer(500, "<html></html>"), True),
    "500, nothing created": (Answer(500, "<html></html>"), False),
    "half an answer": (HalfBody(), True),
    "reset": (Reset(), False),
}


@pytest.mark.parametrize(("trouble", "after"), TROUBLE.values(), ids=TROUBLE)
async def test_a_group_in_doubt_is_looked_up_one_by_one(
    trouble: Trouble, after: bool, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    rapidpro.fail(Fault("POST broadcasts", trouble, after=after))
    record = campaign(*map(phone, range(5)))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always", timeout=0.5, settle_time=10.0)):
        doc = await reaches(medic, record["_id"], *["received-by-gateway"] * 5, hurry=0.2)
    (made,) = rapidpro.broadcasts
    assert refs(doc) == dict.fromkeys((f"tel:{phone(number)}" for number in range(5)), str(made.id))
    assert posts(rapidpro) == (1 if after else 2)


async def test_an_anonymous_workspace_gets_one_broadcast_a_message(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """It hides who got what: nobody could tell later which of a broadcast's recipients is whose."""
    rapidpro.anonymous = True
    record = campaign(*map(phone, range(5)))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always")):
        await reaches(medic, record["_id"], *["received-by-gateway"] * 5)
    assert len(rapidpro.broadcasts) == 5
    assert [call.target for call in rapidpro.calls].count("GET workspace") == 1


async def test_a_workspace_that_cannot_be_asked_holds_nothing_up(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    rapidpro.fail(Fault("GET workspace", Answer(500, "<html></html>"), times=None))
    record = campaign(*map(phone, range(40)))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always", max_concurrency=2)):
        await reaches(medic, record["_id"], *["received-by-gateway"] * 40)
    assert 2 <= len(rapidpro.broadcasts) < 40, "the first answer to a broadcast tells, too"


async def test_a_budget_that_is_used_up_leaves_the_rest_pending(gate: Gate, medic: Database) -> None:
    async with RapidPro(TOKEN, requests_per_hour=3, clock=lambda: wall_clock() / 1000) as rapidpro:
        record = campaign(*map(phone, range(300)))
        await medic.put(record)
        async with running(configure(gate, medic, rapidpro, TOKEN, coalesce="always", requests_per_hour=3)):

            async def are_sent(count: int) -> bool:
                left = {"pending": 300 - count} if count < 300 else {}
                found = Counter(states(await medic.get(record["_id"])))
                return found == {"received-by-gateway": count, **left}

            await until(lambda: are_sent(200))
            jump(3601)
            await until(lambda: are_sent(300))
        assert [call.target for call in rapidpro.calls] == ["GET workspace", *["POST broadcasts"] * 3]


def _hurry(seconds: float) -> bool:
    jump(seconds)
    return True

"""What happens to delivery states while something is wrong: one request is tried later, the others go on."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cht_rapidpro.config.schema import Delivery
from demo.database import Database
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Fault, HalfBody, Hang, RapidPro, Reset
from demo.rapidpro.faults import Trouble
from tests.conftest import TOKEN
from tests.scenarios.outgoing.followed import Followed, asked_for, followed, followed_by_log, listings, questions
from tests.support.daemon import configure, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

ON = Delivery()
RECEIVED = "received-by-gateway"
HTML = "text/html"
JSON = "application/json"

PASSING: dict[str, Trouble] = {
    "500": Answer(500, "<html>Server Error</html>", HTML),
    "a proxy's page": Answer(200, "<html>Welcome</html>", HTML),
    "no results": Answer(200, '{"next":null}', JSON),
    "half a body": HalfBody(),
    "reset": Reset(),
    "silence": Hang(300),
    "429 for a minute": Answer(429, '{"detail":"Request was throttled."}', JSON, {"Retry-After": "60"}),
    "429 without a time": Answer(429, '{"detail":"Request was throttled."}', JSON),
    "moved": Answer(302, "", headers={"Location": "https://example.org/"}),
    "a wrong path": Answer(404, "<html>nothing here</html>", HTML),
}


@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("count", [1, 3], ids=["look-up", "listing"])
async def test_a_request_that_fails_is_tried_later(
    count: int, trouble: Trouble, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """And nothing is written meanwhile."""
    those = await several(medic, rapidpro, count)
    rapidpro.fail(Fault("GET messages", trouble, times=2))
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON, timeout=0.5)):
        await until(lambda: bool(asked_for(rapidpro, "GET messages")))
        for each in those:
            assert states(await medic.get(each.doc_id)) == [RECEIVED]
        for each in those:
            await reaches(medic, each.doc_id, "delivered", hurry=2)
    assert {(await medic.get(each.doc_id))["_rev"][:2] for each in those} == {"2-"}


async def test_one_message_whose_look_up_always_fails_stops_no_other(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """CHT's own gateway asks for it for ever, and for nothing else."""
    those = await several(medic, rapidpro, 6)
    bad = those[2]
    crash = Answer(500, "<html>Server Error</html>", HTML)
    rapidpro.fail(Fault("GET messages", crash, times=None, contains="after="))
    rapidpro.fail(Fault("GET messages", crash, times=None, contains=f"broadcast={bad.broadcast}"))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            for each in those:
                if each != bad:
                    await reaches(medic, each.doc_id, "delivered", hurry=1)
            before = len(questions(rapidpro))
            jump(3600)
            await log.rounds(59)
            assert len(questions(rapidpro)) - before <= 12, "ever more rarely"
            rapidpro.clear_faults()
            jump(3600)
            await reaches(medic, bad.doc_id, "delivered", hurry=30)
    assert not log.named("dependency.refused")


async def test_the_message_that_a_listing_crashes_on_is_narrowed_down(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Each failure halves the listing, so few are asked for one by one."""
    those = [await followed(medic, rapidpro, number) for number in range(60)]
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(1)
            before = len(questions(rapidpro))
            crash_on(rapidpro, rapidpro.messages[20].created_on.isoformat(timespec="milliseconds")[:23])
            for each in those:
                rapidpro.move(each.broadcast, "delivered")
            await log.rounds(40)
            for index, each in enumerate(those):
                if index != 20:
                    await reaches(medic, each.doc_id, "delivered")
    assert len(questions(rapidpro)) - before < 40


def crash_on(rapidpro: RapidPro, moment: str) -> None:
    """RapidPro answers 500 to every listing that begins at or before this moment and ends after it."""
    answer = rapidpro.wire._api.answer

    def answering(request: Any, body: bytes, call: Any) -> Any:
        if call.query.get("after", "~") <= moment <= call.query.get("before", ""):
            return Answer(500, "<html>Server Error</html>", HTML)
        return answer(request, body, call)

    rapidpro.wire._api.answer = answering  # type: ignore[method-assign]


async def test_while_rapidpro_is_ill_it_is_asked_once_a_round(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """When it is well again nobody waits for the backoff of what failed meanwhile, and all are listed as before."""
    those = await several(medic, rapidpro, 200)
    rapidpro.fail(Fault("GET messages", Answer(500, "<html></html>", HTML), times=None))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(30)
            ill = len(asked_for(rapidpro, "GET messages"))
            assert ill <= 40
            rapidpro.clear_faults()
            await log.rounds(3)
            for each in those:
                await reaches(medic, each.doc_id, "delivered")
    assert len(asked_for(rapidpro, "GET messages")) - ill <= 30
    assert len(log.named("poll.failed")) == 1


async def test_a_403_pauses_and_is_told_once(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """The token may send but not read: sending goes on."""
    (one,) = await several(medic, rapidpro, 1)
    refused = Answer(403, '{"detail":"You do not have permission to perform this action."}', JSON)
    rapidpro.fail(Fault("GET messages", refused, times=None))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await until(lambda: bool(log.named("dependency.refused")))
            record = data_record(task(message("new")))
            await medic.put(record)
            await reaches(medic, record["_id"], RECEIVED)
            await log.rounds(5)
            assert len(asked_for(rapidpro, "GET messages")) <= 7, "one a round"
            rapidpro.clear_faults()
            await reaches(medic, one.doc_id, "delivered", hurry=1)
    (told,) = [entry for entry in log.lines if entry["log_level"] == "error"]
    assert (told["event"], told["dependency"]) == ("dependency.refused", "rapidpro messages.json")
    assert "check the token" in told["error"]


async def test_a_429_is_waited_out(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    (one,) = await several(medic, rapidpro, 1)
    throttled = Answer(429, '{"detail":"Request was throttled."}', JSON, {"Retry-After": "1800"})
    rapidpro.fail(Fault("GET messages", throttled))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(25)
            assert len(questions(rapidpro)) == 1
            jump(300)
            await reaches(medic, one.doc_id, "delivered", hurry=1)


async def test_our_own_budget_keeps_us_from_ever_seeing_a_429(gate: Gate, medic: Database) -> None:
    """Forty messages on pages of five, and five requests an hour."""
    clock = lambda: wall_clock() / 1000  # noqa: E731
    async with RapidPro(TOKEN, requests_per_hour=5, page_size=5, clock=clock) as rapidpro:
        those = await several(medic, rapidpro, 40)
        with followed_by_log() as log:
            async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON, requests_per_hour=5)):
                await log.rounds(10)
                assert len(questions(rapidpro)) == 5
                for _ in range(6):
                    jump(3600)
                    await log.rounds(2)
                for each in those:
                    await reaches(medic, each.doc_id, "delivered")
    assert {call.status for call in questions(rapidpro)} == {200}


async def test_where_all_is_counted_in_one_scope_polling_takes_what_sending_leaves(gate: Gate, medic: Database) -> None:
    """Learned from the first 429: from then on a quarter of the hour, and what waits, is kept for sending.

    One of these five is the heartbeat's question.
    """
    clock = lambda: wall_clock() / 1000  # noqa: E731
    async with RapidPro(TOKEN, requests_per_hour=20, one_scope=True, page_size=1, clock=clock) as rapidpro:
        for number in range(60):
            await followed(medic, rapidpro, number)
        with followed_by_log() as log:
            async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON, requests_per_hour=20)):
                first = data_record(task(message("first")))
                await medic.put(first)
                await reaches(medic, first["_id"], RECEIVED)
                await log.rounds(20)
                assert [call.status for call in questions(rapidpro)].count(429) == 1
                learned = len(questions(rapidpro))
                jump(3600)
                await log.rounds(20)
                polled = len(questions(rapidpro)) - learned
                records = [data_record(task(message(str(number)))) for number in range(4)]
                await medic.bulk(records)
                for record in records:
                    await reaches(medic, record["_id"], RECEIVED)
    assert 0 < polled <= 15
    assert 429 not in [call.status for call in list(questions(rapidpro))[learned:]]


async def some_pages(medic: Database, rapidpro: RapidPro) -> list[Followed]:
    """So many followed messages, ten seconds apart, that a listing of them has several pages."""
    those = []
    for number in range(520):
        those.append(await followed(medic, rapidpro, number))
        jump(10)
    return those


@pytest.mark.parametrize("is_lasting", [False, True])
async def test_a_listing_that_breaks_off_with_a_500_begins_again_once(
    is_lasting: bool, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """RapidPro 9.0.0 answers so to a cursor that it cannot read."""
    those = await some_pages(medic, rapidpro)
    for each in those:
        rapidpro.move(each.broadcast, "delivered")
    crash = Answer(500, "<html></html>", HTML)
    rapidpro.fail(Fault("GET messages", crash, times=None if is_lasting else 1, contains="cursor="))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(0)
            first = [("cursor" in call.query, call.status) for call in listings(rapidpro)]
            for each in those:
                await reaches(medic, each.doc_id, "delivered", hurry=1)
    assert first[:3] == [(False, 200), (True, 500), (False, 200)]
    assert first.count((True, 500)) == (2 if is_lasting else 1)
    assert bool(log.named("poll.failed")) == is_lasting


async def test_a_429_without_a_time_lets_one_request_through_ever_more_rarely(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Also where each message is asked for alone."""
    those = await several(medic, rapidpro, 8)
    rapidpro.fail(Fault("GET messages", Answer(500, "", HTML), times=None, contains="after="))
    throttled = Answer(429, '{"detail":"Request was throttled."}', JSON)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=Delivery(interval=2.0))):
            while not any("broadcast" in call.query for call in rapidpro.calls):
                jump(2)
                await asyncio.sleep(0.02)
            rapidpro.clear_faults()
            rapidpro.fail(Fault("GET messages", throttled, times=None))
            before = len(rapidpro.calls)
            for _ in range(90):
                jump(1)
                await asyncio.sleep(0.02)
            asked = [call.time for call in list(rapidpro.calls)[before:]]
            assert 4 <= len(asked) <= 12
            assert asked[-1] - asked[-2] > 2 * (asked[-3] - asked[-4])
            rapidpro.clear_faults()
            for each in those:
                await reaches(medic, each.doc_id, "delivered", hurry=1)
    assert not log.named("dependency.refused")


async def test_a_forgotten_position_begins_the_listing_again(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """The first round learns that all are some pages; a later one loses its place between them."""
    those = await some_pages(medic, rapidpro)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(2)
            for each in those:
                rapidpro.move(each.broadcast, "delivered")
            before = len(listings(rapidpro))
            rapidpro.fail(Fault("GET messages", Answer(404, '{"detail":"Invalid cursor"}', JSON), contains="cursor="))
            jump(600)
            await log.rounds(1)
            for each in those:
                await reaches(medic, each.doc_id, "delivered")
    first, lost, again, following, *_ = listings(rapidpro)[before:]
    assert (lost.status, "cursor" in lost.query) == (404, True)
    assert again.query == first.query
    assert (following.status, "cursor" in following.query) == (200, True)


LOOPS: dict[str, Any] = {
    "the same cursor": ["c1"],
    "cursors in a ring": ["c1", "c2"],
    "new cursors, the same page": [f"c{number}" for number in range(500)],
}


@pytest.mark.parametrize("cursors", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("is_empty", [False, True], ids=["rows", "no rows"])
async def test_paging_without_progress_is_cut(
    cursors: list[str], is_empty: bool, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Its messages are asked for in ever smaller listings, and at last alone."""
    those = await several(medic, rapidpro, 3)
    row = {"id": 1, "direction": "in", "broadcast": None, "created_on": "2036-01-01T00:00:00Z", "status": "handled"}
    for cursor in cursors * (500 // len(cursors)):
        body = {"next": f"http://elsewhere.test/x?cursor={cursor}", "results": [] if is_empty else [row]}
        rapidpro.fail(Fault("GET messages", Answer(200, json.dumps(body), JSON), contains="after="))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            for each in those:
                await reaches(medic, each.doc_id, "delivered", hurry=1)
    assert len(listings(rapidpro)) < 10
    assert log.named("poll.failed")[0]["why"].startswith("RapidPro")


async def test_the_host_of_next_is_never_followed(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """What a proxy makes of the Host header must not get our token."""
    those = await some_pages(medic, rapidpro)
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(2)
            for each in those:
                rapidpro.move(each.broadcast, "delivered")
            created = rapidpro.messages[-1].created_on.isoformat()
            row = {"direction": "out", "broadcast": None, "created_on": created, "status": "sent"}
            body = {"next": "http://elsewhere.test:1/api/v2/messages.json?cursor=abc", "results": [row]}
            rapidpro.fail(Fault("GET messages", Answer(200, json.dumps(body), JSON), contains="after="))
            jump(600)
            await log.rounds(1)
            for each in those:
                await reaches(medic, each.doc_id, "delivered", hurry=1)
    assert any(call.query.get("cursor") == "abc" for call in questions(rapidpro)), "it went on here"


async def test_rows_that_are_not_ours_and_rows_that_are_none_do_no_harm(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    first = await several(medic, rapidpro, 2)
    rapidpro.receive("tel:+254712345001", "an answer")
    rapidpro.receive("tel:+254712345002", "another", flow="Reports")
    rapidpro.create_broadcast(["tel:+254712345009"], "somebody else's")
    those = [*first, *await several(medic, rapidpro, 2)]
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        for each in those:
            await reaches(medic, each.doc_id, "delivered")
    assert len(listings(rapidpro)) == 1


async def test_an_anonymous_workspace_hides_the_numbers(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """One recipient a broadcast: the id is enough."""
    rapidpro.anonymous = True
    those = await several(medic, rapidpro, 5)
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        for each in those:
            await reaches(medic, each.doc_id, "delivered")


async def test_broadcast_is_never_asked_for_without_an_id(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """An empty one lists all messages, a word is a crash."""
    now = datetime.fromtimestamp(wall_clock() / 1000, UTC)
    refs: list[object] = ["", "x", None, 0, "0", "-1", "1.0", "ATXid_1", True, [], {}]
    odd = [task(message("hello"), state="sent", gateway_ref=ref, at=now) for ref in refs]
    await medic.put(data_record(*odd))
    those = await several(medic, rapidpro, 2)
    rapidpro.fail(Fault("GET messages", Answer(500, "", HTML), times=None, contains="after="))
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        for each in those:
            await reaches(medic, each.doc_id, "delivered", hurry=1)
    asked = {call.query["broadcast"] for call in asked_for(rapidpro, "GET messages") if "broadcast" in call.query}
    assert asked == {str(each.broadcast) for each in those}


async def several(medic: Database, rapidpro: RapidPro, count: int) -> list[Followed]:
    """Messages that are delivered already, as their tasks will find out."""
    those = [await followed(medic, rapidpro, number) for number in range(count)]
    for each in those:
        rapidpro.move(each.broadcast, "delivered")
    return those

"""One document, one answer, one setting that nothing can be made of: it is named, and all else goes on."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from cht_rapidpro.domain.claim import Instance
from demo.database import Database
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Fault, RapidPro, Reset
from tests.conftest import TOKEN
from tests.support.daemon import claimed, configure, passes, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

ME = Instance("1" * 32, "me")
RECEIVED = "received-by-gateway"
MARK = 1234567890123


def errors(logs: Any, doc_id: str) -> list[Any]:
    return [entry for entry in logs if entry["log_level"] == "error" and entry.get("doc") == doc_id]


def _hurry() -> bool:
    jump(0.1)
    return True


async def _others_go_on(gate: Gate, medic: Database, rapidpro: RapidPro, bad_id: str) -> None:
    """The bad document is the oldest; a good one that comes in later is sent, the bad one is named once."""
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN, sweep_interval=1.0)):
            await until(lambda: _hurry() and bool(errors(logs, bad_id)))
            good = data_record(task(message("good")))
            await medic.put(good)
            await reaches(medic, good["_id"], RECEIVED, hurry=0.2)
            await passes(3 * 3600, 600)
    assert len(errors(logs, bad_id)) == 1, "it is tried every hour, and said once"
    assert [made.text for made in rapidpro.broadcasts] == ["good"]


async def test_a_document_that_couchdb_cannot_read(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    bad = data_record(task(message("bad")))

    async def fails(name: str, body: bytes) -> web.Response | None:
        if name == "POST _all_docs" and bad["_id"].encode() in body:
            return web.json_response({"error": "file_corruption", "reason": "file corruption"}, status=500)
        return None

    gate.replies = fails
    await medic.bulk([bad, *(data_record(task(message("other"), state="sent")) for _ in range(5))])
    await _others_go_on(gate, medic, rapidpro, bad["_id"])


@pytest.mark.parametrize("whole", [False, True])
async def test_a_document_that_couchdb_cannot_write(
    whole: bool, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Its row has an error that is no verdict; or CouchDB fails at each request with it."""
    bad = data_record(task(message("bad")))

    async def fails(name: str, body: bytes) -> web.Response | None:
        if name != "POST _bulk_docs" or bad["_id"].encode() not in body:
            return None
        if whole:
            return web.json_response({"error": "internal_server_error", "reason": "x"}, status=500)
        docs = json.loads(body)["docs"]
        rows = {row["id"]: row for row in await medic.bulk([doc for doc in docs if doc["_id"] != bad["_id"]])}
        fault = {"id": bad["_id"], "error": "internal_server_error", "reason": "x"}
        return web.json_response([rows.get(doc["_id"], fault) for doc in docs], status=201)

    gate.replies = fails
    await medic.put(bad)
    await _others_go_on(gate, medic, rapidpro, bad["_id"])


@pytest.mark.parametrize(
    "value",
    [b'"half \\ud83d an emoji"', b"1" + b"0" * 5000, b"1e999", b"[" * 3000 + b"]" * 3000],
    ids=["emoji", "digits", "exponent", "levels"],
)
async def test_a_document_that_no_decoder_takes(value: bytes, gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    bad = data_record(task(message("bad")), mark=MARK)

    def rewrite(name: str, response: web.Response) -> web.Response:
        if name in ("POST _changes", "POST _all_docs") and isinstance(response.body, bytes):
            response.body = response.body.replace(str(MARK).encode(), value)
        return response

    gate.rewrites = rewrite
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN, sweep_interval=1.0)):
            await until(lambda: "POST _changes" in gate.requests)
            await medic.put(bad)
            good = data_record(task(message("good")))
            await medic.put(good)
            await reaches(medic, good["_id"], RECEIVED, hurry=0.1)
            await until(lambda: _hurry() and bool(errors(logs, bad["_id"])))
    assert [made.text for made in rapidpro.broadcasts] == ["good"]


@pytest.mark.parametrize("due", [b"-1" + b"0" * 400, b"1" + b"0" * 400, b"8640000000000001", b"-253402300800000"])
async def test_a_task_that_is_due_at_no_time_of_this_world(
    due: bytes, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """CouchDB keeps integers of any size; the stand-in does not, so the digits are put in on the way."""

    def rewrite(name: str, response: web.Response) -> web.Response:
        if name in ("POST _changes", "POST _all_docs") and isinstance(response.body, bytes):
            response.body = response.body.replace(str(MARK).encode(), due)
        return response

    async def stored(name: str, body: bytes) -> web.Response | None:
        if name == "POST _bulk_docs" and due in body:
            docs = json.loads(body.replace(due, str(MARK).encode()))["docs"]
            return web.json_response(await medic.bulk(docs), status=201)
        return None

    gate.rewrites, gate.replies = rewrite, stored
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        await until(lambda: "POST _changes" in gate.requests)
        record = data_record({**task(message("hello")), "due": MARK})
        await medic.put(record)
        await reaches(medic, record["_id"], RECEIVED)
    assert len(rapidpro.broadcasts) == 1


ODD_ANSWERS = {
    "no rows": "[]",
    "a row more": '[{"ok":true},{"ok":true},{"ok":true}]',
    "numbers": "[1]",
    "odd rev": '[{"rev":7}]',
}


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("answer", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
async def test_an_odd_answer_to_a_write_is_no_answer(
    answer: str, is_stored: bool, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Only a claim that CouchDB is known to have is one."""
    record = data_record(task(message("hello")))
    await medic.put(record)
    odd = [answer]

    async def replies(name: str, body: bytes) -> web.Response | None:
        if name != "POST _bulk_docs" or not odd:
            return None
        if is_stored:
            await medic.bulk(json.loads(body)["docs"])
        return web.Response(text=odd.pop(), status=201)

    gate.replies = replies
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0)
    async with running(config, ME):
        doc = await reaches(medic, record["_id"], RECEIVED, hurry=0.2)
    assert len(rapidpro.broadcasts) == 1
    past = [entry["state"] for entry in doc["tasks"][0]["state_history"]]
    assert past == ["pending", "forwarded-to-gateway", RECEIVED]


@pytest.mark.parametrize("date", ["Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "x", "1" * 400])
async def test_an_absurd_date_of_rapidpro_ends_nothing(
    date: str, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("hello")))
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "{}", headers={"Date": date})))
    rapidpro.fail(Fault("any", Answer(200, '{"results":[],"next":null}', headers={"Date": date}), times=3))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0), ME):
        await reaches(medic, record["_id"], RECEIVED, hurry=0.5)
    assert len(rapidpro.broadcasts) == 1


async def test_a_version_of_thousands_of_digits_ends_nothing(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    def absurd(doc: Any) -> Any:
        return {**doc, "build_info": {"version": "1" * 5000 + ".2.3"}}

    await medic.edit("_design/medic", absurd)
    record = data_record(task(message("hello")))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN), ME):
        await reaches(medic, record["_id"], RECEIVED)


async def test_an_undecidable_message_costs_one_page_a_look_and_holds_up_no_other(gate: Gate, medic: Database) -> None:
    """Its window is bounded on both sides, whatever RapidPro has sent since."""
    async with RapidPro(TOKEN, clock=lambda: wall_clock() / 1000) as rapidpro:
        rapidpro.anonymous = True
        await medic.bulk([data_record(claimed(ME, "same", ago=5)), data_record(claimed(ME, "same", ago=5))])
        rapidpro.create_broadcast(["tel:+254712345678"], "same")
        looks = []
        async with running(configure(gate, medic, rapidpro, TOKEN, timeout=5.0, settle_time=10.0), ME):
            for _ in range(4):
                before = _listings(rapidpro)
                await passes(1800, 200)
                await asyncio.sleep(0.3)
                looks.append(_listings(rapidpro) - before)
                for _ in range(1000):
                    rapidpro.create_broadcast(["tel:+254700000001"], "other")
            good = data_record(task(message("good")))
            await medic.put(good)
            await reaches(medic, good["_id"], RECEIVED)
    assert max(looks[1:]) <= 4, looks
    assert sum(looks[2:]) <= 4, "and ever more rarely"


async def test_an_undecidable_message_is_looked_up_ever_more_rarely(gate: Gate, medic: Database) -> None:
    async with RapidPro(TOKEN, clock=lambda: wall_clock() / 1000) as rapidpro:
        rapidpro.anonymous = True
        await medic.bulk([data_record(claimed(ME, "same", ago=5)), data_record(claimed(ME, "same", ago=5))])
        rapidpro.create_broadcast(["tel:+254712345678"], "same")
        async with running(configure(gate, medic, rapidpro, TOKEN, timeout=5.0, settle_time=10.0), ME):
            await until(lambda: _listings(rapidpro) == 1)
            for pause in (600, 1200, 2400, 4800):
                looks = _listings(rapidpro)
                await asyncio.sleep(1)  # real seconds, in which it may look too early
                jump(pause - 60)
                await asyncio.sleep(1)
                assert _listings(rapidpro) == looks, f"before {pause} s"
                await _looks_again(rapidpro, looks)


async def _looks_again(rapidpro: RapidPro, looks: int) -> None:
    def does() -> bool:
        jump(1)
        return _listings(rapidpro) > looks

    await until(does)


def _listings(rapidpro: RapidPro) -> int:
    return sum(call.target == "GET broadcasts" for call in rapidpro.calls)


async def test_a_429_on_the_look_up_is_obeyed(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record = data_record(task(message("hello")))
    rapidpro.fail(Fault("POST broadcasts", Reset(), after=True))
    rapidpro.fail(Fault("GET broadcasts", Answer(429, "{}", headers={"Retry-After": "600"})))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0), ME):
        await until(lambda: _hurry() and _listings(rapidpro) == 1)
        await passes(500, 20)
        assert _listings(rapidpro) == 1
        await reaches(medic, record["_id"], RECEIVED, hurry=5)
    assert len(rapidpro.broadcasts) == 1


async def test_cursors_that_go_round_end_at_once(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    record = data_record(task(message("hello")))
    rapidpro.fail(Fault("POST broadcasts", Reset(), after=True))
    for number in range(6):
        page = json.dumps({"results": [], "next": f"{rapidpro.url}/api/v2/broadcasts.json?cursor={'ab'[number % 2]}"})
        rapidpro.fail(Fault("GET broadcasts", Answer(200, page)))
    await medic.put(record)
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0), ME):
            await until(lambda: _hurry() and any(entry["event"] == "listing.failed" for entry in logs))
            assert _listings(rapidpro) == 3
            await reaches(medic, record["_id"], RECEIVED, hurry=5)
    assert len(rapidpro.broadcasts) == 1


async def test_two_daemons_and_a_task_of_several_with_an_equal_message(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """The other daemon's old claim covers three messages; a broadcast of one of them is known to nobody else."""
    other = Instance("2" * 32, "other")
    several = claimed(other, "same", ago=3600)
    several["messages"] += [message("second"), message("third")]
    theirs, ours = data_record(several), data_record(claimed(ME, "same", ago=1800))
    rapidpro.create_broadcast(["tel:+254712345678"], "same")
    await medic.bulk([theirs, ours])

    async def settled() -> bool:
        return [states(await medic.get(doc["_id"])) for doc in (theirs, ours)] == [[RECEIVED], [RECEIVED]]

    async with running(configure(gate, medic, rapidpro, TOKEN, sweep_interval=5.0), ME):
        for _ in range(90):  # until it has looked when the broadcast is old enough, and the other's claim is not
            jump(6)
            await asyncio.sleep(0.2)
            if _listings(rapidpro) >= 2:
                break
        await asyncio.sleep(1)
        assert states(await medic.get(ours["_id"])) == ["forwarded-to-gateway"], "it cannot be told whose it is"
        assert await passes(3600, 25, settled)
    assert sorted(made.text for made in rapidpro.broadcasts) == ["same", "same", "second", "third"]

"""One message, one document: whatever CouchDB does, whoever brings it, and in whatever order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.spool.file import Counts, SpoolFile
from cht_rapidpro.adapters.spool.spool import Spool
from cht_rapidpro.config.schema import Cht, Couchdb, Rapidpro
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.incoming import DAY, AlreadyStored, InboundMessage, Saved, Spooled, Stored, doc_id, former_id
from cht_rapidpro.jobs.incoming.receiver import Incoming, Unavailable
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.telemetry.metrics import Metrics
from demo.database import Database, Doc
from demo.medic import SETTINGS
from demo.rapidpro import RapidPro
from demo.rapidpro.records import uuid7
from tests.conftest import TOKEN
from tests.support.daemon import configure
from tests.support.fault_proxy import Gate, until
from tests.support.stub_server import Raw, Reply, Request, couchdb_at, scripted
from tests.support.virtual_time import jump
from tests.support.webhook import SENDER, receiving, records, section, texts

AT = 1_795_334_400_000  # 08:00 UTC
RUN = "0192aaaa-0000-7000-8000-00000000000f"


@asynccontextmanager
async def incoming(
    gate: Gate | Couchdb, medic: Database | None, spool: Path, *, settle: bool = True, **keys: Any
) -> AsyncIterator[Incoming]:
    """The job on a CouchDB; `settle`: once it has the settings."""
    if isinstance(gate, Gate):
        assert medic is not None
        config = Couchdb(url=gate.url, database=medic.name, user=gate.user, password=Secret(gate.password))
    else:
        config = gate
    async with Couch(config) as couch, Spool(spool) as file:
        watch = SettingsWatch(couch, Cht(), Rapidpro())
        job = Incoming(couch, file, watch, Metrics(), **{"max_waiting": 1000, "check_legacy_ids": False, **keys})
        tasks = [asyncio.create_task(watch.run()), asyncio.create_task(job.run())]
        try:
            if settle:
                await until(lambda: watch.settings is not None)
            yield job
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite3"


def arrival(given: str | int, content: str = "hello", sender: str | int = SENDER, at: int = AT) -> InboundMessage:
    return InboundMessage(given, sender, content, at)


async def counts(spool: Path) -> Counts:
    def count() -> Counts:
        file = SpoolFile(spool)
        found = file.counts()
        file.close()
        return found

    return await asyncio.to_thread(count)


async def drained(spool: Path) -> None:
    async def is_empty() -> bool:
        jump(1)
        return (await counts(spool)).waiting == 0

    await until(is_empty)


async def test_a_message_becomes_the_record_that_cht_would_have_written(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    async with receiving(configure(gate, medic, rapidpro, TOKEN, incoming=section())) as flow:
        await until(lambda: "POST _all_docs" in gate.requests)
        assert (await flow.post(RUN.upper(), "PREG Amina 12", 254712345678)).body == {"saved": 1}
        await until(lambda: _stored(medic))
    [doc] = await records(medic)
    assert doc["_id"] == RUN
    assert doc["type"] == "data_record"
    sms = doc["sms_message"]
    assert (sms["message"], sms["gateway_ref"]) == ("PREG Amina 12", RUN.upper())


async def _stored(medic: Database) -> bool:
    return bool(await records(medic))


async def test_ten_simultaneous_posts_of_one_id_are_one_document(gate: Gate, medic: Database, spool: Path) -> None:
    async with incoming(gate, medic, spool) as job:
        stored = await asyncio.gather(*(job.store(arrival(41 if number % 2 else "41")) for number in range(10)))
    assert sorted(map(str, stored)) == sorted(map(str, [Saved()] + [AlreadyStored()] * 9))
    assert await texts(medic) == ["hello"]


MIDNIGHT = AT - AT % DAY + DAY


async def test_ten_equal_posts_around_midnight_to_two_daemons_are_one_document(
    gate: Gate, medic: Database, tmp_path: Path
) -> None:
    """Each daemon takes its own day, has looked under the other one, and found nothing there."""
    both = asyncio.Event()

    async def wait_for_both() -> None:
        if gate.requests.count("POST _bulk_docs") == 2:
            both.set()
        await both.wait()

    async with (
        incoming(gate, medic, tmp_path / "one.sqlite3") as one,
        incoming(gate, medic, tmp_path / "other.sqlite3") as other,
    ):
        gate.before("POST _bulk_docs", wait_for_both, times=2)
        posts = [(one, -1), (other, 0), (one, 1), (other, -2), (one, 0), (other, 1), *[(one, -1), (other, 0)] * 2]
        stored = await asyncio.gather(*(job.store(arrival("a", at=MIDNIGHT + ms)) for job, ms in posts))
        assert Spooled() not in stored
        [doc] = await records(medic)
        assert doc["_id"] == doc_id("a", MIDNIGHT - 1), "the earlier one"
        assert await one.store(arrival("a", at=MIDNIGHT + 5000)) == AlreadyStored()
        assert len(await records(medic)) == 1


async def test_posts_of_one_batch_on_both_sides_of_midnight_are_one_document(
    gate: Gate, medic: Database, spool: Path
) -> None:
    async with incoming(gate, medic, spool) as job:
        posts = [job.store(arrival("a", at=MIDNIGHT - 5 + number)) for number in range(10)]
        assert sorted(map(str, await asyncio.gather(*posts))) == sorted(map(str, [Saved()] + [AlreadyStored()] * 9))
    assert await texts(medic) == ["hello"]


@pytest.mark.parametrize("given", ["a", 41, str(uuid4())], ids=["text", "number", "version 4"])
async def test_a_repetition_on_another_day_is_known(gate: Gate, medic: Database, spool: Path, given: str | int) -> None:
    """By a webhook; and by the spool, which may bring the first one last."""
    async with incoming(gate, medic, spool) as job:
        assert await job.store(arrival(given)) == Saved()
        for days in (0, 1, 3, 7):
            assert await job.store(arrival(given, at=AT + days * DAY)) == AlreadyStored()
        async with Spool(spool) as file:
            await file.put([arrival(given, at=AT - 2 * DAY)])
        await drained(spool)
    assert [doc["_id"] for doc in await records(medic)] == [doc_id(given, AT)]


async def test_three_people_under_one_id_are_three_documents(gate: Gate, medic: Database, spool: Path) -> None:
    senders = [f"+25471234567{number}" for number in range(3)]
    async with incoming(gate, medic, spool) as job:
        for given in ("same", RUN):
            assert [await job.store(arrival(given, "YES", sender)) for sender in senders] == [Saved()] * 3
            assert [await job.store(arrival(given, "YES", sender)) for sender in senders] == [AlreadyStored()] * 3
    assert sorted(doc["from"] for doc in await records(medic)) == sorted(senders * 2)


async def test_a_flow_that_sends_one_id_for_everyone_is_named_once(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """In the log and in the status, by which the page and `check` know it."""
    with capture_logs() as logs:
        async with receiving(configure(gate, medic, rapidpro, TOKEN, incoming=section())) as flow:
            for number in range(4):
                assert (await flow.post("41", "YES", f"+25471234567{number}")).saved == 1
            assert (await flow.post(uuid7(1), "one")).saved == (await flow.post(uuid7(1), "two")).saved == 1
            assert (await flow.post("my text", "my text")).saved == 1
            assert (await flow.post("a", "x", "@urns.tel")).saved == 1
    told = [(entry["field"], entry["sends"]) for entry in logs if entry["event"] == "incoming.miswired"]
    assert sorted(told) == [
        ("from", "@urns.tel, which RapidPro has not evaluated"),
        ("id", "one id for several senders"),
    ]
    assert "my text" not in str(logs)
    assert len(await records(medic)) == 8


async def test_a_number_as_content_is_stored_as_one(gate: Gate, medic: Database, spool: Path) -> None:
    """As CHT does it; on its way through the spool, too."""
    async with incoming(gate, medic, spool) as job:
        assert await job.store(InboundMessage("a", SENDER, 12.5, AT)) == Saved()
        gate.is_closed = True
        assert await job.store(InboundMessage("b", SENDER, 7, AT)) == Spooled()
        gate.is_closed = False
        await drained(spool)
    assert sorted(doc["sms_message"]["message"] for doc in await records(medic)) == [7, 12.5]
    assert [doc["fields"] for doc in await records(medic)] == [{}, {}]


async def test_a_proxys_400_before_couchdb_parks_no_message(spool: Path) -> None:
    """It is spooled and stored as soon as CouchDB itself answers again."""
    working = couchdb_that_forbids()
    broken = [True]

    async def script(request: Request) -> Reply | Raw:
        if broken[0] and request.name == "POST _bulk_docs":
            return Reply(b"<html>Bad Request</html>", 400, content_type="text/html")
        answer: Reply | Raw = await working(request)
        return answer

    async with scripted(script) as server, incoming(couchdb_at(server), None, spool) as job:
        assert await job.store(arrival(RUN)) == Spooled()
        assert await counts(spool) == Counts(waiting=1, rejected=0)
        broken[0] = False
        await drained(spool)
        assert await counts(spool) == Counts(0, 0)


async def test_a_deleted_record_hides_no_other_message_with_its_id(gate: Gate, medic: Database, spool: Path) -> None:
    """The flow sends one id for everyone, and somebody has deleted the first one's record."""
    async with incoming(gate, medic, spool) as job:
        assert await job.store(arrival("same", "one")) == Saved()
        await medic.delete(doc_id("same", AT))
        assert await job.store(arrival("same", "two")) == Saved()
    assert await texts(medic) == ["two"]


async def test_cht_meets_the_registrations_in_the_order_in_which_they_came(
    gate: Gate, medic: Database, spool: Path
) -> None:
    """CHT replies by the first row of such a view; the rows of one key are in the order of the ids."""
    index = "function (doc) { if (doc.form === 'PREG') emit(doc.fields.patient_name, doc.reported_date); }"
    await medic.put({"_id": "_design/registrations", "views": {"by_name": {"map": index}}})
    await medic.put(
        {"_id": "5f1b0c52-88ff-45b7-9c85-27e5e8a3ee8c", "form": "PREG", "fields": {"patient_name": "Amina"}}
    )
    days: dict[str | int, int] = {
        "f" * 8 + "-1b0c-45b7-9c85-27e5e8a3ee8c": 0,
        "0" * 8 + "-1b0c-45b7-9c85-27e5e8a3ee8c": 1,
        99: 2,
        "z": 3,
    }
    async with incoming(gate, medic, spool) as job:
        for given, day in reversed(list(days.items())):
            assert await job.store(arrival(given, "PREG Amina 12", at=AT + day * DAY)) == Saved()
        ordered = uuid7((AT + DAY) / 1000 + 3600)
        assert await job.store(arrival(ordered, "PREG Amina 12", at=AT + DAY + 3_600_000)) == Saved()
    rows = await medic.view("registrations", "by_name", key="Amina")
    dates = [row["value"] for row in rows]
    assert dates[:-1] == [AT, AT + DAY, AT + DAY + 3_600_000, AT + 2 * DAY, AT + 3 * DAY]


async def test_a_record_of_an_earlier_version_counts_as_stored(gate: Gate, medic: Database, spool: Path) -> None:
    for given in ("a", RUN):
        sms = {"message": "hello", "from": SENDER, "gateway_ref": given}
        await medic.put({"_id": former_id(given), "type": "data_record", "sms_message": sms})
    async with Spool(spool) as file:
        await file.put([arrival("a"), arrival(RUN)])
    async with incoming(gate, medic, spool):
        await drained(spool)
    assert {doc["_id"] for doc in await records(medic)} == {former_id("a"), former_id(RUN)}


async def test_at_midnight_a_batch_is_looked_up_at_once(gate: Gate, medic: Database, spool: Path) -> None:
    """Before and after the write, however many messages it has."""
    async with incoming(gate, medic, spool) as job:
        gate.requests.clear()
        await asyncio.gather(*(job.store(arrival(f"id-{number}", at=MIDNIGHT)) for number in range(50)))
        assert gate.requests == ["POST _all_docs", "POST _bulk_docs", "POST _all_docs"]


async def test_time_ordered_ids_cost_no_look_up(gate: Gate, medic: Database, spool: Path) -> None:
    async with incoming(gate, medic, spool) as job:
        gate.requests.clear()
        await job.store(arrival(RUN, at=MIDNIGHT))
        assert gate.requests == ["POST _bulk_docs"]


async def test_a_repetition_is_known_also_when_its_number_is_written_otherwise(
    gate: Gate, medic: Database, spool: Path
) -> None:
    async with incoming(gate, medic, spool) as job:
        assert await job.store(arrival("a")) == Saved()
        revision = (await medic.get(doc_id("a", AT)))["_rev"]
        assert await job.store(arrival("a", sender=254712345678)) == AlreadyStored()
    assert (await medic.get(doc_id("a", AT)))["_rev"] == revision


async def test_another_message_under_a_used_id_is_stored_under_a_second_one(
    gate: Gate, medic: Database, spool: Path
) -> None:
    """A flow that waits sends one run.uuid for each input; together or one after the other."""
    with capture_logs() as logs:
        async with incoming(gate, medic, spool) as job:
            together = [job.store(arrival(RUN, text)) for text in ("one", "two", "one", "three")]
            assert await asyncio.gather(*together) == [Saved(), Saved(), AlreadyStored(), Saved()]
            assert await job.store(arrival(RUN, "four")) == Saved()
            assert await job.store(arrival(RUN, "four")) == AlreadyStored()
            assert await job.store(arrival(RUN, "one", "+254799999999")) == Saved()
    assert sorted(await texts(medic)) == ["four", "one", "one", "three", "two"]
    reused = [entry["log_level"] for entry in logs if entry["event"] == "incoming.id_reused"]
    assert set(reused) == {"warning"}


async def test_messages_that_arrive_during_a_write_go_with_the_next(gate: Gate, medic: Database, spool: Path) -> None:
    async with incoming(gate, medic, spool) as job:
        gate.requests.clear()
        others = [job.store(arrival(uuid7(number))) for number in range(99)]
        waiting: list[asyncio.Task[Stored]] = []

        async def arrive() -> None:
            waiting.extend(map(asyncio.create_task, others))
            await asyncio.sleep(0)

        gate.before("POST _bulk_docs", arrive)
        await job.store(arrival(RUN))
        await asyncio.gather(*waiting)
    assert gate.requests == ["POST _bulk_docs"] * 2, "and nothing is looked up"
    assert len(await records(medic)) == 100


async def test_a_lost_answer_is_read_again(gate: Gate, medic: Database, spool: Path) -> None:
    async with incoming(gate, medic, spool) as job:
        gate.loses_answers = True
        assert await job.store(arrival("a")) == Spooled()
        assert await texts(medic) == ["hello"], "it had taken effect"
        revision = (await medic.get(doc_id("a", AT)))["_rev"]
        gate.loses_answers = False
        await drained(spool)
        assert await job.store(arrival("a")) == AlreadyStored()
    assert (await medic.get(doc_id("a", AT)))["_rev"] == revision


async def test_couchdb_away_and_back(gate: Gate, medic: Database, spool: Path) -> None:
    ids = [uuid7(number) for number in range(5)]
    with capture_logs() as logs:
        async with incoming(gate, medic, spool) as job:
            gate.is_closed = True
            for number in range(5):
                assert await job.store(arrival(ids[number], f"text {number}")) == Spooled()
            asked = gate.requests.count("POST _bulk_docs")
            assert asked == 1, "only the first has waited for CouchDB"
            await until(lambda: job.spooled.waiting == 5)
            assert await job.store(arrival(ids[0], "text 0")) == Spooled()
            gate.is_closed = False
            await drained(spool)
            await until(lambda: any(entry["event"] == "incoming.spooling_ended" for entry in logs))
            assert await job.store(arrival(9)) == Saved()
    assert sorted(await texts(medic)) == ["hello", *(f"text {number}" for number in range(5))]
    for event in ("incoming.spooling_started", "incoming.spooling_ended"):
        assert [entry["log_level"] for entry in logs if entry["event"] == event] == ["warning"]
    stored = [entry["doc"] for entry in logs if entry["event"] == "incoming.stored"]
    assert stored[:5] == ids, "in the order in which they came"


async def test_a_couchdb_that_says_nothing_is_not_waited_for(gate: Gate, medic: Database, spool: Path) -> None:
    silence = asyncio.Event()

    async def hold() -> None:
        await silence.wait()

    async with incoming(gate, medic, spool) as job:
        gate.before("POST _bulk_docs", hold)
        posting = asyncio.create_task(job.store(arrival("a")))
        await until(lambda: "POST _bulk_docs" in gate.requests)
        behind = asyncio.create_task(job.store(arrival("b")))
        await asyncio.sleep(0)
        jump(5)
        assert [await posting, await behind] == [Spooled(), Spooled()]
        await drained(spool)
        silence.set()
    assert len(await records(medic)) == 2


async def test_before_the_settings_were_read_all_is_spooled_and_built_afterwards(
    gate: Gate, medic: Database, spool: Path
) -> None:
    await medic.delete("settings")
    async with incoming(gate, medic, spool, settle=False) as job:
        await until(lambda: "POST _all_docs" in gate.requests)
        assert await job.store(arrival("a", "PREG Amina 12")) == Spooled()
        jump(30)
        assert await records(medic) == []
    await medic.put({"_id": "settings", "settings": SETTINGS})
    async with incoming(gate, medic, spool):
        await drained(spool)
    [doc] = await records(medic)
    assert doc["reported_date"] == AT


async def test_a_record_deleted_while_its_message_is_spooled_stays_deleted(
    gate: Gate, medic: Database, spool: Path
) -> None:
    async with incoming(gate, medic, spool) as job:
        gate.loses_answers = True
        assert await job.store(arrival("a")) == Spooled()
        await medic.delete(doc_id("a", AT))
        gate.loses_answers = False
        await drained(spool)
    assert await records(medic) == []


async def test_ids_of_the_built_in_gateway_count_as_stored(gate: Gate, medic: Database, spool: Path) -> None:
    old: list[Doc] = [
        {
            "_id": f"old-{ref}",
            "type": "data_record",
            "sms_message": {"message": "hello", "from": SENDER, "gateway_ref": ref},
        }
        for ref in ("41", 42, RUN)
    ]
    outgoing: Doc = {"_id": "out", "type": "data_record", "tasks": [{"gateway_ref": "43", "messages": [{"uuid": "x"}]}]}
    await medic.bulk([*old, outgoing])
    await medic.view("medic-sms", "messages_by_gateway_ref", limit=1)
    async with incoming(gate, medic, spool, check_legacy_ids=True) as job:
        for known in (41, "42", RUN):
            assert await job.store(arrival(known)) == AlreadyStored()
        assert await job.store(arrival("43")) == Saved(), "a broadcast of that id is none of its business"
        assert await job.store(arrival("41", "another text")) == Saved()
    async with incoming(gate, medic, spool) as job:
        assert await job.store(arrival("42")) == Saved(), "it is only looked for when asked to"


async def test_too_many_that_wait_are_refused(gate: Gate, medic: Database, spool: Path) -> None:
    hold = asyncio.Event()

    async def wait() -> None:
        await hold.wait()

    async with incoming(gate, medic, spool, max_waiting=3) as job:
        gate.before("POST _bulk_docs", wait)
        in_flight = asyncio.create_task(job.store(arrival("a")))
        await until(lambda: "POST _bulk_docs" in gate.requests)
        waiting = [asyncio.create_task(job.store(arrival(f"b-{number}"))) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as caught:
            await job.store(arrival("c"))
        assert caught.value.retry_after == 5
        hold.set()
        assert set(await asyncio.gather(in_flight, *waiting)) == {Saved()}


async def test_neither_couchdb_nor_the_disk(gate: Gate, medic: Database, spool: Path) -> None:
    away = spool.parent / "away" / "spool.sqlite3"
    with capture_logs() as logs:
        async with incoming(gate, medic, away) as job:
            gate.is_closed = True
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await job.store(arrival("a"))
            gate.is_closed = False
            assert await job.store(arrival("a")) == Saved(), "CouchDB alone is enough"
            assert await job.store(arrival("b")) == Saved()
    assert [entry["log_level"] for entry in logs if entry.get("dependency") == "spool"] == ["error"]


async def test_a_caller_that_waits_when_the_job_ends_gets_an_error(gate: Gate, medic: Database, spool: Path) -> None:
    hold = asyncio.Event()

    async def wait() -> None:
        await hold.wait()

    async with incoming(gate, medic, spool) as job:
        gate.before("POST _bulk_docs", wait)
        waiting = [asyncio.create_task(job.store(arrival("a")))]
        await until(lambda: "POST _bulk_docs" in gate.requests)
        waiting.append(asyncio.create_task(job.store(arrival("b"))))
        await asyncio.sleep(0)
    hold.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]


def couchdb_that_forbids(*texts: str, status: int = 0) -> Any:
    """A CouchDB that takes all but these: in the row, or the whole request by `status`."""
    stored: dict[str, Doc] = {}

    async def script(request: Request) -> Reply | Raw:
        match request.name:
            case "GET _all_docs":
                return Reply({"total_rows": 0, "offset": 0, "rows": []})
            case "POST _all_docs":
                found: Doc = {"settings": {"_id": "settings", "settings": SETTINGS}, **stored}
                keys = request.json["keys"]
                return Reply(
                    {
                        "total_rows": 0,
                        "offset": 0,
                        "rows": [
                            {"id": key, "doc": found[key]} if key in found else {"key": key, "error": "not_found"}
                            for key in keys
                        ],
                    }
                )
            case _:
                docs = request.json["docs"]
                bad = [doc["_id"] for doc in docs if doc["sms_message"]["message"] in texts]
                if bad and status:
                    return Reply({"error": "bad_request", "reason": "secret"}, status)
                rows = [
                    {"id": doc["_id"], "error": "forbidden", "reason": "no"}
                    if doc["_id"] in bad
                    else {"ok": True, "id": doc["_id"], "rev": "1-a"}
                    for doc in docs
                ]
                stored.update({doc["_id"]: doc for doc in docs if doc["_id"] not in bad})
                return Reply(rows, 201)

    return script


@pytest.mark.parametrize("status", [0, 400, 413])
async def test_a_row_that_couchdb_refuses_is_kept_and_does_not_fail_its_neighbours(spool: Path, status: int) -> None:
    with capture_logs() as logs:
        async with (
            scripted(couchdb_that_forbids("bad", status=status)) as server,
            incoming(couchdb_at(server), None, spool) as job,
        ):
            sent = [arrival(f"id-{number}", "bad" if number == 3 else "good") for number in range(7)]
            stored = await asyncio.gather(*map(job.store, sent))
        assert stored == [Spooled() if each.content == "bad" else Saved() for each in sent]
        assert await counts(spool) == Counts(waiting=0, rejected=1)
        async with (
            scripted(couchdb_that_forbids("bad", status=status)) as server,
            incoming(couchdb_at(server), None, spool),
        ):
            await until(lambda: any(entry["event"] == "spool.opened" for entry in logs))
    [told] = [entry for entry in logs if entry["event"] == "incoming.rejected"]
    assert (told["log_level"], told["doc"]) == ("error", doc_id("id-3", AT))
    [opened] = [entry for entry in logs if entry["event"] == "spool.opened"]
    assert (opened["log_level"], opened["rejected"]) == ("error", 1)


async def test_a_spooled_row_that_couchdb_refuses_goes_aside_and_comes_back_when_asked(spool: Path) -> None:
    async with Spool(spool) as file:
        await file.put([arrival("a", "bad"), arrival("b", "good")])
    async with scripted(couchdb_that_forbids("bad")) as server, incoming(couchdb_at(server), None, spool):
        await drained(spool)
    assert await counts(spool) == Counts(waiting=0, rejected=1)
    async with scripted(couchdb_that_forbids()) as server, incoming(couchdb_at(server), None, spool):
        assert await asyncio.to_thread(retry, spool)
        await drained(spool)
        [written] = server.named("POST _bulk_docs")
        assert [doc["sms_message"]["message"] for doc in written.json["docs"]] == ["bad"]


def retry(spool: Path) -> bool:
    file = SpoolFile(spool)
    done = file.retry(1)
    file.close()
    return done

"""What was posted while nobody listened is there afterwards, once; what was there before or deleted is left alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.spool.file import SpoolFile
from cht_rapidpro.domain.incoming import InboundMessage, doc_id
from demo.couchdb import CouchDBServer
from demo.database import Database, DatabaseError, Doc
from demo.rapidpro import Answer, Fault, Message, RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock
from tests.support.webhook import Flow, receiving, records, section, texts

RELAY: Final = "relay"
ANN, BEN = "tel:+254712345678", "tel:+254712345679"
LOOK: Final = "_local/cht-rapidpro-backfill"
HOUR: Final = 3600.0
Start = Callable[..., AbstractAsyncContextManager[Flow]]


@pytest.fixture(params=["message", "run"])
def id_is(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def rapidpro() -> AsyncIterator[RapidPro]:
    """Pages of two rows."""
    async with RapidPro(TOKEN, clock=lambda: wall_clock() / 1000, page_size=2) as rapidpro:
        yield rapidpro


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite3"


@pytest.fixture
def start(gate: Gate, medic: Database, rapidpro: RapidPro, spool: Path, id_is: str) -> Start:
    """Starts the daemon; `keys` are of [incoming]."""

    def begin(**keys: Any) -> AbstractAsyncContextManager[Flow]:
        own = {"flow": rapidpro.flow_uuid(RELAY), "id_is": id_is, "spool": str(spool), "backfill_interval": 0.02}
        incoming = section(**{**own, **keys})
        return receiving(configure(gate, medic, rapidpro, TOKEN, incoming=incoming))

    return begin


def take(rapidpro: RapidPro, text: str, urn: str = ANN, **how: Any) -> Message:
    """The flow takes a message, a minute after the one before it; whether its webhook arrives is another matter."""
    jump(60)
    return rapidpro.receive(urn, text, flow=RELAY, **how)


def id_of(rapidpro: RapidPro, message: Message, id_is: str) -> str:
    run = next(run for run in rapidpro.runs if message in run.inputs)
    return message.uuid if id_is == "message" else run.uuid


async def checkpoint(medic: Database) -> Doc | None:
    try:
        return await medic.get(LOOK)
    except DatabaseError:
        return None


async def looked(medic: Database) -> None:
    """Returns after a whole look that began later than this call."""
    for _ in range(2):
        before = await checkpoint(medic)

        async def is_over(before: Doc | None = before) -> bool:
            return await checkpoint(medic) != before

        await until(is_over)


async def holds(medic: Database, *expected: str) -> None:
    """As soon as these are the messages of the records; and no others after another look."""

    async def there() -> bool:
        return sorted(await texts(medic)) == sorted(expected)

    await until(there)
    await looked(medic)
    assert sorted(await texts(medic)) == sorted(expected)


def named(lines: list[Any], event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


async def first_start(start: Start, medic: Database, **keys: Any) -> None:
    """Since when messages are ours to fetch."""
    async with start(**keys):
        await looked(medic)


async def test_missed_messages_are_recovered_once(
    start: Start, medic: Database, rapidpro: RapidPro, id_is: str
) -> None:
    take(rapidpro, "from before the first start")
    jump(60)
    await first_start(start, medic)
    missed = [take(rapidpro, f"missed {number}", urn) for number, urn in enumerate((ANN, ANN, BEN, ANN, BEN))]
    rapidpro.receive(ANN, "of another flow", flow="survey")
    rapidpro.receive(ANN, "left in the inbox")
    jump(2 * HOUR)
    with capture_logs() as lines:
        async with start() as flow:
            await holds(medic, *(message.text for message in missed))
            posted = take(rapidpro, "posted")
            assert (await flow.post(id_of(rapidpro, posted, id_is), "posted")).saved == 1
            late = await flow.post(id_of(rapidpro, missed[0], id_is), missed[0].text)
            assert late.saved == 0, "it is stored already"
            jump(120)
            await holds(medic, "posted", *(message.text for message in missed))
    ids = {id_of(rapidpro, message, id_is) for message in missed}
    assert {line["message"] for line in named(lines, "incoming.recovered")} == ids
    assert len(named(lines, "incoming.recovered")) == len(missed)
    docs = {doc["sms_message"]["message"]: doc for doc in await records(medic)}
    for message in missed:
        doc = docs[message.text]
        assert doc["_id"] == doc_id(id_of(rapidpro, message, id_is), doc["reported_date"])
        assert doc["reported_date"] == round(message.created_on.timestamp() * 1000)
        assert doc["sms_message"]["from"] == message.urn.removeprefix("tel:")


async def test_backfill_from_says_how_much_of_the_past_is_fetched(
    start: Start, medic: Database, rapidpro: RapidPro
) -> None:
    take(rapidpro, "long ago")
    jump(HOUR)
    begin = wall_clock()
    take(rapidpro, "wanted")
    jump(HOUR)
    async with start(backfill_from=begin):
        await holds(medic, "wanted")


async def test_a_message_whose_webhook_may_be_on_its_way_is_left_for_the_next_look(
    start: Start, medic: Database, rapidpro: RapidPro
) -> None:
    await first_start(start, medic)
    message = take(rapidpro, "young")
    async with start():
        await holds(medic)
    jump(60)
    async with start():
        await holds(medic, message.text)


async def test_a_deleted_record_is_not_fetched_again(start: Start, medic: Database, rapidpro: RapidPro) -> None:
    await first_start(start, medic)
    take(rapidpro, "to be deleted")
    take(rapidpro, "to stay", BEN)
    jump(120)
    async with start():
        await holds(medic, "to be deleted", "to stay")
        await medic.delete(next(doc["_id"] for doc in await records(medic) if "deleted" in str(doc["sms_message"])))
        await holds(medic, "to stay")
    async with start():
        await holds(medic, "to stay")


async def test_a_record_of_chts_own_gateway_counts_as_stored(
    start: Start, medic: Database, rapidpro: RapidPro, id_is: str
) -> None:
    await first_start(start, medic)
    legacy, missed = take(rapidpro, "by the built-in gateway"), take(rapidpro, "missed", BEN)
    sms = {"message": legacy.text, "from": "+254712345678", "gateway_ref": id_of(rapidpro, legacy, id_is)}
    await medic.put({"_id": "legacy", "type": "data_record", "sms_message": sms})
    jump(120)
    async with start():
        await holds(medic, legacy.text, missed.text)


async def test_a_page_that_fails_leaves_the_look_where_it_was(
    start: Start, medic: Database, rapidpro: RapidPro, id_is: str
) -> None:
    await first_start(start, medic)
    before = await medic.get(LOOK)
    missed = [take(rapidpro, f"missed {number}", f"tel:+25471234560{number}") for number in range(5)]
    jump(120)
    kind: Any = "GET messages" if id_is == "message" else "GET runs"
    fault = Fault(kind, Answer(502), times=None, contains="cursor")
    rapidpro.fail(fault)
    with capture_logs() as lines:
        async with start():
            await until(lambda: sum(call.faulty for call in rapidpro.calls) >= 3)
            assert sorted(await texts(medic)) == ["missed 3", "missed 4"], "the first page is stored"
            assert await medic.get(LOOK) == before
            rapidpro.clear_faults()
            await holds(medic, *(message.text for message in missed))
            assert (await medic.get(LOOK))["until"] > before["until"]
    of_backfill = [line["event"] for line in lines if "backfill" in line.get("dependency", "")]
    assert of_backfill == ["dependency.lost", "dependency.recovered"], "told on the edges, not at every try"
    assert len(named(lines, "incoming.recovered")) == len(missed)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, '{"detail": "Invalid cursor"}', "application/json"),
        Answer(200, '{"next": "http://elsewhere/?cursor=again", "results": []}', "application/json"),
        Answer(200, '{"next": null, "results": [{"flow": {"uuid": "FLOW"}, "direction": "in"}]}', "application/json"),
        Answer(200, '{"detail": "no listing"}', "application/json"),
        Answer(403, '{"detail": "You do not have permission to perform this action."}', "application/json"),
    ],
    ids=["a cursor gone bad", "a cursor that repeats", "a row that is none", "no listing", "no permission"],
)
async def test_a_listing_that_breaks_begins_again(
    answer: Answer, start: Start, medic: Database, rapidpro: RapidPro, id_is: str
) -> None:
    await first_start(start, medic)
    missed = [take(rapidpro, f"missed {number}", f"tel:+25471234560{number}") for number in range(3)]
    jump(120)
    body = answer.body.replace("FLOW", rapidpro.flow_uuid(RELAY))
    kind: Any = "GET messages" if id_is == "message" else "GET runs"
    fault = Fault(kind, Answer(answer.status, body, answer.content_type), times=3, contains="cursor")
    rapidpro.fail(fault)
    async with start():
        await holds(medic, *(message.text for message in missed))
    assert sum(call.faulty for call in rapidpro.calls) == 3


async def test_a_throttled_look_goes_on_where_it_was(start: Start, medic: Database, rapidpro: RapidPro) -> None:
    await first_start(start, medic)
    missed = [take(rapidpro, f"missed {number}", f"tel:+25471234560{number}") for number in range(5)]
    jump(120)
    body = '{"detail": "Request was throttled."}'
    rapidpro.fail(Fault("any", Answer(429, body, "application/json", {"Retry-After": "600"}), contains="cursor"))
    async with start():
        await until(lambda: any(call.status == 429 for call in rapidpro.calls))
        await asyncio.sleep(0.1)
        calls = len(rapidpro.calls)
        await asyncio.sleep(0.1)
        assert len(rapidpro.calls) == calls, "as long as RapidPro says"
        jump(601)
        await holds(medic, *(message.text for message in missed))
    first_pages = [call for call in list(rapidpro.calls)[calls:] if "cursor" not in call.query]
    assert list(rapidpro.calls)[calls].query["cursor"], "not from its beginning"
    assert first_pages


async def test_a_message_that_the_webhook_stores_meanwhile_is_one_document(
    start: Start, medic: Database, rapidpro: RapidPro, gate: Gate, id_is: str
) -> None:
    await first_start(start, medic)
    message = take(rapidpro, "at the same moment")
    given = id_of(rapidpro, message, id_is)
    jump(120)
    with capture_logs() as lines:
        async with start() as flow:
            stored: list[int | None] = []

            async def post_from_elsewhere() -> None:
                sms = {"message": message.text, "from": "254712345678", "gateway_ref": given}
                await medic.put({"_id": doc_id(given, 0), "type": "data_record", "sms_message": sms})

            gate.before("POST _bulk_docs", post_from_elsewhere)
            await holds(medic, message.text)
            stored.append((await flow.post(given, message.text)).saved)
    assert stored == [0]
    assert named(lines, "incoming.recovered") == []
    assert (await medic.get(doc_id(given, 0)))["_rev"].startswith("1-")


async def test_webhook_spool_and_backfill_make_one_document(
    start: Start, medic: Database, rapidpro: RapidPro, gate: Gate, id_is: str
) -> None:
    async with start() as flow:
        await looked(medic)
        message = take(rapidpro, "everywhere")
        given = id_of(rapidpro, message, id_is)
        gate.is_closed = True
        assert (await flow.post(given, message.text)).saved == 1, "spooled"
        jump(120)
        gate.is_closed = False
        await holds(medic, message.text)
        assert (await flow.post(given, message.text)).saved == 0


async def test_a_message_that_couchdb_rejects_is_kept_once(
    start: Start, medic: Database, rapidpro: RapidPro, spool: Path, id_is: str
) -> None:
    await first_start(start, medic)
    message = take(rapidpro, "refused")
    given = id_of(rapidpro, message, id_is)

    def reject() -> None:
        file = SpoolFile(spool)
        file.put([InboundMessage(given, "+254712345678", message.text, 0)], "CouchDB answers forbidden")
        file.close()

    def rejected() -> int:
        file = SpoolFile(spool)
        count = file.counts().rejected
        file.close()
        return count

    await asyncio.to_thread(reject)
    jump(120)
    async with start():
        await holds(medic)
    assert await asyncio.to_thread(rejected) == 1


async def test_an_anonymous_workspace_is_told_of_and_nothing_is_skipped(
    start: Start, medic: Database, rapidpro: RapidPro
) -> None:
    await first_start(start, medic)
    before = await medic.get(LOOK)
    take(rapidpro, "from somebody")
    jump(120)
    rapidpro.anonymous = True
    with capture_logs() as lines:
        async with start():
            await until(lambda: sum(call.target == "GET workspace" for call in rapidpro.calls) >= 4)
            assert (await texts(medic), await medic.get(LOOK)) == ([], before)
            rapidpro.anonymous = False
            await holds(medic, "from somebody")
    (error,) = [line for line in lines if line["log_level"] == "error"]
    assert "anonymous" in error["error"]


async def test_unrecoverable_messages_are_logged_once(start: Start, medic: Database, rapidpro: RapidPro) -> None:
    await first_start(start, medic)
    take(rapidpro, "over another way", "whatsapp:254712345678")
    take(rapidpro, "")  # an attachment alone: the webhook would refuse it
    jump(120)
    with capture_logs() as lines:
        async with start():
            await looked(medic)
            await looked(medic)
    (warning,) = named(lines, "incoming.unrecovered")
    assert "whatsapp" in warning["why"]
    assert await texts(medic) == []


async def test_rapidpros_clock_says_what_is_new(start: Start, medic: Database, gate: Gate, rapidpro: RapidPro) -> None:
    rapidpro.clock = lambda: wall_clock() / 1000 - 30 * HOUR
    await first_start(start, medic)
    missed = take(rapidpro, "missed by a slow clock")
    jump(120)
    async with start():
        await holds(medic, missed.text)


async def test_the_newer_of_both_memories_counts(start: Start, medic: Database, rapidpro: RapidPro) -> None:
    """CouchDB comes back as it was three days before; the spool file still knows the newer look."""
    take(rapidpro, "looked at two days ago")
    jump(48 * HOUR)
    await first_start(start, medic)
    look, three_days = await medic.get(LOOK), round(72 * HOUR * 1000)
    await medic.put({**look, "earliest": look["earliest"] - three_days, "until": look["until"] - three_days})
    async with start():
        await holds(medic)


@pytest.mark.parametrize("id_is", ["message"], indirect=True)
async def test_a_message_handled_long_after_it_came(start: Start, medic: Database, rapidpro: RapidPro) -> None:
    async with start():
        await looked(medic)
    message = rapidpro.receive(ANN, "waited for its flow")
    jump(3 * HOUR)
    await first_start(start, medic)
    jump(HOUR)
    rapidpro.handle(message, RELAY)
    async with start():
        await holds(medic, message.text)


@pytest.mark.parametrize("id_is", ["run"], indirect=True)
async def test_a_run_with_several_messages(start: Start, medic: Database, rapidpro: RapidPro, id_is: str) -> None:
    async with start() as flow:
        await looked(medic)
        first = take(rapidpro, "first", waits=True)
        second = take(rapidpro, "second", waits=True)
        given = id_of(rapidpro, first, id_is)
        assert (await flow.post(given, second.text)).saved == 1
    third, other = take(rapidpro, "third", waits=True), take(rapidpro, "other", BEN, waits=True)
    last = take(rapidpro, "last")
    await_answer = take(rapidpro, "other again", BEN)
    jump(120)
    everything = [message.text for message in (first, second, third, last, other, await_answer)]
    with capture_logs() as lines:
        async with start() as flow:
            await holds(medic, *everything)
            for message in (first, second, third, last):
                assert (await flow.post(given, message.text)).saved == 0
    assert len(named(lines, "incoming.recovered")) == len(everything) - 1
    of_run = [doc for doc in await records(medic) if doc["sms_message"]["gateway_ref"] == given]
    assert {doc["reported_date"] for doc in of_run if doc["sms_message"]["message"] != "second"} == {
        round(message.created_on.timestamp() * 1000) for message in (first, third, last)
    }
    assert next(doc for doc in of_run if doc["_id"] == doc_id(given, 0))["sms_message"]["message"] == "second"


@pytest.mark.parametrize("id_is", ["run"], indirect=True)
async def test_a_run_without_a_message_is_told_of(start: Start, medic: Database, rapidpro: RapidPro) -> None:
    await first_start(start, medic)
    message = take(rapidpro, "to be removed in RapidPro")
    rapidpro.start_run(rapidpro.add_contact(BEN), RELAY)  # nobody has answered: nothing was posted
    rapidpro.messages.remove(message)
    jump(120)
    with capture_logs() as lines:
        async with start():
            await looked(medic)
            await looked(medic)
    (warning,) = named(lines, "incoming.unrecovered")
    assert warning["message"] == rapidpro.runs[0].uuid


async def test_a_change_of_the_kind_of_id_fetches_nothing_again(
    start: Start, medic: Database, rapidpro: RapidPro, id_is: str
) -> None:
    other = "run" if id_is == "message" else "message"
    async with start(id_is=other) as flow:
        await looked(medic)
        message = take(rapidpro, "under its old id")
        assert (await flow.post(id_of(rapidpro, message, other), message.text)).saved == 1
    jump(120)
    async with start():
        await holds(medic, message.text)
    missed = take(rapidpro, "under its new id")
    jump(120)
    async with start():
        await holds(medic, message.text, missed.text)


async def rounds(rapidpro: RapidPro, medic: Database, count: int = 3) -> None:
    """Returns after so many listings more."""
    for _ in range(count):
        listed = len(rapidpro.calls)

        def has_listed(listed: int = listed) -> bool:
            jump(5)
            return len(rapidpro.calls) > listed + 1

        await until(has_listed)


def other(id_is: str) -> str:
    return "run" if id_is == "message" else "message"


async def test_while_the_flow_sends_the_other_kind_of_id_nothing_is_fetched_twice(
    start: Start, medic: Database, rapidpro: RapidPro, id_is: str
) -> None:
    """As between the two steps of changing over; the ERROR says what to do, and the look stays where it is."""
    await first_start(start, medic)
    with capture_logs() as logs:
        async with start() as flow:
            for number in range(3):
                message = take(rapidpro, f"report {number}", f"tel:+25471234560{number}")
                answer = await flow.post(id_of(rapidpro, message, other(id_is)), message.text, message.urn[4:])
                assert answer.saved == 1
            jump(120)
            await until(lambda: any(entry["event"] == "dependency.refused" for entry in logs))
            before = await checkpoint(medic)
            await rounds(rapidpro, medic)
            assert await checkpoint(medic) == before
    assert len(await texts(medic)) == 3
    [told] = [entry for entry in logs if entry["event"] == "dependency.refused"]
    assert told["dependency"] == "backfill"
    assert f'[incoming] id_is says "{id_is}"' in told["error"]


async def test_a_message_missed_after_the_flow_was_changed_is_fetched(
    start: Start, medic: Database, rapidpro: RapidPro, id_is: str
) -> None:
    """The configuration first and then the flow: what is recorded under the other kind is left alone."""
    await first_start(start, medic)
    async with start() as flow:
        old = take(rapidpro, "before", "tel:+254712345601")
        assert (await flow.post(id_of(rapidpro, old, other(id_is)), old.text, old.urn[4:])).saved == 1
        new = take(rapidpro, "after", "tel:+254712345602")
        assert (await flow.post(id_of(rapidpro, new, id_is), new.text, new.urn[4:])).saved == 1
    missed = take(rapidpro, "missed", "tel:+254712345603")
    jump(120)
    async with start():
        await holds(medic, "before", "after", missed.text)


async def test_an_archived_record_is_not_fetched_again(
    start: Start, medic: Database, couchdb: CouchDBServer, rapidpro: RapidPro, id_is: str
) -> None:
    """CHT purges what it archives, which leaves no tombstone; here it never was in the database."""
    await first_start(start, medic)
    archived, missed = take(rapidpro, "archived"), take(rapidpro, "missed", BEN)
    async with Database(couchdb, f"{medic.name}-archive") as archive:
        await archive.create()
        try:
            sms = {"message": archived.text, "from": ANN[4:], "gateway_ref": id_of(rapidpro, archived, id_is)}
            await archive.put({"_id": doc_id(id_of(rapidpro, archived, id_is), 0), "sms_message": sms})
            jump(120)
            async with start():
                await holds(medic, missed.text)
        finally:
            await archive.destroy()


@pytest.mark.parametrize("id_is", ["run"], indirect=True)
async def test_a_rapidpro_that_shows_no_message_uuids_works_with_run(
    start: Start, medic: Database, rapidpro: RapidPro
) -> None:
    """As 9.0.0 does; the ids are version 4 there."""
    rapidpro.community = True
    await first_start(start, medic)
    missed = [take(rapidpro, f"missed {number}", f"tel:+25471234560{number}") for number in range(3)]
    jump(120)
    async with start():
        await holds(medic, *(message.text for message in missed))


@pytest.mark.parametrize("id_is", ["message"], indirect=True)
async def test_a_rapidpro_that_shows_no_message_uuids_is_refused_with_message(
    start: Start, medic: Database, rapidpro: RapidPro
) -> None:
    rapidpro.community = True
    await first_start(start, medic)
    take(rapidpro, "missed")
    jump(120)
    with capture_logs() as logs:
        async with start():
            await until(lambda: any(entry["event"] == "dependency.refused" for entry in logs))
    [told] = [entry for entry in logs if entry["event"] == "dependency.refused"]
    assert 'let the flow send run.uuid, and set id_is = "run"' in told["error"]
    assert await texts(medic) == []

"""Messages that will never go as they are: counted, named once, told in the state, and forgotten when they are gone."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import PAGE, Couch, MessageRow
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.config.schema import Cht, Rapidpro
from cht_rapidpro.domain.task import DocId, Lack, lack, message_fields, read_message, unlisted
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.deferred import HeldBack
from cht_rapidpro.jobs.outgoing.unlisted import UnlistedMessages
from cht_rapidpro.jobs.outgoing.unsendable import Unsendable
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.scenarios.status.test_outages import observed
from tests.support.daemon import configure, reaches, running
from tests.support.fault_proxy import Gate, until
from tests.support.stub_server import Reply, Request, couchdb_at, scripted
from tests.support.virtual_time import jump


def without(field: str, value: object) -> Doc:
    return {**message("never"), field: value}


BAD: Final[dict[str, tuple[object, str]]] = {
    "a number that is an object": ([without("to", {"a": 1})], "number"),
    "a number that is true": ([without("to", True)], "number"),
    "an empty number": ([without("to", "")], "number"),
    "no number": ([without("to", None)], "number"),
    "a uuid that is a number": ([without("uuid", 5)], "uuid"),
    "an empty uuid": ([without("uuid", "")], "uuid"),
    "a text that is a list": ([without("message", ["x"])], "text"),
    "an empty text": ([without("message", "")], "text"),
    "no messages": (None, "message"),
    "an empty list of messages": ([], "message"),
    "an empty message": ([{}], "message"),
    "a message that is null": ([None], "message"),
    "messages that are no list": ("x", "message"),
}


@pytest.mark.parametrize("is_there_before", [True, False])
@pytest.mark.parametrize(("found", "lacks"), BAD.values(), ids=BAD)
async def test_a_message_that_lacks_a_field_is_logged_and_all_others_go(
    found: object, lacks: str, is_there_before: bool, gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    """Whether CHT's view has a row for it or not, and whether the document changes or is old."""
    record = data_record({**task(message("x")), "messages": found})
    good = data_record(task(message("good")))
    if is_there_before:
        await medic.bulk([record, good])
    with capture_logs() as logs:
        config = configure(gate, medic, rapidpro, TOKEN, sweep_interval=1.0)
        async with observed(config, tmp_path, logs) as places:
            if not is_there_before:
                await until(lambda: any(one["event"] == "sending.enabled" for one in logs))
                await medic.bulk([record, good])
            await places.agree("broken")
            await reaches(medic, good["_id"], "received-by-gateway")
            async with aiohttp.ClientSession(f"http://{places.address}") as session:
                status = await (await session.get("/status")).json()
                metrics = await (await session.get("/metrics")).text()
                page = await (await session.get("/")).text()
            for _ in range(5):
                jump(1)
                await places.read()
            await medic.edit(record["_id"], lambda doc: {**doc, "tasks": []})
            await places.agree("ok", hurry=1)
    assert status["figures"]["unsendable_messages"][f"no_{lacks}"] == 1
    assert sum(status["figures"]["unsendable_messages"].values()) == 1
    assert f'cht_rapidpro_unsendable_messages{{reason="no_{lacks}"}} 1.0' in metrics
    what = {"number": "no phone number", "message": "no message in it"}.get(lacks, f"no {lacks}")
    assert f"1 {'task' if lacks == 'message' else 'message'} never sent: {what}." in page
    [told] = [one for one in logs if one["event"] == "message.unsendable"]
    assert (told["doc"], told["lacks"], told["log_level"]) == (record["_id"], lacks, "warning")
    one = found[0] if isinstance(found, list) and found else {}
    uuid = one.get("uuid") if isinstance(one, dict) else None
    assert told["message"] == (uuid if isinstance(uuid, str) and uuid else None)


VALUES: Final[list[object]] = ["x", "", None, 0, 5, False, True, [], {}, 1.5]


async def test_each_such_message_is_either_in_the_view_or_in_no_row_of_it(gate: Gate, medic: Database) -> None:
    """None is counted twice, and none not at all."""
    fields = ("uuid", "to", "message")
    messages = [{**message("hello"), field: value} for field in fields for value in VALUES]
    lists: list[object] = [[each] for each in messages] + [[], [{}], None, "", 0, False, {}, "x", [{"a": 1}]]
    docs = [data_record({**task(message("x")), "messages": found}) for found in lists]
    await medic.bulk(docs)
    async with Couch(configure(gate, medic, "http://127.0.0.1:1", TOKEN).couchdb) as couch:
        rows = [row async for page in couch.messages_in("pending-or-forwarded") for row in page]
    in_view = Counter(row.doc_id for row in rows if lack(message_fields(row.value)))
    for doc in docs:
        found = doc["tasks"][0]["messages"]
        listed = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
        can_be_sent = any(read_message(each) for each in listed)
        assert in_view[doc["_id"]] + len(list(unlisted(doc))) == (0 if can_be_sent else 1), found


@pytest.mark.parametrize("state", ["scheduled", "muted", "sent", "failed", None, []])
def test_only_what_is_to_be_sent_is_looked_at(state: object) -> None:
    assert list(unlisted(data_record({**task(without("to", "")), "state": state}))) == []
    assert list(unlisted(data_record(task(without("to", ""), state="forwarded-to-gateway")))) != []


async def test_the_walk_reads_only_documents_with_something_to_send(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    sent = [data_record(task(message("x"), state="received-by-gateway", gateway_ref="7")) for _ in range(20)]
    bad = data_record(task(without("to", "")))
    await medic.bulk([*sent, bad])
    asked: list[str] = []

    async def listen(name: str, body: bytes) -> None:
        if name == "POST _all_docs":
            asked.extend(json.loads(body)["keys"])

    gate.replies = listen
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await until(lambda: any(one["event"] == "message.unsendable" for one in logs))
    assert not set(asked) & {each["_id"] for each in sent}


async def test_a_walk_goes_on_where_couchdb_went_away() -> None:
    asked: list[list[object]] = []

    async def script(request: Request) -> Reply:
        if request.name == "GET medic-sms":
            return Reply({"views": {"messages_by_last_updated_state": {}}})
        if request.name == "GET messages_by_last_updated_state":
            asked.append(json.loads(request.query["startkey"]))
            page = range(PAGE) if len(asked) == 1 else []
            rows = [{"id": f"doc-{number}", "key": ["pending", number, "sent"], "value": None} for number in page]
            return Reply({"error": "internal"}, 500) if len(asked) == 2 else Reply({"rows": rows})
        return Reply({"rows": []})

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        settings = SettingsWatch(couch, Cht(), Rapidpro(url="https://rapidpro.example.org"))
        settings.target = settings.base
        walking = asyncio.create_task(UnlistedMessages(couch, settings, Unsendable(HeldBack()), 60.0).run())

        async def is_over() -> bool:
            jump(1)
            return len(asked) >= 3

        await until(is_over)
        for _ in range(5):
            jump(3600)
            await asyncio.sleep(0.02)
        assert asked == [["pending", None], ["pending", PAGE - 1, "sent"], ["pending", PAGE - 1]]
        jump(86_400)
        await until(lambda: len(asked) == 4)
        assert asked[3] == ["pending", None]
        await end(walking)


async def test_the_walk_waits_while_many_are_sent_but_not_for_ever() -> None:
    asked: list[str] = []

    async def script(request: Request) -> Reply:
        asked.append(request.name)
        return Reply({"views": {"messages_by_last_updated_state": {}}, "rows": []})

    async def busy() -> bool:
        return True

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        settings = SettingsWatch(couch, Cht(), Rapidpro(url="https://rapidpro.example.org"))
        settings.target = settings.base
        walking = asyncio.create_task(UnlistedMessages(couch, settings, Unsendable(HeldBack()), 3600.0, busy).run())
        await until(lambda: asked == ["GET medic-sms"])
        waited = 0

        async def is_over() -> bool:
            nonlocal waited
            jump(10)
            waited += 10
            return len(asked) > 1

        await until(is_over)
        assert asked[1] == "GET messages_by_last_updated_state"
        assert waited >= 290
        await end(walking)


def test_only_so_many_messages_without_a_row_are_remembered() -> None:
    unsendable = Unsendable(HeldBack())
    with capture_logs() as logs:
        for number in range(3):
            doc = data_record(*(task(without("to", "")) for _ in range(4_000)), doc_id=f"doc-{number}")
            for _ in range(2):
                unsendable.look(DocId(doc["_id"]), doc)
    assert unsendable.counts()["no_number"] == len(logs) == 10_000
    unsendable.look(DocId("doc-0"), None)
    assert unsendable.counts()["no_number"] == 6_000


def test_documents_are_looked_at_again_in_turn() -> None:
    unsendable = Unsendable(HeldBack())
    docs = {DocId(f"doc-{number}"): data_record(task(without("to", ""))) for number in range(3)}
    for doc_id, doc in docs.items():
        unsendable.look(doc_id, doc)
    seen = []
    for _ in range(3):
        [doc_id] = unsendable.to_look_at(1)
        unsendable.look(doc_id, docs[doc_id])
        seen.append(doc_id)
    assert seen == list(docs)


def row(number: int, **value: Any) -> MessageRow:
    return MessageRow(DocId(f"doc-{number}"), number, {"id": f"m-{number}", "to": "", "content": "x", **value})


def swept(unsendable: Unsendable, rows: Sequence[MessageRow], *, whole: bool = True) -> None:
    unsendable.start_sweep()
    for each in rows:
        unsendable.see(each)
    if whole:
        unsendable.end_sweep()


def test_only_so_many_are_remembered_and_named() -> None:
    unsendable = Unsendable(HeldBack())
    rows = [row(number) for number in range(10_050)]
    with capture_logs() as logs:
        swept(unsendable, rows)
        swept(unsendable, rows)
    assert unsendable.counts()["no_number"] == len(logs) == 10_000


def test_a_sweep_that_ended_early_forgets_nothing() -> None:
    unsendable = Unsendable(HeldBack())
    swept(unsendable, [row(1), row(2)])
    swept(unsendable, [row(1)], whole=False)
    assert unsendable.counts()["no_number"] == 2
    swept(unsendable, [row(1)])
    assert unsendable.counts()["no_number"] == 1


@pytest.mark.parametrize(("rows", "held"), [([], 0), ([row(1, to="+254712345678")], 1)])
def test_a_held_document_that_the_view_has_no_more_is_held_no_more(rows: list[MessageRow], held: int) -> None:
    held_back = HeldBack()
    unsendable = Unsendable(held_back)
    held_back.hold(DocId("doc-1"), "too large")
    swept(unsendable, rows)
    assert len(held_back) == held


def test_a_document_held_during_a_sweep_stays_held() -> None:
    held_back = HeldBack()
    unsendable = Unsendable(held_back)
    unsendable.start_sweep()
    held_back.hold(DocId("doc-1"), "too large")
    unsendable.end_sweep()
    assert len(held_back) == 1


@pytest.mark.parametrize("change", [lambda doc: doc, lambda doc: {**doc, "to": 254712345678}])
def test_a_readable_message_lacks_nothing(change: Callable[[Doc], Doc]) -> None:
    fields = change(message("hello"))
    assert (lack(fields), read_message(fields) is not None) == (None, True)
    assert lack({}) is Lack.MESSAGE

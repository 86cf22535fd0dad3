"""What waits for news is found in each shape of CHT's views, and what is too old costs nothing."""

import json
from bisect import bisect_left
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.config.schema import Cht, Delivery, Rapidpro
from cht_rapidpro.jobs.delivery.discovery import OutstandingTasks
from cht_rapidpro.jobs.delivery.tracker import DeliveryTracker
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.scenarios.outgoing.followed import asked_for, followed, followed_by_log
from tests.support.daemon import configure, reaches, running, states
from tests.support.fault_proxy import Gate
from tests.support.stub_server import Raw, Reply, Request, couchdb_at, scripted
from tests.support.virtual_time import jump, wall_clock

ON: Final = Delivery()
DAY: Final = 86_400_000
NOW: Final = 1_800_000_000_000
WEEK: Final = 7 * DAY


def outstanding(couch: Couch, capacity: int = 20_000) -> tuple[OutstandingTasks, DeliveryTracker]:
    tracker = DeliveryTracker(60_000, WEEK, capacity)
    return OutstandingTasks(couch, tracker, SettingsWatch(couch, Cht(), Rapidpro()), WEEK), tracker


def older_shape(doc: Doc) -> Doc:
    """CHT's earlier view: the key without its group."""
    (view,) = (view for name, view in doc["views"].items() if name == "messages_by_last_updated_state")
    view["map"] = view["map"].replace("[groups[task.state] || 'pending', updated, task.state]", "[updated, task.state]")
    assert "[updated, task.state]" in view["map"]
    return doc


def without_times(doc: Doc) -> Doc:
    del doc["views"]["messages_by_last_updated_state"]
    return doc


def without_any(doc: Doc) -> Doc:
    del doc["views"]["messages_by_last_updated_state"], doc["views"]["gateway_messages_by_state"]
    return doc


@pytest.mark.parametrize("change", [lambda doc: doc, older_shape, without_times], ids=["today", "older", "none"])
async def test_each_shape_of_the_views(change: Any, gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    await medic.edit("_design/medic-sms", change)
    young = [await followed(medic, rapidpro, number) for number in range(3)]
    await medic.edit(young[1].doc_id, lambda doc: {**doc, "tasks": [{**doc["tasks"][0], "state": "sent"}]})
    for each in young:
        rapidpro.move(each.broadcast, "delivered")
    old = datetime.fromtimestamp(wall_clock() / 1000 - 8 * 86_400, UTC)
    aged = data_record(task(message("old"), state="sent", gateway_ref=str(young[0].broadcast), at=old))
    await medic.put(aged)
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        for each in young:
            await reaches(medic, each.doc_id, "delivered")
    assert states(await medic.get(aged["_id"])) == ["sent"]


def documents_read(gate: Gate) -> int:
    """Requests for documents, without those for the app settings, which also list the translations each time."""
    return gate.requests.count("POST _all_docs") - gate.requests.count("GET _all_docs")


async def test_another_daemons_sends_are_found_while_it_runs(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(2)
            one = await followed(medic, rapidpro, 1)
            rapidpro.move(one.broadcast, "delivered")
            jump(60)
            await reaches(medic, one.doc_id, "delivered")
            reads = documents_read(gate)
            await log.rounds(4)
    assert documents_read(gate) == reads, "a row that is no news costs no document"


async def test_without_any_view_the_gateways_own_messages_are_followed(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    await medic.edit("_design/medic-sms", without_any)
    record = data_record(task(message("hello")))
    with followed_by_log() as log:
        async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
            await log.rounds(2)
            await medic.put(record)
            await reaches(medic, record["_id"], "received-by-gateway")
            rapidpro.move(1, "delivered")
            jump(60)
            await reaches(medic, record["_id"], "delivered")
            jump(7200)
            await log.rounds(2)
    assert len(log.named("view.missing")) == 1


async def test_a_restart_asks_once_more(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    old = datetime.fromtimestamp(wall_clock() / 1000 - 86_400, UTC)
    broadcast = rapidpro.create_broadcast(["tel:+254712345001"], "hello")
    await medic.put(data_record(task(message("hello"), state="sent", at=old, gateway_ref=str(broadcast.id))))
    for starts in (1, 2):
        with followed_by_log() as log:
            async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
                await log.rounds(5)
        assert len(asked_for(rapidpro, "GET messages")) == starts


class OldRows:
    """A view server with a million `sent` tasks, one a second, the newest of them `age` ms old."""

    COUNT: Final = 1_000_000

    def __init__(self, age: int) -> None:
        self.times = range(NOW - age - 1000 * (self.COUNT - 1), NOW - age + 1, 1000)
        self.served = 0
        self.read = 0

    async def __call__(self, request: Request) -> Reply | Raw:
        match request.name:
            case "GET medic-sms":
                return Reply({"views": {"messages_by_last_updated_state": {"map": ""}}})
            case "GET messages_by_last_updated_state":
                return Reply({"total_rows": self.COUNT, "offset": 0, "rows": self.rows(request)})
            case "POST _all_docs":
                self.read += len(request.json["keys"])
                return Reply({"total_rows": 0, "offset": 0, "rows": [{"key": key} for key in request.json["keys"]]})
        return Reply(status=404)

    def rows(self, request: Request) -> list[Doc]:
        """Newest first, as CouchDB would answer; all are in the group `final`."""
        start, end = (json.loads(request.query[name]) for name in ("startkey", "endkey"))
        assert request.query["descending"] == "true"
        if start[0] != "final":
            return []
        newest = self.COUNT if start[1] == {} else bisect_left(self.times, start[1] + 1)
        oldest = bisect_left(self.times, end[1])
        skip, limit = int(request.query["skip"]), int(request.query["limit"])
        found = [self.times[index] for index in range(newest - 1 - skip, max(oldest, newest - skip - limit) - 1, -1)]
        self.served += len(found)
        return [{"id": f"doc-{moment}", "key": ["final", moment, "sent"], "value": None} for moment in found]


async def test_while_many_are_sent_the_views_are_read_every_five_minutes() -> None:
    """To bring them up to date takes CouchDB as long as the sending."""
    is_busy = True

    async def busy() -> bool:
        return is_busy

    async with scripted(OldRows(age=WEEK + 60_000)) as server, Couch(couchdb_at(server)) as couch:
        tracker = DeliveryTracker(60_000, WEEK, 20_000)
        finder = OutstandingTasks(couch, tracker, SettingsWatch(couch, Cht(), Rapidpro()), WEEK, busy)
        asked = []
        for _ in range(11):
            await finder.refresh(NOW)
            asked.append(len(server.requests))
            jump(60)
        is_busy = False
        await finder.refresh(NOW)
        await finder.close()
    assert asked[:5] == [0] * 5
    assert asked[5] == asked[9] > 0
    assert asked[10] > asked[9]
    assert len(server.requests) > asked[10]


async def test_a_million_sent_messages_that_are_too_old_cost_nothing() -> None:
    rows = OldRows(age=WEEK + 60_000)
    async with scripted(rows) as server, Couch(couchdb_at(server)) as couch:
        finder, tracker = outstanding(couch)
        for minute in range(3):
            await finder.refresh(NOW + minute * 60_000)
        await finder.close()
    assert (rows.served, rows.read, len(tracker)) == (0, 0, 0)
    assert len(server.requests) == 1 + 3 * 3, "a look at the design document, and three empty ranges a round"


async def test_a_million_that_are_young_enough_are_read_a_bounded_part_a_round() -> None:
    """The proof that the server above would have served them."""
    rows = OldRows(age=60_000)
    async with scripted(rows) as server, Couch(couchdb_at(server)) as couch:
        finder, _ = outstanding(couch)
        served = []
        for minute in range(3):
            before = rows.served
            await finder.refresh(NOW + minute * 60_000)
            served.append(rows.served - before)
        await finder.close()
    assert 10_000 <= served[0] <= 10_100, "a few come twice, at the edges of pages"
    assert all(10_000 <= count <= 10_000 + 400 for count in served[1:]), "and what is new"
    assert 30_000 <= rows.read <= 30_700


class FullOfTasks(OldRows):
    """The same with documents behind the rows."""

    async def __call__(self, request: Request) -> Reply | Raw:
        if request.name != "POST _all_docs":
            return await super().__call__(request)
        keys = request.json["keys"]
        self.read += len(keys)
        found = [{"id": key, "key": key, "value": {"rev": "1-a"}, "doc": _sent(key)} for key in keys]
        return Reply({"total_rows": self.COUNT, "offset": 0, "rows": found})


def _sent(doc_id: str) -> Doc:
    moment = int(doc_id.removeprefix("doc-"))
    at = datetime.fromtimestamp(moment / 1000, UTC)
    return data_record(task(message("x"), state="sent", gateway_ref=str(moment // 1000), at=at), doc_id=doc_id)


async def test_tasks_beyond_the_capacity_are_read_when_there_is_room() -> None:
    rows = FullOfTasks(age=60_000)
    async with scripted(rows) as server, Couch(couchdb_at(server)) as couch:
        finder, tracker = outstanding(couch, capacity=1200)
        await finder.refresh(NOW)
        first = {watched.task.broadcast for watched in tracker}
        await finder.refresh(NOW)
        assert {watched.task.broadcast for watched in tracker} == first
        assert len(first) == 1000, "whole pages"
        for watched in list(tracker):
            tracker.drop(watched)
        await finder.refresh(NOW)
        second = {watched.task.broadcast for watched in tracker}
        await finder.close()
    assert len(second - first) >= 500
    assert rows.read < 5000


async def test_a_walk_that_breaks_off_begins_again() -> None:
    rows = OldRows(age=60_000)
    broken = True

    async def script(request: Request) -> Reply | Raw:
        if broken and request.name == "POST _all_docs":
            return Reply({"error": "busy"}, 503)
        return await rows(request)

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        finder, _ = outstanding(couch)
        with capture_logs(), pytest.raises(Exception, match="503"):
            await finder.refresh(NOW)
        broken = False
        with capture_logs():
            await finder.refresh(NOW)
        await finder.close()
    assert 10_000 <= rows.read <= 10_300, "the first page again, and the last minutes"

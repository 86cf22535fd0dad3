"""Messages that will never go as they are: counted, named once, told in the state, and forgotten when they are gone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb import MessageRow
from cht_rapidpro.demo.database import Database, Doc
from cht_rapidpro.demo.medic import data_record, message, task
from cht_rapidpro.demo.rapidpro import RapidPro
from cht_rapidpro.domain.task import DocId, Lack, lack, read_message
from cht_rapidpro.jobs.held_back import HeldBack
from cht_rapidpro.jobs.unsendable import Unsendable
from tests.clock import jump
from tests.conftest import TOKEN
from tests.gate import Gate
from tests.gateway import configure, reaches
from tests.jobs.test_outages import observed


def without(field: str, value: object) -> Doc:
    return {**message("never"), field: value}


@pytest.mark.parametrize(
    ("bad", "reason", "lacks"),
    [
        (without("to", {"a": 1}), "no_number", "number"),
        (without("to", True), "no_number", "number"),
        (without("uuid", 5), "no_uuid", "uuid"),
        (without("message", ["x"]), "no_text", "text"),
        (None, "no_message", "message"),
    ],
)
async def test_what_lacks_something_is_told_and_all_else_goes(
    bad: Doc | None, reason: str, lacks: str, gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    record = data_record({**task(message("x")), "messages": None} if bad is None else task(bad))
    good = data_record(task(message("good")))
    await medic.bulk([record, good])
    with capture_logs() as logs:
        config = configure(gate, medic, rapidpro, TOKEN, sweep_interval=1.0)
        async with observed(config, tmp_path, logs) as places:
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
    assert status["figures"]["unsendable_messages"][reason] == 1
    assert f'cht_rapidpro_unsendable_messages{{reason="{reason}"}} 1.0' in metrics
    what = {"number": "no phone number", "message": "no message in it"}.get(lacks, f"no {lacks}")
    assert f"1 {'task' if bad is None else 'message'} never sent: {what}." in page
    [told] = [one for one in logs if one["event"] == "message.unsendable"]
    assert (told["doc"], told["lacks"], told["log_level"]) == (record["_id"], lacks, "warning")
    assert told["message"] == (bad["uuid"] if bad and reason != "no_uuid" else None)


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


def test_what_was_held_during_a_sweep_stays_so() -> None:
    held_back = HeldBack()
    unsendable = Unsendable(held_back)
    unsendable.start_sweep()
    held_back.hold(DocId("doc-1"), "too large")
    unsendable.end_sweep()
    assert len(held_back) == 1


@pytest.mark.parametrize("change", [lambda doc: doc, lambda doc: {**doc, "to": 254712345678}])
def test_what_can_be_read_lacks_nothing(change: Callable[[Doc], Doc]) -> None:
    fields = change(message("hello"))
    assert (lack(fields), read_message(fields) is not None) == (None, True)
    assert lack({}) is Lack.MESSAGE

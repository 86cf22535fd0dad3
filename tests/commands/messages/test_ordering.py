"""Orders against a document that others write at the same moment: decided anew on each revision, written once."""

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from cht_rapidpro.commands.messages.ordering import carry_out
from cht_rapidpro.commands.messages.site import site
from cht_rapidpro.config.schema import Cht, Config
from cht_rapidpro.domain.claim import ClaimTasks, Instance
from cht_rapidpro.domain.orders import Cancel, Order, Refusal, Resend
from cht_rapidpro.domain.task import Change, MessageId, timestamp
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure
from tests.support.fault_proxy import Gate
from tests.support.virtual_time import wall_clock

OTHER = Instance("f" * 32, "other")


def record(state: str) -> Doc:
    made = task(message("hello"), state=state)
    made["state_history"] = [{"state": state, "timestamp": timestamp(wall_clock() - 60_000)}]
    return data_record(made)


async def order(
    config: Config, folder: Path, medic: Database, made: Doc, what: Order, *, before: Callable[[], None] = lambda: None
) -> Change | Refusal:
    async with site(replace(config, cht=Cht(state_dir=str(folder)))) as here:
        uuid = MessageId(made["tasks"][0]["messages"][0]["uuid"])
        [(doc, _)] = await here.find(uuid)
        before()
        return await carry_out(here, what, doc, uuid, is_dry=False)


async def test_a_conflict_is_decided_anew(gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path) -> None:
    """Another daemon claims it between our reading and our writing: then it may be under way."""
    made = record("pending")
    await medic.put(made)
    uuid = made["tasks"][0]["messages"][0]["uuid"]

    async def claim() -> None:
        await medic.edit(made["_id"], ClaimTasks(OTHER, {uuid}, wall_clock()))

    config = configure(gate, medic, rapidpro, TOKEN)
    decided = await order(config, tmp_path, medic, made, Cancel(), before=lambda: gate.before("POST _bulk_docs", claim))
    assert isinstance(decided, Refusal)
    assert "changed this moment" in decided.why
    assert (await medic.get(made["_id"]))["tasks"][0]["state"] == "forwarded-to-gateway"
    decided = await order(config, tmp_path, medic, made, Cancel())
    assert isinstance(decided, Refusal)
    assert "it is claimed" in decided.why


async def test_another_change_of_the_document_keeps_nothing_from_being_written(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    made = record("failed")
    await medic.put(made)

    async def edit() -> None:
        await medic.edit(made["_id"], lambda doc: {**doc, "verified": 1234567890})

    decided = await order(
        configure(gate, medic, rapidpro, TOKEN),
        tmp_path,
        medic,
        made,
        Resend(),
        before=lambda: gate.before("POST _bulk_docs", edit),
    )
    assert isinstance(decided, Change)
    doc = await medic.get(made["_id"])
    assert (doc["tasks"][0]["state"], doc["verified"]) == ("pending", 1234567890)
    assert [entry["state"] for entry in doc["tasks"][0]["state_history"]] == ["failed", "pending"]


async def test_an_answer_that_is_lost_writes_nothing_twice(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    made = record("failed")
    await medic.put(made)

    async def lose() -> None:
        gate.loses_answers = True

    async def find() -> None:
        gate.loses_answers = False

    def lose_one() -> None:
        gate.before("POST _bulk_docs", lose)
        gate.before("POST _all_docs", find)

    config = configure(gate, medic, rapidpro, TOKEN)
    decided = await order(config, tmp_path, medic, made, Resend(), before=lose_one)
    assert isinstance(decided, Change)
    [found] = (await medic.get(made["_id"]))["tasks"]
    assert [entry["state"] for entry in found["state_history"]] == ["failed", "pending"]

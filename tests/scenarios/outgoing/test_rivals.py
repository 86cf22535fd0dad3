"""A document that takes no write holds another daemon's claim: what is equal to it is decided, or a human is told."""

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from cht_rapidpro.domain.claim import Instance
from demo.database import Database
from demo.medic import data_record
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import claimed, configure, passes, reaches, running, states
from tests.support.fault_proxy import Gate

ME, OTHER = Instance("1" * 32, "me"), Instance("2" * 32, "other")
RECEIVED = "received-by-gateway"
NUMBER = "tel:+254712345678"


async def _closes(doc_id: str, medic: Database, gate: Gate, *, is_readable: bool) -> None:
    """From now on CouchDB takes no revision of the document, or fails at reading it."""
    if is_readable:
        source = f"function (doc) {{ if (doc._id === '{doc_id}') throw({{forbidden: 'not this one'}}); }}"
        await medic.put({"_id": "_design/strict", "validate_doc_update": source})
        return

    async def fails(name: str, body: bytes) -> web.Response | None:
        if name == "POST _all_docs" and doc_id.encode() in body:
            return web.json_response({"error": "file_corruption", "reason": "file corruption"}, status=500)
        return None

    gate.replies = fails


@pytest.mark.parametrize("is_readable", [True, False])
@pytest.mark.parametrize(("made", "after"), [(0, 1), (2, 2)], ids=["none was made", "both were made"])
async def test_an_equal_message_is_decided_where_it_does_not_matter_whose_is_which(
    made: int, after: int, is_readable: bool, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    theirs, ours = data_record(claimed(OTHER, "same", ago=5)), data_record(claimed(ME, "same", ago=5))
    await medic.bulk([theirs, ours])
    await _closes(theirs["_id"], medic, gate, is_readable=is_readable)
    for _ in range(made):
        rapidpro.create_broadcast([NUMBER], "same")

    async def there() -> bool:
        return states(await medic.get(ours["_id"])) == [RECEIVED]

    config = configure(gate, medic, rapidpro, TOKEN, sweep_interval=5.0, settle_time=10.0)
    async with running(config, ME):
        assert await passes(3600, 20, there)
    assert len(rapidpro.broadcasts) == after


@pytest.mark.parametrize("is_readable", [True, False])
async def test_an_undecidable_broadcast_is_logged_with_the_document_to_repair(
    is_readable: bool, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    theirs, ours = data_record(claimed(OTHER, "same", ago=5)), data_record(claimed(ME, "same", ago=5))
    await medic.bulk([theirs, ours])
    await _closes(theirs["_id"], medic, gate, is_readable=is_readable)
    rapidpro.create_broadcast([NUMBER], "same")
    config = configure(gate, medic, rapidpro, TOKEN, sweep_interval=5.0, settle_time=10.0)
    with capture_logs() as logs:

        async def told() -> bool:
            return any(entry["event"] == "broadcast.undecidable" for entry in logs)

        async with running(config, ME):
            assert await passes(3600, 20, told)
            await passes(600, 20)
            assert states(await medic.get(ours["_id"])) == ["forwarded-to-gateway"], "it may be the other one's"
            gate.replies = None
            if is_readable:
                await medic.edit("_design/strict", lambda doc: {**doc, "validate_doc_update": "function () {}"})
            for doc in (ours, theirs):
                await reaches(medic, doc["_id"], RECEIVED, hurry=60)
    (entry,) = [entry for entry in logs if entry["event"] == "broadcast.undecidable"]
    assert (entry["doc"], theirs["_id"] in entry["means"]) == (ours["_id"], True)
    assert len(rapidpro.broadcasts) == 2

"""What is read at once, and what may be ambiguous at once, has a bound, whatever the documents hold."""

from collections import Counter
from contextlib import suppress

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import READ_BYTES, Couch
from cht_rapidpro.adapters.http.bounded_body import TooLargeError
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.task import DocId
from demo.database import Database
from demo.medic import data_record, message, task
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import claimed, configure, passes, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.serving import serving

ME = Instance("1" * 32, "me")
RECEIVED = "received-by-gateway"


async def test_long_documents_are_read_few_at_a_time(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    """How long they are is known from the answers: the first ones may be longer than the bound."""
    records = [data_record(task(message("hello")), fields={"note": "x" * 300_000}) for _ in range(30)]
    for record in records:
        await medic.put(record)
    asked: list[int] = []

    def note(name: str, response: web.Response) -> web.Response:
        if name in ("POST _all_docs", "POST _changes") and isinstance(response.body, bytes):
            asked.append(len(response.body))
        return response

    gate.rewrites = note
    async with running(configure(gate, medic, rapidpro, TOKEN), ME):
        for record in records:
            await reaches(medic, record["_id"], RECEIVED)
    too_long = [size for size in asked if size > READ_BYTES]
    # Two readers, the claims and the walk over unfinished tasks, halve 30 three times each, side by side at the worst.
    assert len(too_long) <= 6, f"halved until they fit, and known from then on: {asked}"


async def test_an_answer_is_not_read_to_its_end_where_it_is_too_long() -> None:
    """Half a gigabyte of it is there; a gateway that read it all would hold it all."""
    piece, sent = b" " * 1024 * 1024, 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with suppress(ConnectionError):
            while sent < 512:
                await response.write(piece)
                sent += 1
        return response

    async with serving(endless) as url, Couch(Couchdb(url=url, user="u", password=Secret("p"))) as couch:
        with pytest.raises(TooLargeError):
            await couch.fetch([DocId("one"), DocId("two")])
    assert sent < 64, "MiB, what the sockets hold included"


async def test_so_many_may_be_in_doubt_that_nothing_new_is_claimed_and_that_is_said(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """What was claimed by an earlier process is ambiguous at the start."""
    await medic.bulk(
        [
            data_record(*(claimed(ME, f"hello {number}", ago=5) for number in range(start, start + 100)))
            for start in range(0, 1000, 100)
        ]
    )
    new = data_record(task(message("new")))
    with capture_logs() as logs:

        def said() -> int:
            return Counter(entry["event"] for entry in logs)["ambiguous.limit_reached"]

        async with running(
            configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0, sweep_interval=1.0), ME
        ):
            await until(lambda: said() == 1)
            await medic.put(new)
            await passes(3, 1)
            assert states(await medic.get(new["_id"])) == ["pending"]
    assert said() == 1

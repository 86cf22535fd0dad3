"""`cht-rapidpro drain` as an operator types it: on a running daemon, on a stopped one, and where something is left."""

import asyncio
from pathlib import Path

import pytest

from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import Daemon
from demo.rapidpro import Answer, Delay, Fault, RapidPro
from tests.conftest import TOKEN
from tests.e2e.test_pause import _run, run
from tests.faults.times import sections
from tests.support.daemon import reaches
from tests.support.fault_proxy import until

RECEIVED = "received-by-gateway"


@pytest.fixture
def daemon(tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro) -> Daemon:
    return Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, sections())


def events(daemon: Daemon) -> list[str]:
    return [entry["event"] for entry in daemon.events()]


async def test_a_running_daemon_decides_what_may_have_been_sent_and_claims_nothing_more(
    daemon: Daemon, medic: Database, rapidpro: RapidPro
) -> None:
    sent, unsent, later = (data_record(task(message(text))) for text in ("sent", "unsent", "later"))
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "{}"), contains="unsent", times=None))
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "{}"), after=True))
    try:
        await daemon.start()
        await medic.bulk([sent, unsent])
        await until(lambda: events(daemon).count("broadcast.ambiguous") == 2, 20)
        assert (await run(daemon, "pause"))[0] == 0
        code, out, err = await run(daemon, "drain")
        await medic.put(later)
        await reaches(medic, sent["_id"], RECEIVED)
        await reaches(medic, unsent["_id"], "pending")
        assert (await run(daemon, "check", "--migration"))[1].count("✓ migration.back: 1. drain") == 1
        assert await daemon.stop() == 0
        await reaches(medic, later["_id"], "pending")
    finally:
        await daemon.kill()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-2] == "claimed 0, ambiguous 0, spooled 0"
    assert lines[-1].startswith("drained: another gateway can be chosen.")
    assert len(rapidpro.broadcasts) == 1
    assert "stop.left_over" not in events(daemon)


async def test_a_drain_without_a_daemon_decides_the_sends_of_a_killed_one(
    daemon: Daemon, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("hello")))
    rapidpro.fail(Fault("POST broadcasts", Delay(5), after=True))
    try:
        await daemon.start()
        await medic.put(record)
        await until(lambda: bool(rapidpro.broadcasts), 20)
    finally:
        await daemon.kill()
    code, out, err = await run(daemon, "drain")
    assert (code, err) == (0, "")
    assert "its parts run here" in out
    await reaches(medic, record["_id"], RECEIVED)
    assert len(rapidpro.broadcasts) == 1


async def test_a_drain_names_each_undecidable_message(daemon: Daemon, medic: Database, rapidpro: RapidPro) -> None:
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "{}")))
    rapidpro.fail(Fault("GET broadcasts", Answer(500, "{}"), times=None))
    try:
        await daemon.start()
        await medic.put(data_record(task(message("hello"))))
        await until(lambda: "broadcast.ambiguous" in events(daemon), 20)
        code, _, err = await run(daemon, "drain", "--for", "3s")
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    assert code == 1
    assert "not drained: another gateway would send these again." in err
    assert "claimed 1, ambiguous 1, spooled 0: it takes longer" in err
    [left] = [entry for entry in daemon.events() if entry["event"] == "stop.left_over"]
    assert (left["claimed"], left["ambiguous"]) == (1, 1)


async def test_a_daemon_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    code, _, err = await asyncio.to_thread(_run, "drain", "--config", str(tmp_path / "none.toml"))
    assert code == 78
    assert "none.toml" in err

"""An operator's pause: no POST begins in it, all else goes on, and nothing is lost or sent twice for it."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from structlog.testing import capture_logs

from cht_rapidpro.adapters.host.pause_file import PauseFile
from cht_rapidpro.adapters.web import control
from cht_rapidpro.config.schema import Cht, Config, Delivery
from cht_rapidpro.domain.pause import Pause
from demo.database import Database
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Delay, Fault, RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure, passes, reaches, running
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock


def posts(rapidpro: RapidPro) -> int:
    return sum(call.target == "POST broadcasts" for call in rapidpro.calls)


def on(folder: Path, config: Config) -> Config:
    return replace(config, cht=Cht(state_dir=str(folder)))


async def pause(folder: Path, seconds: float | None = None) -> None:
    end = None if seconds is None else wall_clock() + round(seconds * 1000)
    await asyncio.to_thread(PauseFile(folder).write, Pause(wall_clock(), end))


async def resume(folder: Path) -> None:
    await asyncio.to_thread(PauseFile(folder).remove)


async def status(folder: Path) -> dict[str, Any]:
    found = await control.ask(folder, "GET", "/status")
    assert found is not None
    return found


async def is_paused(folder: Path) -> bool:
    found = await control.ask(folder, "GET", "/status")  # None while it is only starting
    return found is not None and found["paused"] is not None


def ambiguous(logs: Any, uuid: str) -> bool:
    return any(entry["event"] == "broadcast.ambiguous" and entry["message"] == uuid for entry in logs)


async def test_nothing_is_posted_in_a_pause_and_all_of_it_afterwards(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    """What is claimed goes back to `pending`, so that others can act on it; the queue still shows what waits."""
    records = [data_record(task(message(f"hello {number}"))) for number in range(5)]
    with capture_logs() as logs:
        async with running(on(tmp_path, configure(gate, medic, rapidpro, TOKEN))):
            await pause(tmp_path)
            await until(lambda: is_paused(tmp_path))
            await medic.bulk(records)

            async def all_wait() -> bool:
                return bool((await status(tmp_path))["figures"]["queue_messages"] == 5)

            await until(all_wait)
            await passes(120, step=5)
            assert posts(rapidpro) == 0
            for record in records:
                assert [entry["state"] for entry in (await reaches(medic, record["_id"], "pending"))["tasks"]]
            found = await status(tmp_path)
            assert found["figures"]["sending_paused"] == 1
            assert found["figures"]["pause_left_seconds"] is None
            assert [(each["level"], each["what"]) for each in found["findings"] if "paused" in each["what"]] == [
                ("degraded", "Sending is paused until `cht-rapidpro resume`.")
            ]
            await resume(tmp_path)
            for record in records:
                await reaches(medic, record["_id"], "received-by-gateway", hurry=0.2)
            assert (await status(tmp_path))["paused"] is None
    assert len(rapidpro.broadcasts) == 5
    assert [entry["event"] for entry in logs if entry["event"] in ("sending.paused", "sending.resumed")] == [
        "sending.paused",
        "sending.resumed",
    ]


async def test_a_pause_stops_a_campaign_in_its_middle_and_releases_the_claims(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    records = [data_record(task(message(f"hello {number}"))) for number in range(60)]
    rapidpro.fail(Fault("POST broadcasts", Delay(0.3), times=None))
    config = on(tmp_path, configure(gate, medic, rapidpro, TOKEN, max_concurrency=4, coalesce="off"))
    async with running(config):
        await medic.bulk(records)
        await until(lambda: posts(rapidpro) >= 8)
        await pause(tmp_path)
        await until(lambda: is_paused(tmp_path))
        begun = posts(rapidpro)

        async def none_claimed() -> bool:
            return bool((await status(tmp_path))["figures"]["claimed_tasks"] == 0)

        await until(none_claimed)
        assert posts(rapidpro) == begun < 60
        rapidpro.clear_faults()
        await resume(tmp_path)
        for record in records:
            await reaches(medic, record["_id"], "received-by-gateway", hurry=0.1)
    assert len(rapidpro.broadcasts) == 60


async def test_a_pause_outlives_a_restart_and_ends_by_itself(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)
    await pause(tmp_path, 3600)
    config = on(tmp_path, configure(gate, medic, rapidpro, TOKEN))
    for _ in range(2):
        async with running(config):
            await until(lambda: is_paused(tmp_path))
            await passes(60, step=5)
            left = (await status(tmp_path))["figures"]["pause_left_seconds"]
            assert 3000 < left < 3600
    assert posts(rapidpro) == 0
    async with running(config):
        await until(lambda: is_paused(tmp_path))
        jump(3600)
        await reaches(medic, record["_id"], "received-by-gateway")
    assert len(rapidpro.broadcasts) == 1


async def test_incoming_lookups_and_states_go_on_and_nothing_is_sent_again(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    """A message that may have been sent is adopted where it is found; one that is missing waits for the end."""
    made, missing = data_record(task(message("made"))), data_record(task(message("missing")))
    settled = data_record(task(message("settled")))
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=10.0, delivery=Delivery(interval=1.0))
    with capture_logs() as logs:
        async with running(on(tmp_path, config)):
            await medic.put(settled)
            ref = (await reaches(medic, settled["_id"], "received-by-gateway"))["tasks"][0]["gateway_ref"]
            for record, is_after in ((made, True), (missing, False)):
                rapidpro.fail(Fault("POST broadcasts", Answer(500, "oops"), after=is_after))
                await medic.put(record)
                uuid = record["tasks"][0]["messages"][0]["uuid"]
                await until(partial(ambiguous, logs, uuid))
            await pause(tmp_path)
            await until(lambda: is_paused(tmp_path))
            await reaches(medic, made["_id"], "received-by-gateway", hurry=0.5)
            rapidpro.move(int(ref), "delivered")
            await reaches(medic, settled["_id"], "delivered", hurry=0.5)
            await passes(600, step=20)
            assert len(rapidpro.broadcasts) == 2, "nothing is sent again in a pause"
            assert (await status(tmp_path))["figures"]["ambiguous_messages"] == 1
            await resume(tmp_path)
            await reaches(medic, missing["_id"], "received-by-gateway", hurry=0.5)
    assert sorted(broadcast.text for broadcast in rapidpro.broadcasts) == ["made", "missing", "settled"]


async def test_a_file_that_cannot_be_read_holds_sending(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    await asyncio.to_thread((tmp_path / "pause.json").write_bytes, b"\xff{")
    record = data_record(task(message("hello")))
    await medic.put(record)
    with capture_logs() as logs:
        async with running(on(tmp_path, configure(gate, medic, rapidpro, TOKEN))):
            await until(lambda: is_paused(tmp_path))
            await passes(30, step=5)
            assert (await status(tmp_path))["state"] == "broken"
            assert posts(rapidpro) == 0
            await resume(tmp_path)
            await reaches(medic, record["_id"], "received-by-gateway", hurry=0.2)
    assert [entry["event"] for entry in logs if entry["event"] == "pause.unreadable"] == ["pause.unreadable"]


async def test_a_pause_between_the_turn_and_the_post_stops_the_post(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    """What was claimed longer ago than a moment is read again before its POST, which may take a while."""
    records = [data_record(task(message(f"hello {number}"))) for number in range(3)]
    rapidpro.fail(Fault("POST broadcasts", Delay(0.5), times=2))

    async def pause_now() -> None:
        await pause(tmp_path)
        await until(lambda: is_paused(tmp_path))

    config = on(tmp_path, configure(gate, medic, rapidpro, TOKEN, max_concurrency=2, coalesce="off"))
    async with running(config):
        await medic.bulk(records)
        await until(lambda: posts(rapidpro) == 2)

        async def all_claimed() -> bool:
            return bool((await status(tmp_path))["figures"]["claimed_tasks"] == 3)

        await until(all_claimed)
        jump(3)
        gate.before("POST _all_docs", pause_now)
        await until(lambda: is_paused(tmp_path))
        await passes(30, step=5)
        assert posts(rapidpro) == 2

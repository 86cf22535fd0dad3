"""`cht-rapidpro pause` and `resume` as an operator types them: on a running daemon, a stopped one, another one."""

import asyncio
import json
import subprocess
from pathlib import Path

import aiohttp
import pytest

from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import COMMAND, Daemon
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.e2e.test_command import logged
from tests.support.daemon import reaches
from tests.support.fault_proxy import until

Done = tuple[int, str, str]


async def run(daemon: Daemon, *words: str) -> Done:
    return await asyncio.to_thread(_run, *words, "--config", str(daemon.config))


def _run(*words: str) -> Done:
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    return done.returncode, done.stdout, done.stderr


async def test_a_running_daemon_obeys_and_says_so_everywhere(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    daemon = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN)
    try:
        await daemon.start()
        first, held = data_record(task(message("first"))), data_record(task(message("held")))
        await medic.put(first)
        await reaches(medic, first["_id"], "received-by-gateway")
        code, out, err = await run(daemon, "pause", "--for", "2h")
        assert (code, err) == (0, "")
        assert out.startswith("sending is paused until 2")
        assert out.endswith(" UTC; the running daemon obeys\n")
        end = out.removeprefix("sending is paused ").partition(";")[0]
        await medic.put(held)
        [address] = [entry["address"] for entry in logged(daemon, "admin.listening")]
        async with aiohttp.ClientSession(f"http://{address}") as session:

            async def text(path: str) -> str:
                async with session.get(path) as answer:
                    return await answer.text()

            async def waits() -> bool:
                return bool(json.loads(await text("/status"))["figures"]["queue_messages"] == 1)

            await until(waits)
            assert json.loads(await text("/ready"))["paused"]["until"][:19].replace("T", " ") in end
            assert f"Sending is paused {end}." in await text("/")
            assert "cht_rapidpro_sending_paused 1.0" in await text("/metrics")
        code, out, _ = await run(daemon, "check")
        assert f"! outgoing.paused: Sending is paused {end} → " in out
        assert len(rapidpro.broadcasts) == 1
        assert await run(daemon, "resume") == (0, "sending goes on; the running daemon obeys\n", "")
        await reaches(medic, held["_id"], "received-by-gateway")
        assert await run(daemon, "resume") == (0, "sending was not paused; the running daemon obeys\n", "")
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    assert len(rapidpro.broadcasts) == 2


async def test_a_stopped_daemon_heeds_it_at_its_next_start(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    daemon = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN)
    no_daemon = f"no daemon is running on {tmp_path}: the next start heeds it\n"
    assert await run(daemon, "pause") == (0, f"sending is paused until `cht-rapidpro resume`; {no_daemon}", "")
    record = data_record(task(message("held")))
    await medic.put(record)
    try:
        await daemon.start()
        await until(lambda: bool(logged(daemon, "sending.paused")) and bool(logged(daemon, "sending.enabled")))
        await asyncio.sleep(1)  # it would have been sent long ago
        assert (await medic.get(record["_id"]))["tasks"][0]["state"] == "pending"
        assert await daemon.stop() == 0
        assert await run(daemon, "resume") == (0, f"sending goes on; {no_daemon}", "")
        await daemon.start()
        await reaches(medic, record["_id"], "received-by-gateway")
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    assert len(rapidpro.broadcasts) == 1


async def test_a_daemon_that_reads_another_place_is_an_error(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    """An emergency stop that nobody reads must not look like one."""
    daemon = Daemon(tmp_path / "gateway", couchdb, medic.name, {"url": rapidpro.url}, TOKEN)
    try:
        await daemon.start()
        await until(lambda: bool(logged(daemon, "admin.listening")))
        [address] = [entry["address"] for entry in logged(daemon, "admin.listening")]
        other = tmp_path / "other.toml"
        other.write_text(f'[admin]\nlisten = "{address}"\n')
        code, out, err = await asyncio.to_thread(_run, "pause", "--config", str(other))
    finally:
        await daemon.kill()
    assert (code, out) == (1, "")
    assert f"the file is written, but a daemon is running that does not read {tmp_path}" in err
    assert "STATE_DIRECTORY" in err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["pause", "--for", "2"], 2, 'found "2"; allowed: a number and its unit'),
        (["pause", "--for", "0s"], 2, 'from "1s"'),
        (["pause"], 78, "config.toml"),
        (["pause", "--config", "none.toml"], 78, "none.toml"),
        (["resume", "--config", "none.toml"], 78, "none.toml"),
    ],
)
def test_an_impossible_pause_is_refused(words: list[str], code: int, says: str, tmp_path: Path) -> None:
    found, _, err = _run(*words)
    assert found == code
    assert says in err


def test_a_state_directory_that_is_not_there_is_a_wrong_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[cht]\nstate_dir = "none/where"\n')
    code, _, err = _run("pause", "--config", str(config))
    assert code == 78
    assert f"[cht] state_dir: {tmp_path}/none/where/pause.json cannot be written: No such file" in err

"""What a part of the daemon knows to be amiss, as status, /ready, metrics, page and systemd's line tell it."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Vault
from cht_rapidpro.adapters.host.state_dir import LEAST_ROOM
from cht_rapidpro.adapters.web.webhook import PATHS
from cht_rapidpro.commands.check.cht import check_settings
from cht_rapidpro.commands.check.finding import Mark
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.config.schema import Admin, Cht, Rapidpro
from cht_rapidpro.config.secrets import NO_SECRET, Secret
from cht_rapidpro.daemon import serve
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.settings import read_settings
from cht_rapidpro.jobs.live_config.reload import Reload
from cht_rapidpro.jobs.status.disk import Disk
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.process import note_sender
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.scenarios.status.test_outages import Places, Sick, as_rapidpro, hearing, observed
from tests.support.daemon import configure, reaches
from tests.support.fault_proxy import Gate, until
from tests.support.stub_server import Reply, scripted
from tests.support.virtual_time import jump, wall_clock
from tests.support.webhook import KEY


def named(logs: Sequence[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


async def told(places: Places) -> tuple[list[dict[str, Any]], str]:
    """The findings of /status, and the page."""
    async with aiohttp.ClientSession(f"http://{places.address}") as session:
        status = await (await session.get("/status")).json()
        return status["findings"], await (await session.get("/")).text()


async def test_a_flow_that_is_wired_wrongly(gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with observed(configure(gate, medic, rapidpro, TOKEN), tmp_path, logs) as places:
            await places.agree("ok")
            [[address]] = [one["addresses"] for one in named(logs, "incoming.listening")]
            async with aiohttp.ClientSession(headers={"Authorization": f"Token {KEY}"}) as session:
                for number in range(2):
                    body = {"id": f"{number}", "from": "@contact.urn", "content": "hello"}
                    await session.post(f"http://{address}{PATHS[0]}", json=body)
            await places.agree("degraded")
            findings, page = await told(places)
    [found] = findings
    assert found["what"] == "RapidPro's flow sends a wrong `from`: @contact.urn, which RapidPro has not evaluated."
    assert found["more"] == "2 times since the start."
    assert "docs/operations/connect-rapidpro.md" in found["advice"]
    assert "a wrong <code>from</code>: @contact.urn, which RapidPro has not evaluated. 2 times since the start." in page


@pytest.mark.parametrize("stored", [None, "no hex"])
async def test_a_credential_of_the_vault_that_cannot_be_used(
    stored: str | None, gate: Gate, medic: Database, vault: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    config = configure(gate, medic, rapidpro, "")
    config = replace(config, cht=Cht(credentials="vault"), rapidpro=replace(config.rapidpro, token=NO_SECRET))
    async with Couch(config.couchdb) as couch:
        await Vault(couch).write(CredentialName.INCOMING, Secret(KEY))
        if stored is not None:
            await vault.put({"_id": "credential:rapidpro:outgoing", "password": stored})
        with capture_logs() as logs:
            async with observed(config, tmp_path, logs, key="") as places:
                await places.agree("broken")
                findings, page = await told(places)
                await Vault(couch).write(CredentialName.OUTGOING, Secret(TOKEN))
                await places.agree("ok", hurry=60)
    [found] = [one for one in findings if one["level"] == "broken"]
    assert found["what"] == "CHT's vault has no usable rapidpro:outgoing."
    assert "`cht-rapidpro credentials set rapidpro:outgoing`" in found["advice"]
    assert "CHT&#x27;s vault has no usable" in page or "CHT's vault has no usable" in page


async def test_an_admin_listener_without_an_address(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    """Nobody can ask it; systemd's line tells, and messages go their way."""
    record = data_record(task(message("hello")))
    await medic.put(record)
    stop = asyncio.Event()
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        hearing(tmp_path) as (heard, notifier),
        capture_logs() as logs,
    ):
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        config = replace(configure(gate, medic, rapidpro, TOKEN), admin=Admin(listen))
        config = replace(config, incoming=replace(config.incoming, spool=str(tmp_path / "spool"), key=Secret(KEY)))
        config = replace(config, cht=replace(config.cht, state_dir=str(tmp_path)))
        reload = Reload(config, lambda: config, asyncio.Event())
        note_sender(tmp_path)
        serving = asyncio.create_task(serve(config, Instance("0" * 32, "test"), stop, wall_clock, reload, notifier))
        await reaches(medic, record["_id"], "received-by-gateway")

        def is_told() -> bool:
            jump(1)
            try:
                return heard.recv(4096).startswith(b"STATUS=broken; The admin listener does not listen; ")
            except BlockingIOError:
                return False

        await until(is_told)
        stop.set()
        await serving
    [line] = named(logs, "admin.unavailable")
    assert (line["listen"], line["log_level"]) == (listen, "error")


async def check_of(medic: Database) -> list[tuple[Mark, str]]:
    """What `check` says of the app settings as they are."""
    rows = (await medic.request("POST", "_all_docs", body={"keys": ["settings"]}, include_docs="true"))["rows"]
    settings: Doc | None = rows[0].get("doc")
    return [(one.mark, one.says) for one in check_settings(read_settings(settings, None), Cht(), Rapidpro())]


async def test_deleted_settings_are_broken_and_the_last_good_ones_send(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    """`check` says the same: ✗, and that a daemon which runs keeps to the last good ones."""
    kept = await medic.get("settings")
    with capture_logs() as logs:
        async with observed(configure(gate, medic, rapidpro, TOKEN), tmp_path, logs) as places:
            await places.agree("ok")
            await medic.delete("settings")
            await places.agree("broken")
            [found], _ = await told(places)
            record = data_record(task(message("hello")))
            await medic.put(record)
            await reaches(medic, record["_id"], "received-by-gateway")
            [(mark, says), *_] = await check_of(medic)
            await medic.put({key: value for key, value in kept.items() if key != "_rev"})
            await places.agree("ok")
    what = "the document `settings` does not exist"
    assert found["what"] == "CHT's app settings cannot be used."
    assert found["advice"] == f"{what}: the last good settings stay in force."
    assert (mark, says.startswith(f"{what}: a running daemon keeps the last good settings")) == (Mark.BAD, True)
    assert len(named(logs, "settings.invalid")) == 1


async def test_without_settings_at_the_start_nothing_is_sent(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    await medic.delete("settings")
    record = data_record(task(message("hello")))
    await medic.put(record)
    with capture_logs() as logs:
        async with observed(configure(gate, medic, rapidpro, TOKEN), tmp_path, logs) as places:
            await places.agree("broken")
            [found], _ = await told(places)
            assert found["what"] == "CHT's app settings cannot be used."
            [(mark, says), *_] = await check_of(medic)
            assert not rapidpro.broadcasts
    assert (mark, says.endswith("a daemon that starts now sends nothing")) == (Mark.BAD, True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; whoever may not mount one skips the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = _mount("-t", "tmpfs", "-o", "size=1m", "none", str(folder))
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)  # noqa: S603


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/mount", *arguments], capture_output=True, text=True, check=False)  # noqa: S603


async def test_a_full_disk(gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path, small_disk: Path) -> None:
    with capture_logs() as logs:
        async with observed(configure(gate, medic, rapidpro, TOKEN), small_disk, logs) as places:
            await places.agree("broken")
            [found], page = await told(places)
            larger = await asyncio.to_thread(_mount, "-o", f"remount,size={2 * LEAST_ROOM}", str(small_disk))
            assert larger.returncode == 0
            await places.agree("ok", hurry=5)
    assert found["what"] == "The disk of the spool has less than 50 MiB left."
    assert found["what"] in page
    assert [(one["event"], one["log_level"]) for one in logs if one["event"].startswith("disk.")] == [
        ("disk.filled", "error"),
        ("disk.freed", "warning"),
    ]


async def test_a_disk_that_stays_full_is_one_line() -> None:
    """The file system at /sys has no room at all."""
    disk = Disk(Path("/sys"))
    with capture_logs() as logs:
        running = asyncio.create_task(disk.run())
        await until(lambda: bool(list(disk.problems())))
        for _ in range(5):
            jump(30)
            await asyncio.sleep(0.02)
        await end(running)
    assert len(logs) == 1


async def test_a_message_in_doubt_counts_in_the_oldest_waiting_age(gate: Gate, medic: Database, tmp_path: Path) -> None:
    """Nothing waits in the queue, and RapidPro works: it is the one message that RapidPro's list does not decide."""
    sick = Sick(as_rapidpro, Reply(status=500), only="POST")
    with capture_logs() as logs:
        async with scripted(sick) as rapidpro:
            config = configure(gate, medic, rapidpro.url, TOKEN, timeout=1.0, settle_time=3600.0, claim_timeout=7200.0)
            async with observed(config, tmp_path, logs) as places:
                await medic.put(data_record(task(message("hello"))))
                await until(lambda: bool(named(logs, "broadcast.ambiguous")))
                sick.form = None
                figures: dict[str, Any] = {}
                for _ in range(70):
                    jump(10)
                    await asyncio.sleep(0.02)

                async def waits_long() -> bool:
                    findings, _ = await told(places)
                    async with aiohttp.ClientSession(f"http://{places.address}") as session:
                        figures.update((await (await session.get("/status")).json())["figures"])
                    return any(one["what"] == "Messages wait for a long time." for one in findings)

                await until(waits_long)
                await places.agree("degraded", hurry=5)
    assert (figures["queue_messages"], figures["ambiguous_messages"]) == (0, 1)
    assert figures["queue_oldest_seconds"] >= 600

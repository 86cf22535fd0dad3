"""Incoming messages through the installed command: a socket of systemd's, a disk that is full, the spool's commands."""

import asyncio
import json
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest

from cht_rapidpro.adapters.spool.file import SpoolFile
from cht_rapidpro.domain.incoming import InboundMessage
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.process import COMMAND, INCOMING_KEY, Daemon
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.e2e.test_command import logged
from tests.support.fault_proxy import until
from tests.support.webhook import listening_socket, open_flow, texts, url_of

AUTHORIZED = {"Authorization": f"Token {INCOMING_KEY}"}


def body(number: int, content: str = "hello") -> dict[str, object]:
    return {"id": f"id-{number}", "from": "+254712345678", "content": content}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening_socket() as listener:
        yield listener


async def test_a_webhook_during_a_restart_waits_at_the_socket(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro, listener: socket.socket
) -> None:
    daemon = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, webhook=listener)
    try:
        async with open_flow(url_of(listener)) as flow:
            posting = asyncio.create_task(flow.request(json=body(1), headers=AUTHORIZED))
            await daemon.start()
            assert (await posting).saved == 1
            assert await daemon.stop() == 0
            posting = asyncio.create_task(flow.request(json=body(2), headers=AUTHORIZED))
            await daemon.start()
            assert (await posting).saved == 1

            async def both() -> bool:
                return len(await texts(medic)) == 2

            await until(both)
    finally:
        await daemon.kill()
    assert [entry["by"] for entry in logged(daemon, "incoming.listening")] == ["systemd"] * 2


async def test_a_full_disk_is_503_and_an_error_and_heals(
    tmp_path: Path, couchdb: CouchDBServer, rapidpro: RapidPro, listener: socket.socket
) -> None:
    away = {"couchdb": {"url": "http://127.0.0.1:1"}}
    daemon = Daemon(tmp_path, couchdb, "medic", {"url": rapidpro.url}, TOKEN, away, webhook=listener)
    await daemon.start()
    try:
        async with open_flow(url_of(listener)) as flow:
            assert (await flow.request(json=body(0), headers=AUTHORIZED)).saved == 1
            _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (200_000, hard))
            number, status = 0, 200
            while status == 200:
                number += 1
                status = (await flow.request(json=body(number, "x" * 20_000), headers=AUTHORIZED)).status
            assert status == 503
            assert await readiness(daemon) == (503, "broken")
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (hard, hard))
            assert (await flow.request(json=body(number), headers=AUTHORIZED)).saved == 1
            assert await readiness(daemon) == (200, "degraded")
        told = [entry for entry in logged(daemon, "dependency.refused") if entry["dependency"] == "spool"]
        assert [entry["level"] for entry in told] == ["error"]
    finally:
        await daemon.kill()
    rows = await asyncio.to_thread(spooled, tmp_path / "spool.sqlite3")
    assert [row.id for row in rows] == [f"id-{each}" for each in range(number + 1)]


async def readiness(daemon: Daemon) -> tuple[int, str]:
    """What the admin listener says at /ready."""
    [listening] = logged(daemon, "admin.listening")
    async with aiohttp.request("GET", f"http://{listening['address']}/ready") as answer:
        return answer.status, (await answer.json())["state"]


async def test_a_second_key_is_taken_over_by_a_reload(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro, listener: socket.socket
) -> None:
    daemon = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, webhook=listener)
    try:
        async with open_flow(url_of(listener)) as flow:
            await daemon.start()
            rotated = {"Authorization": "Token new"}
            assert (await flow.request(json=body(1), headers=rotated)).status == 403
            await asyncio.to_thread((tmp_path / "incoming-key").write_text, f"new\n{INCOMING_KEY}\n")
            daemon.signal(signal.SIGHUP)
            await until(lambda: bool(logged(daemon, "config.reloaded")))
            for headers in (rotated, AUTHORIZED):
                assert (await flow.request(json=body(1), headers=headers)).status == 200
    finally:
        await daemon.kill()
    assert [entry["changed"] for entry in logged(daemon, "config.reloaded")] == [["incoming.key"]]


async def test_no_text_number_or_key_is_in_any_log_line(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro, listener: socket.socket
) -> None:
    """Invariant 7, at the most talkative level, with everything that can be said about a message."""
    debug: dict[str, dict[str, object]] = {"log": {"level": "debug"}, "rapidpro": {"url": rapidpro.url}}
    daemon = Daemon(tmp_path, couchdb, medic.name, {}, TOKEN, debug, webhook=listener)
    await daemon.start()
    try:
        await until(lambda: bool(logged(daemon, "sending.enabled")))  # it has the settings
        async with open_flow(url_of(listener)) as flow:
            for given, content in ((1, "Zebra"), (1, "Zebra"), (1, "Zebra again"), ("tel:+254712345678", "Zebra")):
                sent = {"id": given, "from": "+254712345678", "content": content}
                assert (await flow.request(json=sent, headers=AUTHORIZED)).status == 200
            tried = {**AUTHORIZED, "X-Mailroom-Mode": "simulation"}
            assert (await flow.request(json=body(9, "Zebra"), headers=tried)).status == 200
            assert (await flow.request(data=b"Zebra +254712345678", headers=AUTHORIZED)).status == 415
            assert (await flow.request(json={"id": "Zebra"}, headers=AUTHORIZED)).status == 400
            assert (await flow.request(json=body(9), headers={"Authorization": "Token Zebra"})).status == 403
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    events = {entry["event"] for entry in daemon.events()}
    assert {"incoming.stored", "incoming.simulated", "incoming.refused"} <= events
    written = await asyncio.to_thread(daemon.log.read_text)
    assert "Zebra" not in written
    assert "12345678" not in written
    assert INCOMING_KEY not in written


async def test_a_socket_that_does_not_listen_ends_the_start_with_78(
    tmp_path: Path, couchdb: CouchDBServer, rapidpro: RapidPro
) -> None:
    with socket.socket() as idle:
        daemon = Daemon(tmp_path, couchdb, "medic", {"url": rapidpro.url}, TOKEN, webhook=idle)
        await daemon.start()
        assert await daemon.wait() == 78
    assert "systemd's socket 'incoming' does not listen" in await asyncio.to_thread(daemon.log.read_text)


def spooled(path: Path) -> list[InboundMessage]:
    file = SpoolFile(path)
    found = [row.arrival for row in file.all_after(0, 1000)]
    file.close()
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Without any secret: none is needed for these commands."""
    path = tmp_path / "config.toml"
    path.write_text('[cht]\nstate_dir = "state"\n')
    return path


def command(config: Path, action: str, *numbers: str) -> tuple[int, str]:
    ended = subprocess.run(  # noqa: S603 - our own command
        [COMMAND, "spool", action, "--config", str(config), *numbers],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=30,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture
def spool(config: Path) -> Iterator[SpoolFile]:
    (config.parent / "state").mkdir()
    with ExitStack() as stack:
        file = SpoolFile(config.parent / "state" / "spool.sqlite3")
        stack.callback(file.close)
        file.put([InboundMessage("a", "+254712345678", "Zebra one", 1795334400000)])
        file.put([InboundMessage(2, 254712345679, "Zebra two", 1795334400001)], "CouchDB answers forbidden")
        file.put([InboundMessage("c", "M-PESA", "Zebra three", 1795334400002)], "no +254 712 345 680 here")
        yield file


def test_the_list_shows_neither_numbers_nor_texts(config: Path, spool: SpoolFile) -> None:
    code, shown = command(config, "list")
    assert (code, shown.splitlines()[0]) == (0, "1 waiting, 2 rejected")
    assert [re.split(" {2,}", line.strip()) for line in shown.splitlines()[1:]] == [
        ["1", "2026-11-22T08:00:00.000Z", "…678", "9 characters", "waiting"],
        ["2", "2026-11-22T08:00:00.001Z", "…679", "9 characters", "rejected: CouchDB answers forbidden"],
        ["3", "2026-11-22T08:00:00.002Z", "M-PESA", "11 characters", "rejected: no …680 here"],
    ]


def test_one_is_shown_whole(config: Path, spool: SpoolFile) -> None:
    code, shown = command(config, "show", "2")
    assert code == 0
    assert json.loads(shown) == {
        "number": 2,
        "state": "rejected",
        "reason": "CouchDB answers forbidden",
        "id": 2,
        "sender": 254712345679,
        "content": "Zebra two",
        "at": "2026-11-22T08:00:00.001Z",
        "doc": shown.split('"doc": "')[1].split('"')[0],
    }
    assert command(config, "show", "9") == (1, "9: there is no such message\n")


def test_rejected_ones_wait_again_and_others_are_dropped(config: Path, spool: SpoolFile) -> None:
    assert command(config, "retry", "2", "1", "9") == (
        1,
        "2: waits again\n1: waits already\n9: there is no such message\n",
    )
    assert command(config, "retry", "all") == (0, "3: waits again\n")
    assert spool.counts().waiting == 3
    code, shown = command(config, "drop", "1")
    assert (code, shown.partition(":")[2][:6]) == (1, " kept:")
    assert spool.counts().waiting == 3
    assert command(config, "drop", "--yes", "1", "3") == (0, "1: dropped\n3: dropped\n")
    assert [row.number for row in spool.all_after(0, 10)] == [2]


def test_mistakes_are_named_and_change_nothing(config: Path, spool: SpoolFile) -> None:
    for action, numbers in (("drop", ["1", "all"]), ("show", ["-1"]), ("retry", ["all", "1"]), ("show", ["9" * 30])):
        code, shown = command(config, action, *numbers)
        assert code in (1, 2)
        assert "cht-rapidpro" in shown
    assert command(config, "drop")[0] == 2
    assert spool.counts().rejected == 2


def test_where_there_is_no_spool_none_is_made(config: Path) -> None:
    code, shown = command(config, "list")
    assert code == 1
    assert str(config.parent / "state" / "spool.sqlite3") in shown
    assert not (config.parent / "state").exists()

"""The installed command, as systemd or a user at a terminal meets it."""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cht_rapidpro.commands import arguments
from demo.couchdb import CouchDBServer, CouchDBStandin
from demo.database import Database, Doc
from demo.medic import create_medic, data_record, message, task
from demo.process import COMMAND, Daemon
from demo.rapidpro import Answer, Fault, HalfBody, Hang, RapidPro, Reset
from tests.conftest import TOKEN
from tests.support.daemon import reaches, states
from tests.support.fault_proxy import until

NewDaemon = Callable[..., Daemon]


@pytest.fixture
async def new_daemon(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> AsyncIterator[NewDaemon]:
    """Makes daemons between the test's database and RapidPro; each is ended with the test."""
    made: list[Daemon] = []

    def new(folder: str = "gateway", **sections: dict[str, object]) -> Daemon:
        daemon = Daemon(tmp_path / folder, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, sections)
        made.append(daemon)
        return daemon

    yield new
    for daemon in made:
        await daemon.kill()


def logged(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    return [entry for entry in daemon.events() if entry["event"] == event]


def _command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **environ}
    )


async def test_sigterm_settles_what_is_in_flight_and_gives_back_the_rest(
    new_daemon: NewDaemon, medic: Database, rapidpro: RapidPro
) -> None:
    records = [data_record(task(message(f"hello {number}"))) for number in range(60)]
    await medic.bulk(records)
    rapidpro.wire.latency = 0.5
    daemon = new_daemon()
    await daemon.start()
    await until(lambda: len(rapidpro.broadcasts) > 0)
    assert await daemon.stop() == 0
    docs = {record["_id"]: await medic.get(record["_id"]) for record in records}
    ended = {doc_id: states(doc)[0] for doc_id, doc in docs.items()}
    assert set(ended.values()) == {"pending", "received-by-gateway"}
    refs = {doc["tasks"][0].get("gateway_ref") for doc in docs.values()} - {None}
    assert refs == {str(broadcast.id) for broadcast in rapidpro.broadcasts}
    assert 0 < len(refs) < 60
    assert {doc["_rev"][:2] for doc_id, doc in docs.items() if ended[doc_id] == "received-by-gateway"} == {"3-"}
    rapidpro.wire.latency = 0.0
    await daemon.start()
    for record in records:
        await reaches(medic, record["_id"], "received-by-gateway")
    assert await daemon.stop() == 0
    assert sorted(broadcast.text for broadcast in rapidpro.broadcasts) == sorted(
        record["tasks"][0]["messages"][0]["message"] for record in records
    )


async def test_sigterm_while_nothing_works_ends_in_good_time(new_daemon: NewDaemon, rapidpro: RapidPro) -> None:
    daemon = new_daemon(couchdb={"url": "http://127.0.0.1:1"})
    await daemon.start()
    await until(lambda: bool(logged(daemon, "dependency.lost")))
    assert await daemon.stop() == 0
    assert [entry["event"] for entry in daemon.events()][-1] == "daemon.stopped"
    assert not rapidpro.calls


async def test_the_daemon_starts_before_couchdb_does(tmp_path: Path, rapidpro: RapidPro) -> None:
    record = data_record(task(message("hello")))
    standin = CouchDBStandin(data_dir=tmp_path / "couchdb")
    async with standin:
        await create_medic(standin, "medic")
        async with Database(standin, "medic") as medic:
            await medic.put(record)
    daemon = Daemon(tmp_path / "gateway", standin, "medic", {"url": rapidpro.url}, TOKEN)
    await daemon.start()
    try:
        await until(lambda: bool(logged(daemon, "dependency.lost")))
        async with standin, Database(standin, "medic") as medic:
            await reaches(medic, record["_id"], "received-by-gateway")
            assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    assert len(rapidpro.broadcasts) == 1


async def test_a_second_daemon_on_the_same_state_directory_ends_at_once(new_daemon: NewDaemon) -> None:
    first, second = new_daemon(), new_daemon()
    await first.start()
    await until(lambda: bool(logged(first, "daemon.started")))
    await second.start()
    assert await second.wait() == 78
    assert "in use by another cht-rapidpro" in first.log.read_text()
    assert first.is_running


async def test_two_signals_kill(new_daemon: NewDaemon, medic: Database, rapidpro: RapidPro) -> None:
    await medic.put(data_record(task(message("hello"))))
    rapidpro.fail(Fault("POST broadcasts", Hang()))
    daemon = new_daemon()
    await daemon.start()
    await until(lambda: len(rapidpro.calls) > 0)
    daemon.signal(signal.SIGINT)
    await until(lambda: bool(logged(daemon, "stop.requested")))
    daemon.signal(signal.SIGINT)
    assert await daemon.wait() == -signal.SIGINT


async def test_sighup_reloads_and_says_so_at_every_level(new_daemon: NewDaemon, medic: Database) -> None:
    daemon = new_daemon()
    await daemon.start()
    await until(lambda: bool(logged(daemon, "sending.enabled")))
    good = daemon.config.read_text()
    for level in ("debug", "error", "warning", "info"):
        told = len(logged(daemon, "config.reloaded"))
        daemon.config.write_text(good.replace("[log]", f'[log]\nlevel = "{level}"'))
        daemon.signal(signal.SIGHUP)
        await until(lambda told=told: len(logged(daemon, "config.reloaded")) == told + 1)  # type: ignore[misc]
    assert [entry["changed"] for entry in logged(daemon, "config.reloaded")] == [["log.level"]] * 4
    daemon.config.write_text("[log]\nlevel = 'loud'")
    daemon.signal(signal.SIGHUP)
    await until(lambda: bool(logged(daemon, "config.rejected")))
    record = data_record(task(message("hello")))
    await medic.put(record)
    await reaches(medic, record["_id"], "received-by-gateway")
    assert await daemon.stop() == 0
    assert len(logged(daemon, "broadcast.created")) == 1, "at the level of the last good file"
    assert len([entry for entry in daemon.events() if entry["level"] == "error"]) == 1


# Stands in for a module that the command imports: the import waits until the pipe beside it is opened.
SLOW_IMPORT = """
import pathlib, sys
pathlib.Path(__file__).with_name("pipe").read_bytes()
sys.path.remove(str(pathlib.Path(__file__).parent))
del sys.modules["getpass"]
import getpass
"""


@pytest.mark.parametrize("moment", ["imports", "configuration"])
async def test_a_sighup_during_the_start_is_a_reload_afterwards(
    new_daemon: NewDaemon, tmp_path: Path, moment: str
) -> None:
    """Without the block a signal before the handler ends the process; ignored, the change would never be read."""
    daemon = new_daemon()
    pipe = tmp_path / "slow" / "pipe"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    good = daemon.config.read_bytes()
    if moment == "imports":
        (pipe.parent / "getpass.py").write_text(SLOW_IMPORT)
        daemon.environ["PYTHONPATH"] = str(pipe.parent)
    else:
        daemon.config.unlink()
        daemon.config.symlink_to(pipe)
    await daemon.start()
    with await asyncio.to_thread(pipe.open, "wb") as waiting:  # opens when the daemon has come to read from it
        daemon.signal(signal.SIGHUP)
        if moment == "configuration":
            daemon.config.unlink()
            daemon.config.write_bytes(good)
            waiting.write(good)
    await until(lambda: bool(logged(daemon, "config.reloaded")))
    assert await daemon.stop() == 0


async def test_no_text_number_or_secret_is_in_any_log_line(
    new_daemon: NewDaemon, medic: Database, rapidpro: RapidPro, couchdb: CouchDBServer
) -> None:
    """Invariant 7, at the most talkative level, with everything going wrong that talks."""
    records: list[Doc] = [
        data_record(task(message("Zebra secret", "+254712345678"))),
        data_record(task(message("Zebra refused", "phone254712345678"))),
        data_record(task(message("Zebra doubted", "0712345679"))),
        data_record(task(message("Zebra cut", "+254712345680"))),
        data_record(task(message("Zebra " * 1000, "+254712345681"))),
        data_record(task(message("Zebra half", "+254712345682")), doc_id="reminder:+254712345678"),
        data_record(task(message("Zebra login", "+254712345683")), doc_id="token:login:Zebra"),
    ]
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "Zebra +254712345679"), contains="doubted"))
    rapidpro.fail(Fault("POST broadcasts", Reset(), contains="cut"))
    rapidpro.fail(Fault("POST broadcasts", HalfBody(), contains="half", after=True))
    daemon = new_daemon(log={"level": "debug"}, outgoing={"settle_time": "1s"}, rapidpro={"timeout": "500ms"})
    await daemon.start()
    await medic.bulk(records)
    await until(lambda: len(logged(daemon, "task.settled")) == len(records))
    rapidpro.fail(Fault("any", Answer(403, f'{{"detail":"{TOKEN} is no token of +254712345678"}}', "application/json")))
    await medic.put(data_record(task(message("Zebra again"))))
    await until(lambda: bool(logged(daemon, "dependency.refused")))
    daemon.signal(signal.SIGTERM)
    await daemon.wait()
    written = daemon.log.read_text()
    assert "Zebra" not in written
    assert re.findall(r"\d{9}", re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}", "", written)) == []
    assert TOKEN not in written
    assert f'"{couchdb.password}"' not in written


def test_a_wrong_configuration_ends_with_78_and_names_the_key(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[rapidpro]\ntoken = "x"\nmax_concurency = 4\n')
    ended = _command("run", "--config", str(config))
    assert (ended.returncode, ended.stdout) == (78, "")
    assert f"{config}: [rapidpro]" in ended.stderr
    assert "max_concurrency" in ended.stderr
    assert _command("run", "--config", str(tmp_path / "none.toml")).returncode == 78


def test_wrong_usage_ends_with_2_and_the_version_with_0() -> None:
    assert _command().returncode == _command("run", "fast").returncode == _command("dance").returncode == 2
    version = _command("--version")
    assert (version.returncode, re.fullmatch(r"cht-rapidpro \d+\.\d+\.\d+\n", version.stdout) is not None) == (0, True)


def test_without_config_the_environment_tells_which_and_then_the_installed_one_is_taken(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[incoming]\nspool = "none.sqlite3"\n')
    listed = _command("spool", "list", CHT_RAPIDPRO_CONFIG=str(config))
    assert (listed.returncode, str(tmp_path / "none.sqlite3") in listed.stdout + listed.stderr) != (78, False)
    for command in ("run", "check", "status"):
        ended = _command(command, CHT_RAPIDPRO_CONFIG=str(tmp_path / "away.toml"))
        assert (ended.returncode, f"cannot read {tmp_path / 'away.toml'}" in ended.stderr) == (78, True)
    if not Path(arguments.INSTALLED_CONFIG).exists():
        assert "cannot read /etc/cht-rapidpro/config.toml" in _command("status").stderr


def test_the_readme_shows_the_commands_that_there_are() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = set(re.findall(r"^cht-rapidpro (\w+)", readme, re.MULTILINE))
    offered = set(re.findall(r"^    ([a-z]+)", _command("--help").stdout, re.MULTILINE))
    assert shown == offered

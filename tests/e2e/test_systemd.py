"""The service as systemd runs it, from the commands of systemd/install.md on; systemd itself is played by the test."""

import asyncio
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from cht_rapidpro.config.schema import Rapidpro
from cht_rapidpro.config.secrets import SECRETS
from cht_rapidpro.telemetry.metrics import GAUGES, Metrics, request_times
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import COMMAND, HAND_OVER, note_sender
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import reaches
from tests.support.fault_proxy import until

ROOT: Final = Path(__file__).parents[2]
UNIT: Final = ROOT / "systemd" / "cht-rapidpro.service"
SOCKET: Final = UNIT.with_suffix(".socket")
ANALYZE: Final = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is missing: apt-get install systemd")

# What a test cannot do as a user without root, or without a package registry, and the program that it already has.
STAND_INS: Final = {
    "apt-get": "exit 0",
    "systemctl": "exit 0",
    "openssl": "echo the-key-that-was-made",
    "python3": f'mkdir -p "$3/bin"; ln -s {COMMAND} "$3/bin"; ln -s /bin/true "$3/bin/pip"',
}


def commands() -> Iterator[str]:
    """Those of install.md, as a user pastes them one after the other."""
    for block in re.findall(
        r"^```sh\n(.*?)^```", (ROOT / "systemd" / "install.md").read_text(), re.MULTILINE | re.DOTALL
    ):
        yield from re.findall(r"^(?:.*<<'END'\n(?s:.*?)^END|.+)$", block, re.MULTILINE)


def unit(key: str) -> list[str]:
    """The values of a key of the unit."""
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


class Machine:
    """A directory tree that takes the place of `/`: its etc, opt and var."""

    def __init__(self, root: Path, couchdb: CouchDBServer, database: str, rapidpro: RapidPro) -> None:
        self.root = root
        self.webhook = socket.create_server(("127.0.0.1", 0))
        self._input = {"couchdb-password": couchdb.password, "rapidpro-token": TOKEN}
        self._own = {
            "http://127.0.0.1:5984": couchdb.url,
            "https://rapidpro.example.org": rapidpro.url,
            '"medic"': f'"{database}"',
            '"gateway"': f'"{couchdb.user}"',
            "[cht]": f'[admin]\nlisten = "127.0.0.1:{_free_port()}"\n[cht]',
        }
        (root / "bin").mkdir()
        for name, script in STAND_INS.items():
            (root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (root / "bin" / name).chmod(0o755)
        (root / "etc/systemd/system").mkdir(parents=True)
        (root / "var/lib").mkdir(parents=True)
        self.environ = {"PATH": f"{root / 'bin'}:{os.environ['PATH']}"}

    def here(self, text: str) -> str:
        """A command or a path of the real machine, as it is in this tree."""
        return re.sub(r"(?<![\w/])/(?=(?:etc|opt|var)/)", f"{self.root}/", text)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """What the user types, with the addresses of this test, and pastes."""
        for there, mine in self._own.items():
            command = command.replace(there, mine)
        typed = next((f"{secret}\n" for name, secret in self._input.items() if command.endswith(f"/{name}")), "")
        return subprocess.run(  # noqa: S603
            ["/bin/sh", "-c", self.here(command)],
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environ,
            cwd=ROOT,
        )


class Systemd:
    """Runs the unit's ExecStart and hears what the service says."""

    def __init__(self, machine: Machine, heard: socket.socket) -> None:
        self._machine = machine
        self._heard = heard
        self.said: list[str] = []

    async def start(self, **environ: str) -> None:
        credentials = self._machine.root / "run/credentials"
        credentials.mkdir(parents=True)
        for name, _, instead in (value.partition(":") for value in unit("SetCredential")):
            (credentials / name).write_text(instead)
        for name, _, file in (value.partition(":") for value in unit("LoadCredential")):
            with suppress(FileNotFoundError):
                shutil.copy(self._machine.here(file), credentials / name)
        state = self._machine.root / "var/lib" / unit("StateDirectory")[0]
        state.mkdir(parents=True)
        note_sender(state)
        given = {
            "NOTIFY_SOCKET": self._heard.getsockname(),
            "CREDENTIALS_DIRECTORY": str(credentials),
            "STATE_DIRECTORY": str(state),
            **environ,
        }
        command = shlex.split(self._machine.here(unit("ExecStart")[0]))
        webhook = self._machine.webhook.fileno()
        with (self._machine.root / "journal").open("wb") as journal:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", HAND_OVER, str(webhook), *command),
                env=given,
                stdout=journal,
                stderr=journal,
                pass_fds=[webhook],
            )

    def hear(self) -> None:
        """Takes what is there: a socket holds ten messages, and more are lost."""
        with suppress(BlockingIOError):
            while True:
                self.said.append(self._heard.recv(4096).decode())

    def hears(self, start: str, times: int = 1) -> bool:
        """Whether it has been told something that begins so, so many times."""
        self.hear()
        return sum(word.startswith(start) for word in self.said) >= times


@pytest.fixture
def machine(tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro) -> Iterator[Machine]:
    made = Machine(tmp_path, couchdb, medic.name, rapidpro)
    with made.webhook:
        yield made


@asynccontextmanager
async def systemd(machine: Machine, **environ: str) -> AsyncIterator[Systemd]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(machine.root / "notify"))
        heard.setblocking(False)
        service = Systemd(machine, heard)
        asyncio.get_running_loop().add_reader(heard, service.hear)
        await service.start(**environ)
        try:
            yield service
        finally:
            asyncio.get_running_loop().remove_reader(heard)
            if service.process.returncode is None:
                service.process.kill()
                await service.process.wait()


async def _webhook(machine: Machine, key: str) -> tuple[int, object]:
    """What the flow is answered that brings this key."""
    url = f"http://127.0.0.1:{machine.webhook.getsockname()[1]}/api/v2/sms/rapidpro/incoming-messages"
    body = {"id": "1", "from": "+254712345678", "content": "hello"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=body, headers={"Authorization": f"Token {key}"}) as answer,
    ):
        return answer.status, await answer.json()


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def test_there_are_ten_commands() -> None:
    assert len(list(commands())) == 10


async def test_from_nothing_to_a_running_service_and_its_stop(
    machine: Machine, tmp_path: Path, medic: Database
) -> None:
    *before, status = commands()
    for command in before:
        done = await asyncio.to_thread(machine.run, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    installed = tmp_path / "etc/systemd/system"
    assert {file.name: file.read_text() for file in installed.iterdir()} == {
        file.name: file.read_text() for file in (UNIT, SOCKET)
    }
    assert (tmp_path / "etc/cht-rapidpro/rapidpro-token").stat().st_mode & 0o777 == 0o600
    # A watchdog of a second is fed four times a second.
    async with systemd(machine, WATCHDOG_USEC="1000000") as service:
        await until(lambda: service.hears("READY=1"))
        await until(lambda: service.hears("WATCHDOG=1", times=3))
        assert service.hears("STATUS=")
        record = data_record(task(message("hello")))
        await medic.put(record)
        await reaches(medic, record["_id"], "received-by-gateway")
        assert await _webhook(machine, "the-key-that-was-made") == (200, {"saved": 1})
        assert (await _webhook(machine, "another"))[0] == 403
        shown = await asyncio.to_thread(machine.run, status)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert re.search(r"^couchdb +works, for ", shown.stdout, re.MULTILINE)
        service.process.send_signal(signal.SIGHUP)
        await until(lambda: service.hears("READY=1", times=2))
        reload = [word.partition("=")[0] for word in service.said if not word.startswith(("STATUS", "WATCHDOG"))]
        assert reload == ["READY", "RELOADING", "READY"]
        service.process.send_signal(signal.SIGTERM)
        assert await service.process.wait() == 0
        assert service.hears("STOPPING=1")
    gone = await asyncio.to_thread(machine.run, status)
    assert gone.returncode == 1
    assert "no cht-rapidpro answers at 127.0.0.1:" in gone.stderr
    assert TOKEN not in (tmp_path / "journal").read_text()


async def test_the_daemon_is_ready_while_couchdb_and_rapidpro_are_away(
    machine: Machine, tmp_path: Path, couchdb: CouchDBServer
) -> None:
    for command in commands():
        if "/dev/stdin" in command:
            await asyncio.to_thread(machine.run, command)
    config = tmp_path / "etc/cht-rapidpro/config.toml"
    config.write_text(config.read_text().replace(couchdb.url, "http://127.0.0.1:1"))
    (tmp_path / "opt/cht-rapidpro/bin").mkdir(parents=True)
    (tmp_path / "opt/cht-rapidpro/bin/cht-rapidpro").symlink_to(COMMAND)
    async with systemd(machine, WATCHDOG_USEC="1000000") as service:
        await until(lambda: service.hears("STATUS=degraded; CouchDB "))
        assert await _webhook(machine, "the-key-that-was-made") == (200, {"saved": 1})
        await until(lambda: service.hears("WATCHDOG=1", times=3))
        shown = await asyncio.to_thread(machine.run, list(commands())[-1])
        assert shown.returncode == 1
        assert re.search(r"^state +degraded", shown.stdout, re.MULTILINE)


def test_each_credential_has_something_in_place_of_a_missing_file() -> None:
    """Without it systemd does not start the daemon, and says "Protocol error" alone."""
    loaded = [value.partition(":")[0] for value in unit("LoadCredential")]
    assert unit("SetCredential") == [f"{name}:(no file)" for name in loaded]
    assert loaded == list(SECRETS)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("couchdb-password", "[couchdb] user: found one without a password"),
        ("rapidpro-token", "[rapidpro] token: found none"),
        ("incoming-key", "every webhook is refused"),
    ],
)
async def test_a_secret_whose_file_is_missing_is_named(machine: Machine, missing: str, says: str) -> None:
    for command in commands():
        if "/dev/stdin" in command and not command.endswith(missing):
            await asyncio.to_thread(machine.run, command)
    (machine.root / "opt/cht-rapidpro/bin").mkdir(parents=True)
    (machine.root / "opt/cht-rapidpro/bin/cht-rapidpro").symlink_to(COMMAND)
    journal = machine.root / "journal"
    async with systemd(machine) as service:
        if missing == "incoming-key":  # messages can go out without one
            await until(lambda: "incoming.no_keys" in journal.read_text())
        else:
            assert await service.process.wait() == 78
    assert says in journal.read_text()
    assert f"/etc/cht-rapidpro/{missing}" in journal.read_text()


def _copy(folder: Path) -> Path:
    """The unit, with a program that this machine has."""
    copy = folder / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/cht-rapidpro/bin/cht-rapidpro", "/bin/true"))
    return copy


@needs_systemd
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    shutil.copy(SOCKET, tmp_path)
    done = _analyze("verify", "--man=no", str(_copy(tmp_path)), str(tmp_path / SOCKET.name))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_the_unit_is_hardened(tmp_path: Path) -> None:
    """systemd's own measure, from 0 (sealed) to 10: 1.1 or less."""
    done = _analyze("security", "--offline=true", "--threshold=11", "--no-pager", str(_copy(tmp_path)))
    assert done.returncode == 0, done.stdout


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603


def test_the_service_is_restarted_with_a_pause_and_without_an_end() -> None:
    """With RestartPreventExitStatus= the socket would start a daemon that cannot be configured without any pause."""
    assert (unit("RestartPreventExitStatus"), unit("Restart")) == ([], ["on-failure"])
    assert (unit("RestartSec"), unit("StartLimitIntervalSec")) == (["5s"], ["0"])


def test_a_stop_and_a_start_are_given_the_time_that_they_need() -> None:
    assert _seconds("TimeoutStopSec") > Rapidpro().timeout + 39
    assert _seconds("WatchdogSec") > 60


def _seconds(key: str) -> float:
    """The value of a key of the unit, such as 2min."""
    number, of = re.fullmatch(r"(\d+)(s|min)", unit(key)[0]).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "min": 60}[of]


def test_the_documentation_lists_every_metric() -> None:
    told = set(re.findall(r"`(\w+)`", (ROOT / "docs/operations/metrics.md").read_text()))
    metrics = Metrics()
    metrics.include(request_times("couchdb"), request_times("rapidpro", "scope"), request_times("webhook", "answer"))
    offered = re.findall(
        r"^# TYPE cht_rapidpro_(\w+)", metrics.render(dict.fromkeys(GAUGES, 0.0)).decode(), re.MULTILINE
    )
    assert offered
    assert set(offered) <= told

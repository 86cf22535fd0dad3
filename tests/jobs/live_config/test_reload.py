"""SIGHUP: what changes while the daemon runs, what waits for a restart, and that a bad file changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.config.loader import load
from cht_rapidpro.config.schema import Config
from cht_rapidpro.jobs.live_config.reload import Reload
from tests.support.fault_proxy import until

FILE = """
[couchdb]
user = "gateway"
password_file = "couchdb-password"
[rapidpro]
url = "https://rapidpro.example.org"
token_file = "rapidpro-token"
"""

FIRST = "p1", "t1"


class Running:
    """The job on a configuration file; `applied`: what its listeners were given."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.applied: list[Config] = []
        self.logs: Sequence[Any] = ()
        self._path = folder / "gateway.toml"
        self._requested = asyncio.Event()
        self.write(FILE)
        self.job = Reload(load(self._path, environ), lambda: load(self._path, environ), self._requested)
        self.job.subscribe(self.applied.append)

    def write(self, toml: str, password: str = FIRST[0], token: str = FIRST[1]) -> None:
        self._path.write_text(toml)
        (self.folder / "couchdb-password").write_text(password + "\n")
        (self.folder / "rapidpro-token").write_text(token + "\n")

    async def reload(self) -> Any:
        """The one line that tells of it."""
        before = len(self.told)
        self._requested.set()
        await until(lambda: len(self.told) > before)
        return self.told[-1]

    @property
    def told(self) -> list[Any]:
        return [entry for entry in self.logs if entry["event"] in ("config.reloaded", "config.rejected")]


@asynccontextmanager
async def running(folder: Path, environ: dict[str, str] | None = None) -> AsyncIterator[Running]:
    found = Running(folder, environ or {})
    with capture_logs() as found.logs:
        job = asyncio.create_task(found.job.run())
        yield found
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job


RELOADED: dict[str, tuple[Callable[[Running], None], list[str], Callable[[Config], object], object]] = {
    "nothing": (lambda _: None, [], lambda config: config.rapidpro.token.reveal(), "t1"),
    "token": (
        lambda run: run.write(FILE, token="t2"),
        ["rapidpro.token"],
        lambda config: config.rapidpro.token.reveal(),
        "t2",
    ),
    "password": (
        lambda run: run.write(FILE, password="p2"),
        ["couchdb.password"],
        lambda config: config.couchdb.password.reveal(),
        "p2",
    ),
    "user": (
        lambda run: run.write(FILE.replace("gateway", "clerk"), password="p2"),
        ["couchdb.user", "couchdb.password"],
        lambda config: config.couchdb.user,
        "clerk",
    ),
    "level": (lambda run: run.write(FILE + "[log]\nlevel = 'debug'"), ["log.level"], lambda c: c.log.level, "debug"),
    "limits": (
        lambda run: run.write(FILE + "requests_per_hour = 9\nmax_concurrency = 2"),
        ["rapidpro.requests_per_hour", "rapidpro.max_concurrency"],
        lambda config: (config.rapidpro.requests_per_hour, config.rapidpro.max_concurrency),
        (9, 2),
    ),
}


@pytest.mark.parametrize(("change", "changed", "value", "expected"), RELOADED.values(), ids=RELOADED)
async def test_a_reloadable_key_is_in_force_at_once(
    tmp_path: Path,
    change: Callable[[Running], None],
    changed: list[str],
    value: Callable[[Config], object],
    expected: object,
) -> None:
    async with running(tmp_path) as found:
        change(found)
        told = await found.reload()
    assert (told["changed"], told["needs_restart"], told["only_by_restart"]) == (changed, [], [])
    assert told["log_level"] == "info"
    assert [value(config) for config in found.applied] == [expected]


async def test_a_key_that_needs_a_restart_is_logged_each_time_and_not_in_force(tmp_path: Path) -> None:
    toml = FILE + "timeout = '20s'\n[cht]\ninstance = 'north'\n[outgoing]\nexpire_after = '7d'\n[log]\nlevel = 'error'"
    async with running(tmp_path) as found:
        found.write(toml)
        first, second = await found.reload(), await found.reload()
    waiting = ["cht.instance", "rapidpro.timeout", "outgoing.expire_after"]
    assert (first["changed"], first["needs_restart"]) == (["log.level"], waiting)
    assert (second["changed"], second["needs_restart"]) == ([], waiting)
    assert {config.rapidpro.timeout for config in found.applied} == {30.0}
    assert {config.log.level for config in found.applied} == {"error"}


@pytest.mark.parametrize(
    ("toml", "waiting"),
    [
        (FILE.replace("rapidpro.example.org", "elsewhere.example.org"), ["rapidpro.url", "rapidpro.token"]),
        (FILE.replace("[couchdb]", "[couchdb]\nurl='http://127.0.0.1:9'"), ["couchdb.url", "couchdb.password"]),
        (
            FILE.replace('token_file = "rapidpro-token"', "") + "[cht]\ncredentials = 'vault'",
            ["cht.credentials", "rapidpro.token_file", "rapidpro.token"],
        ),
    ],
)
async def test_a_secret_never_goes_where_it_does_not_belong(tmp_path: Path, toml: str, waiting: list[str]) -> None:
    """A new address waits for a restart; the new secret is not for the old one."""
    async with running(tmp_path) as found:
        found.write(toml, *(("p2", "t1") if "couchdb.url" in waiting else ("p1", "t2")))
        told = await found.reload()
    assert sorted(told["needs_restart"]) == sorted(waiting)
    (config,) = found.applied
    assert (config.rapidpro.token.reveal(), config.couchdb.password.reveal()) == ("t1", "p1")
    assert config.rapidpro.url == "https://rapidpro.example.org"


@pytest.mark.parametrize(
    "toml", ["[log", "[log]\nlevel = 'loud'", FILE.replace("couchdb-password", "none"), FILE + "tokn = ''"]
)
async def test_a_bad_file_changes_nothing_and_is_one_error(tmp_path: Path, toml: str) -> None:
    async with running(tmp_path) as found:
        found.write(toml, token="t2")
        told = await found.reload()
        assert (told["event"], told["log_level"]) == ("config.rejected", "error")
        assert str(tmp_path / "gateway.toml") in told["error"]
        assert (found.applied, len(found.logs)) == ([], 1)
        found.write(FILE, token="t2")
        assert (await found.reload())["changed"] == ["rapidpro.token"]


async def test_secrets_that_only_a_restart_can_change_are_named(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "couchdb-password").write_text("p1")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials), "CHT_RAPIDPRO_RAPIDPRO_TOKEN": "t1"}
    async with running(tmp_path, environ) as found:
        found.write(FILE, password="p2", token="t2")
        told = await found.reload()
    assert told["only_by_restart"] == [
        "couchdb-password: systemd credential",
        "rapidpro-token: environment variable CHT_RAPIDPRO_RAPIDPRO_TOKEN",
    ]
    assert told["changed"] == []
    assert not [secret for secret in ("p1", "p2", "t1", "t2") if f"'{secret}'" in str(found.logs)]

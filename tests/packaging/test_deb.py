"""The Debian package in a fresh Debian without systemd: install, check, run, upgrade, purge."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import aiohttp
import pytest

from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import INCOMING_KEY
from demo.rapidpro import RapidPro
from tests.packaging.root import Root, overlay, package, run
from tests.support.daemon import reaches
from tests.support.fault_proxy import until
from tests.support.webhook import PATH, listening_socket, url_of


def free_address() -> str:
    with listening_socket() as found:
        return url_of(found).removeprefix("http://")


def started(root: Root, journal: Path) -> subprocess.Popen[bytes]:
    """`cht-rapidpro run` with what the unit would give it."""
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CREDENTIALS_DIRECTORY": "/etc/cht-rapidpro"}
    with journal.open("wb") as out:
        return subprocess.Popen(  # noqa: S603
            ["/usr/sbin/chroot", str(root.path), "cht-rapidpro", "run"],
            stdout=out,
            stderr=out,
            env=environ,
        )


async def posted(address: str) -> int:
    """The status of a webhook's answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://{address}{PATH}",
            json={"id": "1", "from": "+254712345678", "content": "hello"},
            headers={"Authorization": f"Token {INCOMING_KEY}"},
        ) as answer,
    ):
        return answer.status


async def test_install_check_run_upgrade_and_purge(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    deb = package()
    with overlay(tmp_path) as root:
        await asyncio.to_thread(_try, root, deb, couchdb, medic.name, rapidpro.url)
        webhook, admin = free_address(), free_address()
        config = root.path / "etc/cht-rapidpro/config.toml"
        config.write_text(f'{config.read_text()}[incoming]\nlisten = "{webhook}"\n[admin]\nlisten = "{admin}"\n')
        checked = await asyncio.to_thread(root.run, "cht-rapidpro", "check")
        assert checked.returncode == 0, checked.stdout
        journal = tmp_path / "journal"
        daemon = await asyncio.to_thread(started, root, journal)
        try:
            await until(lambda: "incoming.listening" in journal.read_text())
            await until(lambda: "takeover.finished" in journal.read_text())
            record = data_record(task(message("hello")))
            await medic.put(record)
            await reaches(medic, record["_id"], "received-by-gateway")
        finally:
            daemon.terminate()
            assert await asyncio.to_thread(daemon.wait, 60) == 0
        # A message that is nowhere but in the spool, from now on.
        config.write_text(config.read_text().replace(couchdb.url, "http://127.0.0.1:1"))
        daemon = await asyncio.to_thread(started, root, journal)
        try:
            await until(lambda: "incoming.listening" in journal.read_text())
            assert await posted(webhook) == 200
        finally:
            daemon.terminate()
            assert await asyncio.to_thread(daemon.wait, 60) == 0
        await asyncio.to_thread(_upgrade_and_purge, root, deb)


def _try(root: Root, deb: Path, couchdb: CouchDBServer, database: str, rapidpro: str) -> None:
    done = root.run("apt-get", "install", "-y", root.add(deb))
    assert done.returncode == 0, done.stdout
    assert "systemctl enable --now cht-rapidpro.socket cht-rapidpro.service" in done.stdout
    config = root.run("stat", "-c", "%U:%G:%a", "/etc/cht-rapidpro/config.toml")
    assert config.stdout == "root:cht-rapidpro:640\n"
    assert root.run("cht-rapidpro", "--version").stdout == f"cht-rapidpro {deb.name.split('_')[1]}\n"
    for file in ("man/man1/cht-rapidpro.1.gz", "bash-completion/completions/cht-rapidpro", "doc/cht-rapidpro/examples"):
        assert (root.path / "usr/share" / file).exists()
    assert root.run("cht-rapidpro", "check").returncode == 78, "the secrets are missing"
    (root.path / "var/lib/cht-rapidpro").mkdir(0o700)
    root.give_secrets(couchdb)
    root.configure(couchdb, database, rapidpro)


def _upgrade_and_purge(root: Root, deb: Path) -> None:
    before = (root.path / "etc/cht-rapidpro/config.toml").read_text()
    done = root.run("apt-get", "install", "-y", root.add(deb, version="9.0.0"))
    assert done.returncode == 0, done.stdout
    assert (root.path / "etc/cht-rapidpro/config.toml").read_text() == before
    removed = root.run("apt-get", "remove", "-y", "cht-rapidpro")
    assert removed.returncode == 0, removed.stdout
    assert "1 waiting, 0 rejected" in removed.stdout
    assert (root.path / "var/lib/cht-rapidpro/spool.sqlite3").exists(), "a removal keeps what it holds"
    purged = root.run("apt-get", "purge", "-y", "cht-rapidpro")
    assert purged.returncode == 0, purged.stdout
    assert "it is kept in /var/backups/cht-rapidpro-spool." in purged.stdout
    assert len(list((root.path / "var/backups").glob("cht-rapidpro-spool.*/spool.sqlite3"))) == 1
    assert root.left() == []
    assert root.run("getent", "passwd", "cht-rapidpro").stdout == ""


def test_lintian_finds_no_error() -> None:
    deb, lintian = package(), shutil.which("lintian")
    if lintian is None:
        pytest.skip("lintian is missing: apt-get install lintian")
    done = run(lintian, "--fail-on", "error", "--allow-root", str(deb))
    assert done.returncode == 0, done.stdout

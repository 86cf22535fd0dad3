"""`cht-rapidpro credentials set`: what is written, what is refused, and that no value is shown."""

import subprocess
from pathlib import Path

import pytest

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Vault
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import Secret
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.process import COMMAND

FILE = """
[couchdb]
url = "{url}"
database = "{database}"
user = "{user}"
password_file = "couchdb-password"
allow_plain_http = true
[cht]
credentials = "{credentials}"
[rapidpro]
url = "http://127.0.0.1:1"
{token}
"""


class Shell:
    """The command, at a configuration file."""

    def __init__(self, folder: Path, couchdb: CouchDBServer, database: str) -> None:
        self.config = folder / "gateway.toml"
        self._couchdb, self._database = couchdb, database
        self.write()

    def write(self, *, credentials: str = "vault", user: str = "", password: str = "", token: str = "") -> None:
        given = {"url": self._couchdb.url, "database": self._database, "user": user or self._couchdb.user}
        self.config.write_text(FILE.format(**given, credentials=credentials, token=token))
        (self.config.parent / "couchdb-password").write_text(password or self._couchdb.password)

    def set(self, name: str, value: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [COMMAND, "credentials", "set", name, "--config", str(self.config)]
        return subprocess.run(command, input=value, capture_output=True, timeout=30, check=False, env={})  # noqa: S603


@pytest.fixture
def shell(tmp_path: Path, couchdb: CouchDBServer, database_name: str) -> Shell:
    return Shell(tmp_path, couchdb, database_name)


async def _stored(couchdb: CouchDBServer, database: str) -> dict[CredentialName, object]:
    config = Couchdb(url=couchdb.url, database=database, user=couchdb.user, password=Secret(couchdb.password))
    async with Couch(config) as couch:
        return dict(await Vault(couch).read(tuple(CredentialName)))


async def test_credentials_set_creates_and_replaces_a_credential(
    shell: Shell, couchdb: CouchDBServer, vault: Database, database_name: str
) -> None:
    first = shell.set("rapidpro:outgoing", b"s3cr3t-token\n")
    second = shell.set("rapidpro:outgoing", "clé 🔑\r\n".encode())
    third = shell.set("rapidpro:incoming", b"s3cr3t-key")
    assert [ended.returncode for ended in (first, second, third)] == [0, 0, 0]
    assert first.stdout.decode() == f"rapidpro:outgoing was created in {couchdb.url}/{database_name}-vault\n"
    assert second.stdout.decode() == f"rapidpro:outgoing was replaced in {couchdb.url}/{database_name}-vault\n"
    assert await _stored(couchdb, database_name) == {
        CredentialName.OUTGOING: Secret("clé 🔑"),
        CredentialName.INCOMING: Secret("s3cr3t-key"),
    }
    doc = await vault.get("credential:rapidpro:incoming")
    assert set(doc) == {"_id", "_rev", "password"}
    assert b"s3cr3t" not in b"".join(ended.stdout + ended.stderr for ended in (first, second, third))


@pytest.mark.parametrize("value", [b"", b"\n", b"s3cr3t\ns3cr3t\n", b"s3cr3t\n\n", b"s3cr3t\x00", b"s3cr3t\xff"])
async def test_credentials_set_refuses_an_implausible_value(shell: Shell, vault: Database, value: bytes) -> None:
    ended = shell.set("rapidpro:outgoing", value)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(b"cht-rapidpro: the value of rapidpro:outgoing: ")
    assert b"s3cr3t" not in ended.stderr
    assert (await vault.request("GET"))["doc_count"] == 0


async def test_credentials_set_refuses_an_unknown_name_as_wrong_usage(shell: Shell, vault: Database) -> None:
    ended = shell.set("rapidpro:outgoin", b"s3cr3t")
    assert ended.returncode == 2
    assert b"choose from 'rapidpro:outgoing', 'rapidpro:incoming'" in ended.stderr


async def test_credentials_set_warns_where_the_vault_is_not_used(shell: Shell, vault: Database) -> None:
    shell.write(credentials="config", token='token = "x"')
    ended = shell.set("rapidpro:outgoing", b"s3cr3t")
    assert ended.returncode == 0
    assert b'[cht] credentials is not "vault"' in ended.stdout


async def test_credentials_set_says_why_it_cannot_write(shell: Shell, database: Database, database_name: str) -> None:
    ended = shell.set("rapidpro:outgoing", b"s3cr3t")
    assert ended.returncode == 1
    assert f"rapidpro:outgoing was not written: CouchDB at {shell._couchdb.url}".encode() in ended.stderr
    assert f"there is no database {database_name}-vault, which CHT creates when it starts".encode() in ended.stderr
    shell.write(user="nobody", password="s3cr3t")
    ended = shell.set("rapidpro:outgoing", b"s3cr3t")
    assert ended.returncode == 1
    assert b"the user 'nobody' must be a server administrator" in ended.stderr
    assert b"s3cr3t" not in ended.stderr
    shell.write(credentials="safe")
    assert shell.set("rapidpro:outgoing", b"s3cr3t").returncode == 78

"""`check` where RapidPro's secrets come from CHT's vault: what is missing there, and the token that is used."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Vault
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import Secret
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.process import COMMAND, Daemon
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN

VAULT = {"cht": {"credentials": "vault"}, "rapidpro": {"token_file": ""}, "incoming": {"key_file": ""}}


class Site:
    def __init__(self, folder: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro) -> None:
        self._config = Daemon(folder, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, VAULT).config
        self._couchdb = Couchdb(
            url=couchdb.url, database=medic.name, user=couchdb.user, password=Secret(couchdb.password)
        )

    async def store(self, name: CredentialName, value: str) -> None:
        async with Couch(self._couchdb) as couch:
            await Vault(couch).write(name, Secret(value))

    async def check(self) -> dict[str, Any]:
        """The findings, by what they are about."""
        command = [COMMAND, "check", "--json", "--config", str(self._config)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        return {finding["about"]: finding for finding in json.loads(done.stdout)}


@pytest.fixture
def site(tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro) -> Site:
    return Site(tmp_path / "site", couchdb, medic, rapidpro)


async def test_the_token_of_the_vault_is_the_one_that_is_tried(site: Site, vault: Database) -> None:
    await site.store(CredentialName.OUTGOING, TOKEN)
    await site.store(CredentialName.INCOMING, "a-key")
    found = await site.check()
    assert {found[about]["mark"] for about in ("vault.outgoing", "vault.incoming", "rapidpro.token")} == {"good"}
    await site.store(CredentialName.OUTGOING, "another")
    found = await site.check()
    assert found["vault.outgoing"]["mark"] == "good"
    assert "refuses the token: Invalid token" in found["rapidpro.token"]["says"]


async def test_a_missing_or_spoilt_credential_is_named_with_the_command_that_sets_it(
    site: Site, vault: Database
) -> None:
    await vault.put({"_id": "credential:rapidpro:outgoing", "password": "00:00"})
    found = await site.check()
    for about, means in (("vault.outgoing", "nothing is sent"), ("vault.incoming", "every webhook is refused")):
        name = about.replace("vault.", "rapidpro:")
        assert (found[about]["mark"], found[about]["remedy"]) == ("bad", f"cht-rapidpro credentials set {name}")
        assert means in found[about]["says"]
    assert "another secret of CouchDB" in found["vault.outgoing"]["says"]
    assert found["rapidpro.reachable"]["says"] == "not asked: there is no token"


async def test_without_a_vault_it_is_said_who_creates_it(site: Site) -> None:
    found = await site.check()
    assert found["vault.readable"]["mark"] == "bad"
    assert "which CHT creates when it starts" in found["vault.readable"]["says"]

"""Secrets and limits that change while the daemon runs, where the order of events is the hard one."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Vault
from cht_rapidpro.config.schema import Cht, Config
from cht_rapidpro.config.secrets import NO_SECRET, Secret
from cht_rapidpro.jobs.live_config.credentials import REFRESH
from cht_rapidpro.jobs.live_config.reload import Reload
from demo.database import Database
from demo.medic import data_record, message, task
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump

NEW: Final = "fedcba9876543210"


def named(logs: Sequence[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


class File:
    """The configuration file of a running daemon, as what is read from it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._requested = asyncio.Event()
        self.reload = Reload(config, lambda: self.config, self._requested)

    def change(self, **keys: Any) -> None:
        """Other keys of [rapidpro], and a SIGHUP."""
        rapidpro = msgspec.structs.replace(self.config.rapidpro, **keys)
        self.config = msgspec.structs.replace(self.config, rapidpro=rapidpro)
        self._requested.set()


async def test_a_token_that_was_revoked_first_goes_on_at_the_reload_and_not_a_minute_later(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    records = [data_record(task(message(f"hello {number}"))) for number in range(20)]
    rapidpro.tokens = {NEW}
    file = File(configure(gate, medic, rapidpro, TOKEN))
    with capture_logs() as logs:
        async with running(file.config, reload=file.reload):
            await medic.bulk(records)
            await until(lambda: bool(named(logs, "dependency.refused")))
            file.change(token=Secret(NEW))
            for record in records:
                await reaches(medic, record["_id"], "received-by-gateway")
    assert len(rapidpro.broadcasts) == 20
    assert len(named(logs, "dependency.refused")) == 1
    assert len(named(logs, "dependency.recovered")) == 1


async def test_with_the_vault_it_goes_on_as_soon_as_rapidpro_is_asked_again(
    gate: Gate, medic: Database, vault: Database, rapidpro: RapidPro
) -> None:
    """Revoked first, and the new one comes into the vault after it was looked for there."""
    config = _with_vault(configure(gate, medic, rapidpro, TOKEN))
    rapidpro.tokens = {NEW}
    record = data_record(task(message("hello")))
    with capture_logs() as logs:
        async with Couch(config.couchdb) as editor:
            await Vault(editor).write(CredentialName.OUTGOING, Secret(TOKEN))
            async with running(config):
                await medic.put(record)
                await until(lambda: bool(named(logs, "dependency.refused")))
                await reaches(medic, record["_id"], "pending", hurry=1)
                await Vault(editor).write(CredentialName.OUTGOING, Secret(NEW))
                jump(61)  # then RapidPro is asked a harmless question, and the vault with it
                await reaches(medic, record["_id"], "received-by-gateway")
    assert len(rapidpro.broadcasts) == 1


async def test_a_burst_with_a_revoked_token_asks_the_vault_once_and_is_sent(
    gate: Gate, medic: Database, vault: Database, rapidpro: RapidPro
) -> None:
    config = _with_vault(configure(gate, medic, rapidpro, TOKEN))
    records = [data_record(task(message(f"hello {number}"))) for number in range(50)]
    async with Couch(config.couchdb) as editor:
        await Vault(editor).write(CredentialName.OUTGOING, Secret(TOKEN))
        with capture_logs() as logs:
            async with running(config):
                await until(lambda: bool(named(logs, "sending.enabled")))
                await until(lambda: "POST _all_docs" in gate.requests)
                await Vault(editor).write(CredentialName.OUTGOING, Secret(NEW))
                rapidpro.tokens = {NEW}
                secrets = gate.requests.count("GET secret")
                await medic.bulk(records)
                for record in records:
                    await reaches(medic, record["_id"], "received-by-gateway")
                assert gate.requests.count("GET secret") == secrets + 1
    assert len(rapidpro.broadcasts) == 50
    assert [entry for entry in logs if entry["log_level"] == "error" and "incoming" not in str(entry)] == []
    assert not named(logs, "task.released")


@pytest.mark.parametrize("has_vault", [False, True])
async def test_before_there_is_a_token_nothing_is_claimed(
    has_vault: bool, gate: Gate, medic: Database, database_name: str, rapidpro: RapidPro
) -> None:
    config = _with_vault(configure(gate, medic, rapidpro, TOKEN))
    record = data_record(task(message("hello")))
    await medic.put(record)
    with capture_logs() as logs:
        async with Database(gate, f"{database_name}-vault") as vault, Couch(config.couchdb) as editor:
            if has_vault:
                await vault.create()
            event = "credential.unusable" if has_vault else "dependency.refused"
            async with running(config):
                await until(lambda: bool(named(logs, event)))
                await until(lambda: bool(named(logs, "sending.enabled")))
                assert states(await medic.get(record["_id"])) == ["pending"]
                if not has_vault:
                    await vault.create()
                await Vault(editor).write(CredentialName.OUTGOING, Secret(TOKEN))
                jump(REFRESH)
                await reaches(medic, record["_id"], "received-by-gateway")
            await vault.destroy()
    assert not rapidpro.calls[0].target.startswith("GET"), "no question without a token"
    assert {call.status for call in rapidpro.calls} == {201}
    told = named(logs, event)[0]
    assert told["log_level"] == "error"
    assert ("nothing is sent" if has_vault else "there is no database") in str(told)


def _with_vault(config: Config) -> Config:
    rapidpro = msgspec.structs.replace(config.rapidpro, token=NO_SECRET)
    return msgspec.structs.replace(config, cht=Cht(credentials="vault"), rapidpro=rapidpro)


async def test_the_limits_of_a_reload_are_in_force_at_once(gate: Gate, medic: Database, rapidpro: RapidPro) -> None:
    records = [data_record(task(message(f"hello {number}"))) for number in range(30)]
    await medic.bulk(records)
    file = File(configure(gate, medic, rapidpro, TOKEN, requests_per_hour=5, max_concurrency=1))
    most = 0
    rapidpro.wire.latency = 0.05
    async with running(file.config, reload=file.reload):
        await until(lambda: len(rapidpro.broadcasts) == 5)
        await until(lambda: _open(rapidpro) == 0)
        file.change(requests_per_hour=None, max_concurrency=8)

        def counted() -> bool:
            nonlocal most
            most = max(most, _open(rapidpro))
            return len(rapidpro.broadcasts) == 30

        await until(counted)
        for record in records:
            await reaches(medic, record["_id"], "received-by-gateway")
    assert 1 < most <= 8


def _open(rapidpro: RapidPro) -> int:
    return sum(call.status is None for call in rapidpro.calls)

"""The keyring filled from CHT's vault: every few minutes, at once after a refusal, and never with less than it had."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Vault
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secret_store import Keyring, Secrets
from cht_rapidpro.config.secrets import NO_SECRET, Secret
from cht_rapidpro.jobs.live_config.credentials import GRACE, LEAST_PAUSE, REFRESH, Credentials
from demo.database import Database
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump

OUTGOING, INCOMING = CredentialName.OUTGOING, CredentialName.INCOMING
READ: Final = "POST _all_docs"


class Running:
    """The job, between a keyring and a vault that a test writes into by another session."""

    def __init__(self, gate: Gate, database: str) -> None:
        self.gate = gate
        config = Couchdb(url=gate.url, database=database, user=gate.user, password=Secret(gate.password))
        self.couch, self.editor = Couch(config), Couch(config)
        self.keyring = Keyring(Secrets())
        self.job = Credentials(Vault(self.couch), self.keyring, tuple(CredentialName))

    @property
    def reads(self) -> int:
        return self.gate.requests.count(READ)

    @property
    def token(self) -> Secret:
        return self.keyring.secrets.rapidpro_token

    @property
    def keys(self) -> list[str]:
        return [key.reveal() for key in self.keyring.secrets.incoming_keys]

    async def write(self, name: CredentialName, value: str) -> None:
        await Vault(self.editor).write(name, Secret(value))

    async def reads_again(self) -> None:
        """As after a refusal; returns when it is done."""
        jump(LEAST_PAUSE)
        await self.keyring.renew("rapidpro_token")


@asynccontextmanager
async def running(gate: Gate, database: str, **stored: str) -> AsyncIterator[Running]:
    """The job, when it has filled the keyring for the first time from what is `stored`."""
    found = Running(gate, database)
    async with found.couch, found.editor:
        for name, value in stored.items():
            await found.write(CredentialName[name], value)
        filled = asyncio.Event()
        found.keyring.subscribe(filled.set)
        job = asyncio.create_task(found.job.run())
        try:
            await filled.wait() if stored else await until(lambda: found.reads == 1)
            yield found
        finally:
            job.cancel()
            with suppress(asyncio.CancelledError):
                await job


def named(logs: list[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


async def test_the_vault_is_read_every_five_minutes_and_no_more(
    gate: Gate, vault: Database, database_name: str
) -> None:
    async with running(gate, database_name, OUTGOING="t1", INCOMING="k1") as found:
        assert (found.token, found.keys) == (Secret("t1"), ["k1"])
        await found.write(OUTGOING, "t2")
        jump(REFRESH - 5)
        await asyncio.sleep(0.1)
        assert (found.reads, found.token) == (1, Secret("t1"))
        jump(5)
        await until(lambda: found.token == Secret("t2"))
        assert found.gate.requests.count("GET secret") == 2 + 3, "two requests a reading, and those of the writes"


async def test_a_refusal_reads_it_at_once_for_all_who_were_refused(
    gate: Gate, vault: Database, database_name: str
) -> None:
    async with running(gate, database_name, OUTGOING="t1") as found:
        await found.write(OUTGOING, "t2")
        jump(LEAST_PAUSE)
        await asyncio.gather(*(found.keyring.renew("incoming_keys") for _ in range(20)))
        assert (found.token, found.reads) == (Secret("t2"), 2)


async def test_refusals_cannot_make_us_hammer_couchdb(gate: Gate, vault: Database, database_name: str) -> None:
    async with running(gate, database_name, OUTGOING="t1") as found:
        await found.keyring.renew("incoming_keys")
        asked = [asyncio.create_task(found.keyring.renew("incoming_keys")) for _ in range(100)]
        await asyncio.sleep(0.05)
        assert (found.reads, any(task.done() for task in asked)) == (2, False)
        await found.write(OUTGOING, "t2")
        jump(LEAST_PAUSE)
        await asyncio.gather(*asked)
        assert (found.reads, found.token) == (3, Secret("t2")), "all have waited for the one reading"


async def test_wrong_keys_do_not_keep_a_rotated_token_from_being_found(
    gate: Gate, vault: Database, database_name: str
) -> None:
    async with running(gate, database_name, OUTGOING="t1") as found:
        await found.keyring.renew("incoming_keys")
        await found.write(OUTGOING, "t2")
        await found.keyring.renew("rapidpro_token")
        assert (found.reads, found.token) == (3, Secret("t2"))


async def test_a_refusal_waits_no_longer_than_couchdb_may_take_and_raises_nothing(
    gate: Gate, vault: Database, database_name: str
) -> None:
    async with running(gate, database_name, OUTGOING="t1") as found:
        gate.is_closed = True
        jump(LEAST_PAUSE)
        await found.keyring.renew("incoming_keys")
        assert found.token == Secret("t1"), "the last good one stays"
        gate.is_closed = False


async def test_a_reload_reads_it_at_once(gate: Gate, vault: Database, database_name: str) -> None:
    async with running(gate, database_name, OUTGOING="t1") as found:
        await found.write(OUTGOING, "t2")
        found.job.refresh()
        await until(lambda: found.token == Secret("t2"))


async def test_a_credential_that_cannot_be_deciphered_changes_nothing_and_is_logged_once(
    gate: Gate, vault: Database, database_name: str
) -> None:
    with capture_logs() as logs:
        async with running(gate, database_name, OUTGOING="t1", INCOMING="k1") as found:
            doc = await vault.get("credential:rapidpro:outgoing")
            await vault.put({**doc, "password": "0" * 32 + ":" + "0" * 32})
            await found.write(INCOMING, "k2")
            for _ in range(3):
                await found.reads_again()
            assert (found.token, found.keys) == (Secret("t1"), ["k2", "k1"])
            await found.write(OUTGOING, "t2")
            await found.reads_again()
            assert found.token == Secret("t2")
    (told,) = named(logs, "credential.unusable")
    assert (told["credential"], told["log_level"]) == ("rapidpro:outgoing", "error")
    assert "the last good one stays in force" in told["problem"]
    assert told["remedy"] == "cht-rapidpro credentials set rapidpro:outgoing"
    assert [entry["credential"] for entry in named(logs, "credential.replaced")] == [
        "rapidpro:incoming",
        "rapidpro:outgoing",
    ]
    assert not [secret for secret in ("t1", "t2", "k1", "k2") if f"'{secret}'" in str(logs)]


async def test_a_credential_that_is_removed_is_not_used_any_more(
    gate: Gate, vault: Database, database_name: str
) -> None:
    with capture_logs() as logs:
        async with running(gate, database_name, OUTGOING="t1", INCOMING="k1") as found:
            for name in CredentialName:
                await vault.delete(f"credential:{name}")
            await found.reads_again()
            assert found.keyring.secrets == Secrets(NO_SECRET, ())
    assert {(entry["credential"], entry["problem"]) for entry in named(logs, "credential.unusable")} == {
        ("rapidpro:outgoing", "there is none; nothing is sent"),
        ("rapidpro:incoming", "there is none; webhooks are refused"),
    }


async def test_a_replaced_key_opens_the_webhook_until_the_flows_may_be_expected_to_have_the_new_one(
    gate: Gate, vault: Database, database_name: str
) -> None:
    async with running(gate, database_name, INCOMING="k1") as found:
        await found.write(INCOMING, "k2")
        await found.reads_again()
        assert found.keys == ["k2", "k1"]
        await found.write(INCOMING, "k3")
        jump(GRACE / 2)
        await found.reads_again()
        assert found.keys == ["k3", "k1", "k2"]
        jump(GRACE / 2)
        await until(lambda: found.keys == ["k3", "k2"])
        jump(GRACE / 2)
        await until(lambda: found.keys == ["k3"])
        await found.write(INCOMING, "k2")
        await found.reads_again()
        assert found.keys == ["k2", "k3"]


async def test_the_daemon_starts_before_couchdb_and_before_there_is_a_vault(
    gate: Gate, database_name: str, vault: Database
) -> None:
    gate.is_closed = True
    found = Running(gate, database_name)
    async with found.couch, found.editor:
        job = asyncio.create_task(found.job.run())
        await until(lambda: "GET secret" in gate.requests)
        assert found.token == NO_SECRET
        gate.is_closed = False
        await found.write(OUTGOING, "t1")
        await until(lambda: _hurry() and found.token == Secret("t1"))
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job


def _hurry() -> bool:
    jump(1)
    return True

"""CHT's credential store: its cipher, what stands in it, and what is said when it cannot be used."""

from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Unreadable, Vault
from cht_rapidpro.adapters.couchdb.vault_cipher import decipher, encipher, encipher_with
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import NO_SECRET, Secret
from cht_rapidpro.errors import DeniedError, GatewayError, OperatorActionRequiredError, PermanentError, TransientError
from demo.couchdb import CouchDBServer
from demo.database import Database
from tests.support.stub_server import HTML, RESET, Reply, Request, by_name, couchdb_at, scripted

OUTGOING, INCOMING = CredentialName.OUTGOING, CredentialName.INCOMING
BOTH: Final = (OUTGOING, INCOMING)

# Made by the crypto module of node 18, as CHT uses it: createCipheriv("aes-256-cbc", key, iv). The secrets are shorter
# and longer than the key, and not ASCII; the texts end within, at and behind a block.
HEX_SECRET: Final = "92de07df7e7a3fe14808cef90a7cc0d9"
TOKEN: Final = "0123456789abcdef0123456789abcdef01234567"
IVS: Final = ("000102030405060708090a0b0c0d0e0f", "f0e1d2c3b4a5968778695a4b3c2d1e0f")
VECTORS: Final = [
    (
        HEX_SECRET,
        TOKEN,
        f"{IVS[0]}:37132e3fb91849be226123549d6911a14fd6dd9cccbc94174b88fa71604df7ad0eb81808bf6b2ccdce70e1a969bb11b8",
    ),
    (
        HEX_SECRET,
        TOKEN,
        f"{IVS[1]}:6815a6737c45bc3e41843da3c9bc975e874dc080fae06daa48888ed12fa16271459fa51c14b51dfec4aed5f974e78bbc",
    ),
    ("short", "token", f"{IVS[0]}:2a83de3dd236e127b5a659ed733b6d0e"),
    ("a secret of forty characters, which is cut", "token", f"{IVS[0]}:0256ab3493709d531447fa64011b3bd4"),
    ("gehëim-ключ-密鍵-🔑", "token", f"{IVS[1]}:da0d294ee6ff9438dd8a6af8a38f0ad6"),
    ("x", "fifteen bytes..", f"{IVS[0]}:001c2038df1074b7ff2d17098bb99e6a"),
    ("x", "sixteen bytes...", f"{IVS[0]}:fd0b34ba6993e714ba4421d57c99f108d26319929afa8be76489a21eca18d0ed"),
    (
        "x",
        "clé 🔑 of several blocks, with a colon: and more",
        f"{IVS[0]}:667e02a268f2e8cbee88ab6d499594ac177a0951cbd345c99af1780e5a68661b"
        "94203e6c40fe3ad8fa931e9bbdd3ae8e165d32c310c5839867172f28068413e2",
    ),
]


@pytest.mark.parametrize(("node_secret", "text", "stored"), VECTORS)
def test_the_cipher_is_that_of_cht(node_secret: str, text: str, stored: str) -> None:
    assert decipher(stored, node_secret) == text
    assert decipher(stored.upper(), node_secret) == text
    assert encipher_with(bytes.fromhex(stored.partition(":")[0]), text, node_secret) == stored


def test_every_enciphering_is_another_one() -> None:
    once, again = encipher(TOKEN, HEX_SECRET), encipher(TOKEN, HEX_SECRET)
    assert once != again
    assert decipher(once, HEX_SECRET) == decipher(again, HEX_SECRET) == TOKEN


@pytest.mark.parametrize(
    "stored",
    [
        "",
        ":",
        "no hex:at all",
        IVS[0],
        f"{IVS[0]}:",
        f"{IVS[0]}:2a83de3dd236e127b5a659ed733b6d",
        f"{IVS[0][2:]}:2a83de3dd236e127b5a659ed733b6d0e",
        f"{IVS[0]}:2a83de3dd236e127b5a659ed733b6d0f",
        f"{IVS[0]}:2a83de3dd236e127b5a659ed733b6d0e:00",
    ],
)
def test_a_value_in_another_format_is_refused_without_quoting_it(stored: str) -> None:
    with pytest.raises(PermanentError) as caught:
        decipher(stored, "short")
    assert caught.value.__cause__ is None
    assert stored == "" or stored not in str(caught.value)


def test_another_secret_or_none_deciphers_nothing() -> None:
    for node_secret in ("shorter", ""):
        with pytest.raises(PermanentError):
            decipher(VECTORS[2][2], node_secret)


# -- the store, on the stand-in or a real CouchDB ---------------------------------------------------------------------


def _config(couchdb: CouchDBServer, name: str, **login: Any) -> Couchdb:
    own: dict[str, Any] = {"user": couchdb.user, "password": Secret(couchdb.password)}
    return Couchdb(url=couchdb.url, database=name, **{**own, **login})


async def test_a_written_credential_is_read_and_replaced(
    couchdb: CouchDBServer, vault: Database, database_name: str
) -> None:
    async with Couch(_config(couchdb, database_name)) as couch:
        store = Vault(couch)
        assert await store.read(BOTH) == {OUTGOING: NO_SECRET, INCOMING: NO_SECRET}
        assert await store.write(OUTGOING, Secret(TOKEN)) is True
        doc = await vault.get("credential:rapidpro:outgoing")
        await vault.put({**doc, "note": "of somebody else's"})
        assert await store.write(OUTGOING, Secret("another")) is False
        assert await store.write(INCOMING, Secret("clé 🔑")) is True
        assert await store.read(BOTH) == {OUTGOING: Secret("another"), INCOMING: Secret("clé 🔑")}
        assert (await vault.get("credential:rapidpro:outgoing"))["note"] == "of somebody else's"
        await vault.delete("credential:rapidpro:outgoing")
        assert (await store.read(BOTH))[OUTGOING] == NO_SECRET
        assert await store.write(OUTGOING, Secret(TOKEN)) is True
        assert (await store.read(BOTH))[OUTGOING] == Secret(TOKEN)


async def test_a_database_without_a_store_is_told(couchdb: CouchDBServer, database: Database) -> None:
    async with Couch(_config(couchdb, database.name)) as couch:
        store = Vault(couch)
        for call in (store.read(BOTH), store.write(OUTGOING, Secret(TOKEN))):
            with pytest.raises(
                OperatorActionRequiredError, match=f"there is no database {database.name}-vault, which CHT creates"
            ):
                await call


async def test_a_user_without_the_right_is_told_and_still_works_for_the_rest(
    couchdb: CouchDBServer, database: Database, vault: Database
) -> None:
    """CouchDB answers a 401 to who is no administrator; a wrong password must not be suspected then."""
    async with Database(couchdb, "_users") as users:
        name = database.name
        await users.put({"_id": f"org.couchdb.user:{name}", "name": name, "password": "x", "roles": [], "type": "user"})
        try:
            async with Couch(_config(couchdb, name, user=name, password=Secret("x"))) as couch:
                with pytest.raises(OperatorActionRequiredError, match="must be a server administrator") as caught:
                    await Vault(couch).read(BOTH)
                assert not isinstance(caught.value, DeniedError)
                members = {"admins": {"names": [name], "roles": []}, "members": {"names": [name], "roles": []}}
                await database.request("PUT", "_security", body=members)
                assert await couch.update_seq()
        finally:
            await users.delete(f"org.couchdb.user:{name}")


# -- what a scripted CouchDB can say ----------------------------------------------------------------------------------

SECRET: Final = Reply("short")
EMPTY: Final = Reply({"rows": [{"key": "credential:rapidpro:outgoing", "error": "not_found"}]})


def _rows(password: object) -> Reply:
    doc = {"_id": f"credential:{OUTGOING}", "password": password}
    return Reply({"rows": [{"id": doc["_id"], "doc": doc}, {"id": f"credential:{INCOMING}", "doc": None}]})


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        (VECTORS[2][2], Secret("token")),
        ("", NO_SECRET),
        (None, NO_SECRET),
        (7, Unreadable("its password is no text")),
        ("token", Unreadable("it is not in CHT's format, or enciphered under another secret of CouchDB")),
        (
            encipher_with(bytes(16), "two\nlines", "short"),
            Unreadable("found a second line or a control character in it; allowed: only the secret"),
        ),
    ],
)
async def test_a_stored_credential_is_one_of_three_things(password: object, expected: Secret | Unreadable) -> None:
    script = by_name({"GET secret": SECRET, "POST _all_docs": _rows(password)})
    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        assert await Vault(couch).read(BOTH) == {OUTGOING: expected, INCOMING: NO_SECRET}


async def test_a_newer_couchdb_keeps_the_secret_at_another_place() -> None:
    async def script(request: Request) -> Reply:
        if request.target.endswith("/_node/_local/_config/chttpd_auth/secret"):
            return SECRET
        return _rows(VECTORS[2][2]) if request.name == "POST _all_docs" else Reply(status=404)

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        assert (await Vault(couch).read(BOTH))[OUTGOING] == Secret("token")


@pytest.mark.parametrize(
    ("replies", "kind", "says"),
    [
        ({}, OperatorActionRequiredError, "has no couch_httpd_auth/secret"),
        ({"GET secret": Reply("")}, OperatorActionRequiredError, "has no couch_httpd_auth/secret"),
        ({"GET secret": Reply(status=401)}, OperatorActionRequiredError, "'gateway' must be a server administrator"),
        ({"GET secret": Reply(status=403)}, OperatorActionRequiredError, "'gateway' must be a server administrator"),
        ({"GET secret": Reply(status=503)}, TransientError, "HTTP 503"),
        ({"GET secret": RESET}, TransientError, "CouchDB at"),
        ({"GET secret": HTML}, TransientError, "CouchDB at"),
        ({"GET secret": SECRET}, OperatorActionRequiredError, "there is no database medic-vault"),
        ({"GET secret": SECRET, "POST _all_docs": HTML}, TransientError, "CouchDB at"),
        ({"GET secret": SECRET, "POST _all_docs": Reply([])}, TransientError, "CouchDB at"),
    ],
)
async def test_a_vault_error_is_logged_once_and_quotes_no_secret(
    replies: dict[str, Reply], kind: type[GatewayError], says: str
) -> None:
    with capture_logs() as logs:
        async with scripted(by_name(replies)) as server, Couch(couchdb_at(server)) as couch:
            store = Vault(couch)
            for _ in range(2):
                with pytest.raises(kind, match=says):
                    await store.read(BOTH)
    event = "dependency.refused" if kind is OperatorActionRequiredError else "dependency.lost"
    assert [(entry["event"], entry["dependency"]) for entry in logs] == [(event, "vault")]
    assert "short" not in str(logs)


async def test_a_conflict_is_written_again_over_the_newer_revision() -> None:
    answers = iter([Reply({"error": "conflict"}, 409), Reply({"ok": True}, 201)])
    revisions = iter("12")

    async def script(request: Request) -> Reply:
        if request.name == "GET secret":
            return SECRET
        if request.name.startswith("PUT"):
            return next(answers)
        return Reply({"_rev": next(revisions)}) if "credential" in request.target else Reply({"db_name": "medic-vault"})

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        assert await Vault(couch).write(OUTGOING, Secret("token")) is False
    puts = [request.json for request in server.requests if request.name.startswith("PUT")]
    assert [put["_rev"] for put in puts] == ["1", "2"]
    assert decipher(puts[1]["password"], "short") == "token"

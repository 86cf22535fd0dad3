"""CHT's credential store: the database `medic-vault` beside `medic` (docs/cht.md#credentials).

It uses the documents of CHT's API. Only a server administrator can: the key to the documents is CouchDB's own secret,
in its configuration. No error contains a value that was read, deciphered or not.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.errors import raise_for_status, translated
from cht_rapidpro.adapters.couchdb.vault_cipher import decipher, encipher
from cht_rapidpro.config.schema import Config
from cht_rapidpro.config.secrets import NO_SECRET, Secret, checked_secret
from cht_rapidpro.errors import ConfigError, OperatorActionRequiredError, PermanentError
from cht_rapidpro.telemetry.dependency_health import Health

# Seconds for one call: a webhook with an unknown key may wait for it.
_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)
_SECRET_PLACES: Final = ("couch_httpd_auth", "chttpd_auth")  # CHT reads the first one; CouchDB has renamed it


class CredentialName(StrEnum):
    """CHT's names of RapidPro's credentials."""

    OUTGOING = "rapidpro:outgoing"  # RapidPro's token
    INCOMING = "rapidpro:incoming"  # the key that a webhook must bring


def needed(config: Config) -> list[CredentialName]:
    """Returns the names of the credentials that have to be in the vault."""
    return [name for name in CredentialName if config.incoming.enabled or name is not CredentialName.INCOMING]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The credential exists and cannot be used, for this reason."""

    why: str


class Vault:
    """Uses the session of `couch`; each method raises TransientError (try again) or OperatorActionRequiredError (an
    operator must act).
    """

    def __init__(self, couch: Couch) -> None:
        self._couch = couch
        self.url = f"{couch.url}-vault"
        self.health = Health("vault")

    async def read(self, names: Sequence[CredentialName]) -> dict[CredentialName, Secret | Unreadable]:
        """Reads these credentials; one that does not exist, or is empty, is NO_SECRET."""
        node_secret = await self._node_secret()
        keys = msgspec.json.encode({"keys": [_doc_id(name) for name in names]})
        answer = await self._ask("POST", f"{self.url}/_all_docs?include_docs=true", keys)
        with self._edge():
            docs = {row["id"]: row["doc"] for row in answer["rows"] if row.get("doc")}
        self.health.works()
        return {name: await asyncio.to_thread(_credential, docs.get(_doc_id(name), {}), node_secret) for name in names}

    async def write(self, name: CredentialName, value: Secret) -> bool:
        """Stores the credential; True if it is new. Other fields of its document stay unchanged."""
        enciphered = await asyncio.to_thread(encipher, value.reveal(), await self._node_secret())
        await self._ask("GET", self.url)  # otherwise a missing database would look like a missing document
        url = f"{self.url}/{quote(_doc_id(name), safe='')}"
        while True:
            doc = await self._ask("GET", url, absent=404) or {}
            stored = msgspec.json.encode({**doc, "_id": _doc_id(name), "password": enciphered})
            if await self._ask("PUT", url, stored, absent=409) is not None:
                return not doc

    async def _node_secret(self) -> str:
        for section in _SECRET_PLACES:
            url = f"{self._couch.config.url}/_node/_local/_config/{section}/secret"
            secret = await self._ask("GET", url, absent=404)
            if isinstance(secret, str) and secret:
                return secret
        with self._edge():
            raise OperatorActionRequiredError(
                f"CouchDB at {self._couch.config.url} has no couch_httpd_auth/secret", about="no secret"
            )

    async def _ask(self, method: str, url: str, body: bytes | None = None, *, absent: int = 0) -> Any:
        """Returns the JSON of a success; None for the status `absent`."""
        with self._edge():
            async with self._couch.session.request(
                method, url, data=body, headers={"Content-Type": "application/json"}, timeout=_TIMEOUT
            ) as response:
                answer = await response.read()
                if response.status == absent:
                    return None
                if response.status in (401, 403, 404):
                    raise self._trouble(response.status)
                raise_for_status(response, self._couch.config)
                return msgspec.json.decode(answer)

    def _edge(self) -> AbstractContextManager[None]:
        return translated(self.health, self._couch.config)

    def _trouble(self, status: int) -> OperatorActionRequiredError:
        where = f"CouchDB at {self._couch.config.url}: HTTP {status}"
        if status == 404:
            means = f"there is no database {self.url.rpartition('/')[2]}, which CHT creates when it starts"
        else:
            user = self._couch.config.user
            means = (
                f"the user {user!r} must be a server administrator to use the vault; check [couchdb] user and password"
            )
        return OperatorActionRequiredError(f"{where}: {means}", about=f"vault {status}")


def _doc_id(name: CredentialName) -> str:
    return f"credential:{name}"


def _credential(doc: Mapping[str, Any], node_secret: str) -> Secret | Unreadable:
    stored = doc.get("password")
    if not stored:  # CHT also treats an empty one as absent
        return NO_SECRET
    if not isinstance(stored, str):
        return Unreadable("its password is no text")
    try:
        return checked_secret(decipher(stored, node_secret))
    except (PermanentError, ConfigError) as error:
        return Unreadable(str(error))

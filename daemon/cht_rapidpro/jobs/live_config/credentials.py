"""Keeps the keyring filled from CHT's vault, so that a credential that is rotated there needs no restart.

The vault is read every five minutes, and at once after a refusal: RapidPro did not know the token, or a webhook brought
an unknown key. A credential that is not in the vault is not in force; while the vault cannot be read, or a credential
cannot be deciphered, the last good secrets stay in force.
"""

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.couchdb.vault import CredentialName, Unreadable, Vault
from cht_rapidpro.concurrency.timing import loop_time, wait_for_event
from cht_rapidpro.config.secret_store import Keyring, Refused, Secrets
from cht_rapidpro.config.secrets import NO_SECRET, Secret
from cht_rapidpro.domain.findings import Finding, Level
from cht_rapidpro.errors import OperatorActionRequiredError, TransientError
from cht_rapidpro.jobs.documents.retry import until_it_works

log: structlog.stdlib.BoundLogger = structlog.get_logger()

REFRESH: Final = 300.0
LEAST_PAUSE: Final = 3.0  # seconds between two reads for one kind of refusal: wrong keys must not overload CouchDB
GRACE: Final = 600.0  # seconds for which a replaced webhook key stays valid: flows are changed later

_MEANS: Final[Mapping[CredentialName, str]] = {
    CredentialName.OUTGOING: "nothing is sent",
    CredentialName.INCOMING: "webhooks are refused",
}


class Credentials:
    """Fills `keyring` with the credentials `names`; every time in here is loop time, in seconds."""

    def __init__(self, vault: Vault, keyring: Keyring, names: Sequence[CredentialName]) -> None:
        self._vault = vault
        self._names = names
        self._keyring = keyring
        self._wake = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._begun = -math.inf
        self._allowed: dict[Refused, float] = {}
        self._found: dict[CredentialName, Secret] = {}
        self._problems: dict[CredentialName, str] = {}
        self._retired: dict[Secret, float] = {}
        keyring.refill_from(self.renew)

    def refresh(self) -> None:
        """Requests another reading of the vault."""
        self._wake.set()

    def problems(self) -> Iterator[Finding]:
        """What a human has to write into the vault."""
        for name, problem in self._problems.items():
            if problem:
                yield Finding(
                    Level.BROKEN,
                    f"CHT's vault has no usable {name}.",
                    advice=f"It has to be written anew, by `{_remedy(name)}`: {problem}.",
                )

    async def run(self) -> NoReturn:
        while True:
            await until_it_works(self._read)
            await wait_for_event(self._wake, self._pause())
            self._wake.clear()

    async def renew(self, refused: Refused) -> None:
        """Reads the vault after a refusal; simultaneous callers share one reading.

        Waits first if there was a reading for the same kind of refusal within the last seconds. Each kind is limited
        separately: wrong keys, which any client may send, must not delay a rotated token. If the reading fails, `run`
        goes on trying.
        """
        asked, before = loop_time(), self._keyring.secrets
        async with self._one_at_a_time:  # a reading in progress may bring the answer
            pause = self._allowed.get(refused, asked) - loop_time()
        if self._keyring.secrets is not before:
            return
        await asyncio.sleep(max(0.0, pause))
        async with self._one_at_a_time:
            if self._begun <= asked:
                self._allowed[refused] = loop_time() + LEAST_PAUSE
                with suppress(TransientError, OperatorActionRequiredError):
                    await self._read_alone()

    async def _read(self) -> None:
        async with self._one_at_a_time:
            await self._read_alone()

    async def _read_alone(self) -> None:
        self._begun = loop_time()
        for name, value in (await self._vault.read(self._names)).items():
            self._take(name, value)
        self._keyring.replace(Secrets(self._found.get(CredentialName.OUTGOING, NO_SECRET), self._incoming_keys()))

    def _take(self, name: CredentialName, value: Secret | Unreadable) -> None:
        if isinstance(value, Unreadable):
            kept = "the last good one stays in force" if self._found.get(name) else _MEANS[name]
            self._report(name, f"{value.why}; {kept}")
            return
        self._report(name, "" if value else f"there is none; {_MEANS[name]}")
        before = self._found.get(name)
        if value == before:
            return
        self._found[name] = value
        if before:
            self._retire(name, before, is_replaced=bool(value))
            log.info("credential.replaced", credential=str(name))

    def _retire(self, name: CredentialName, secret: Secret, *, is_replaced: bool) -> None:
        if name is CredentialName.INCOMING:
            self._retired = {**self._retired, secret: loop_time() + GRACE} if is_replaced else {}
            self._wake.set()  # `run` may be about to wait for longer

    def _incoming_keys(self) -> tuple[Secret, ...]:
        """Returns the vault's key first, then the keys that it has replaced a short time ago."""
        now = loop_time()
        self._retired = {key: until for key, until in self._retired.items() if until > now}
        current = self._found.get(CredentialName.INCOMING, NO_SECRET)
        return tuple(dict.fromkeys((current, *self._retired))) if current else ()

    def _pause(self) -> float:
        """Returns seconds until the next reading: earlier if a replaced key expires."""
        return max(0.0, min([REFRESH, *(until - loop_time() for until in self._retired.values())]))

    def _report(self, name: CredentialName, problem: str) -> None:
        if problem and problem != self._problems.get(name):
            log.error("credential.unusable", credential=str(name), problem=problem, remedy=_remedy(name))
        self._problems[name] = problem


def _remedy(name: CredentialName) -> str:
    return f"cht-rapidpro credentials set {name}"

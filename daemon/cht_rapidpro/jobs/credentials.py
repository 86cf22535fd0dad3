"""Keeps the keyring filled from CHT's vault, so that a credential that is rotated there needs no restart.

Read every few minutes, and at once when somebody was refused: RapidPro did not know our token, or we did not know a
webhook's key. What the vault does not have is not in force; while it cannot be read, or holds what cannot be
deciphered, the last good secrets stay.
"""

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.vault import CredentialName, Unreadable, Vault
from cht_rapidpro.config_values import NO_SECRET, Secret
from cht_rapidpro.errors import TransientError, TroubleError
from cht_rapidpro.jobs.retry import until_it_works
from cht_rapidpro.keyring import Keyring, Secrets

log: structlog.stdlib.BoundLogger = structlog.get_logger()

REFRESH: Final = 300.0
LEAST_PAUSE: Final = 5.0  # between two reads for refusals: whoever posts wrong keys must not make us hammer CouchDB
GRACE: Final = 600.0  # a webhook's key stays valid for so long after the vault has another one: flows change later

_NAMES: Final = tuple(CredentialName)
_MEANS: Final[Mapping[CredentialName, str]] = {
    CredentialName.OUTGOING: "nothing is sent",
    CredentialName.INCOMING: "webhooks are refused",
}


class Credentials:
    """Fills `keyring`; every time in here is loop time, in seconds."""

    def __init__(self, vault: Vault, keyring: Keyring) -> None:
        self._vault = vault
        self._keyring = keyring
        self._wake = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._begun = self._renewed = -math.inf
        self._later: asyncio.TimerHandle | None = None
        self._found: dict[CredentialName, Secret] = {}
        self._problems: dict[CredentialName, str] = {}
        self._retired: dict[Secret, float] = {}
        keyring.refill_from(self.renew)

    def refresh(self) -> None:
        """Asks for the vault to be read again."""
        self._wake.set()

    async def run(self) -> NoReturn:
        while True:
            await until_it_works(self._read)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            self._wake.clear()

    async def renew(self) -> None:
        """Reads the vault, for whoever met with a refusal; several that ask at the same time share one reading.

        Unless the last reading of this kind was within the last seconds: then it is done as soon as they are over, and
        nobody waits for it. Where it fails, `run` goes on trying.
        """
        asked = self._time()
        async with self._one_at_a_time:
            if asked < self._begun:
                return
            if self._time() < self._renewed + LEAST_PAUSE:
                self._renew_later()
                return
            self._renewed = self._time()
            with suppress(TransientError, TroubleError):
                await self._read_alone()

    def _renew_later(self) -> None:
        if self._later is None or self._later.when() <= self._time():
            self._later = asyncio.get_running_loop().call_at(self._renewed + LEAST_PAUSE, self._renew_now)

    def _renew_now(self) -> None:
        if self._time() >= self._renewed + LEAST_PAUSE:  # else somebody was quicker
            self._renewed = self._time()
            self._wake.set()

    async def _read(self) -> None:
        async with self._one_at_a_time:
            await self._read_alone()

    async def _read_alone(self) -> None:
        self._begun = self._time()
        found = await self._vault.read(_NAMES)
        for name in _NAMES:
            self._take(name, found[name])
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
            self._retired = {**self._retired, secret: self._time() + GRACE} if is_replaced else {}
            self._wake.set()  # `run` may be about to wait for longer than that

    def _incoming_keys(self) -> tuple[Secret, ...]:
        """The vault's key first, then those that it has replaced a short while ago."""
        now = self._time()
        self._retired = {key: until for key, until in self._retired.items() if until > now}
        current = self._found.get(CredentialName.INCOMING, NO_SECRET)
        return tuple(dict.fromkeys((current, *self._retired))) if current else ()

    def _pause(self) -> float:
        """Seconds until the next reading: earlier where a retired key has to go."""
        return max(0.0, min([REFRESH, *(until - self._time() for until in self._retired.values())]))

    def _report(self, name: CredentialName, problem: str) -> None:
        if problem and problem != self._problems.get(name):
            remedy = f"cht-rapidpro credentials set {name}"
            log.error("credential.unusable", credential=str(name), problem=problem, remedy=remedy)
        self._problems[name] = problem

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

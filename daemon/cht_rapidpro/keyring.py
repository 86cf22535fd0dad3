"""The secrets in force: RapidPro's token and the keys that a webhook may bring.

Filled by the configuration, or from CHT's vault, and replaced whole, so that nobody ever sees half a rotation. Whoever
needs one asks for it at the moment of use and keeps no copy: with a copy, a rotated token would work only after a
restart.
"""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from cht_rapidpro.config_values import NO_SECRET, Secret

Refused = Literal["rapidpro_token", "incoming_keys"]


@dataclass(frozen=True, slots=True)
class Secrets:
    """`rapidpro_token` empty: none is known (yet). `incoming_keys`: any of them opens the webhook; none: nobody may."""

    rapidpro_token: Secret = NO_SECRET
    incoming_keys: tuple[Secret, ...] = ()

    def admits(self, key: str) -> bool:
        """Whether a webhook with this key may enter; takes the same time for every wrong one."""
        given = key.encode(errors="surrogateescape")
        found = [hmac.compare_digest(given, known.reveal().encode()) for known in self.incoming_keys]
        return any(found)  # of all, so that no match ends the comparing


class Keyring:
    """Holds the secrets; `secrets` is only ever replaced, never changed.

    `is_filled`: whether they are known at all, which they are not before the vault was first read.
    """

    def __init__(self, secrets: Secrets, *, is_filled: bool = True) -> None:
        self.secrets = secrets
        self.is_filled = is_filled
        self._listeners: list[Callable[[], None]] = []
        self._source: Callable[[Refused], Awaitable[None]] | None = None

    def subscribe(self, listener: Callable[[], None]) -> None:
        """`listener` is called after every change of `secrets`."""
        self._listeners.append(listener)

    def refill_from(self, source: Callable[[Refused], Awaitable[None]]) -> None:
        """`source` looks for newer secrets; it limits its own pace and the time it takes, and raises nothing."""
        self._source = source

    def replace(self, secrets: Secrets) -> None:
        self.is_filled = True
        if secrets != self.secrets:
            self.secrets = secrets
            for listener in self._listeners:
                listener()

    async def renew(self, refused: Refused) -> None:
        """To be awaited when a secret of this kind was refused: afterwards `secrets` may hold a newer one."""
        if self._source is not None:
            await self._source(refused)

"""The secrets in force: RapidPro's token and the keys that a webhook may bring.

Filled from the configuration or from CHT's vault, and always replaced as a whole, so that no request sees half a
rotation. Each user of a secret reads it at the moment of use and keeps no copy: with a copy, a rotated token would work
only after a restart.
"""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.config.secrets import NO_SECRET, Secret

Refused = Literal["rapidpro_token", "incoming_keys"]


@dataclass(frozen=True, slots=True)
class Secrets:
    """`rapidpro_token` empty: none is known (yet). `incoming_keys`: each is valid for webhooks; empty: every webhook is
    refused.
    """

    rapidpro_token: Secret = NO_SECRET
    incoming_keys: tuple[Secret, ...] = ()

    def admits(self, key: str) -> bool:
        """Whether a webhook with this key is accepted; takes the same time for every wrong key."""
        given = key.encode(errors="surrogateescape")
        found = [hmac.compare_digest(given, known.reveal().encode()) for known in self.incoming_keys]
        return any(found)  # compares with all keys, so that a match does not end earlier


class Keyring:
    """Holds the secrets; `secrets` is only ever replaced, never changed.

    `is_filled`: False until the vault was read for the first time.
    """

    def __init__(self, secrets: Secrets, *, is_filled: bool = True) -> None:
        self.secrets = secrets
        self.is_filled = is_filled
        self._changed = Signal[()]()
        self.subscribe = self._changed.subscribe  # called after every change of `secrets`
        self._source: Callable[[Refused], Awaitable[None]] | None = None

    def refill_from(self, source: Callable[[Refused], Awaitable[None]]) -> None:
        """Sets the coroutine that reads newer secrets; it limits its own pace and duration, and raises nothing."""
        self._source = source

    def replace(self, secrets: Secrets) -> None:
        self.is_filled = True
        if secrets != self.secrets:
            self.secrets = secrets
            self._changed.emit()

    async def renew(self, refused: Refused) -> None:
        """Await this after a secret of this kind was refused; afterwards `secrets` may hold a newer one."""
        if self._source is not None:
            await self._source(refused)

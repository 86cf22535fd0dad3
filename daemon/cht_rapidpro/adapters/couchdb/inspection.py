"""Requests to CouchDB for `check`, which needs statuses and headers that the daemon's adapter does not return.

Each request is made once and changes nothing, so that `check` may run beside a working daemon.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

from cht_rapidpro.adapters.http.error_words import in_words
from cht_rapidpro.adapters.http.user_agent import USER_AGENT
from cht_rapidpro.config.schema import Couchdb

_TIMEOUT: Final = aiohttp.ClientTimeout(total=15, sock_connect=10)


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer. `body`: decoded JSON, None where it was none; `date`: the server's clock, ms since the epoch."""

    status: int
    body: Any
    date: int | None

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.body if isinstance(self.body, dict) else {}


@dataclass(frozen=True, slots=True)
class Unseen:
    """There was no answer; `why` describes the network error."""

    why: str


class Inspection:
    """One CouchDB server; to be entered before use."""

    def __init__(self, config: Couchdb) -> None:
        self._config = config

    async def __aenter__(self) -> Self:
        password = self._config.password.reveal() if self._config.password else ""
        headers = {"Authorization": aiohttp.encode_basic_auth(self._config.user, password)} if self._config.user else {}
        self._session = aiohttp.ClientSession(
            headers={**headers, **USER_AGENT, "Accept": "application/json"}, timeout=_TIMEOUT
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Seen | Unseen:
        """`path` below the server, without a slash at its start."""
        return await self._ask("GET", path, query=query)

    async def post(self, path: str, body: object) -> Seen | Unseen:
        """`body`: sent as JSON."""
        return await self._ask("POST", path, body=body)

    async def _ask(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> Seen | Unseen:
        try:
            async with self._session.request(
                method, f"{self._config.url}/{path}", params=query, json=body, allow_redirects=False
            ) as response:
                return Seen(response.status, _decode(await response.read()), _date(response))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Unseen(in_words(error))


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None


def _date(response: aiohttp.ClientResponse) -> int | None:
    try:
        return round(parsedate_to_datetime(response.headers.get("Date", "")).timestamp() * 1000)
    except ValueError:
        return None

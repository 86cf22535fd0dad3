"""RapidPro's API v2, for one workspace.

Every request is sent once: a POST that is repeated by a library is a second SMS. Redirects are not followed (the token
must not travel, and a 302 turns a POST into a GET). What went wrong is returned as an `Answer`, not raised, since the
caller has to tell "surely not sent" from "perhaps sent" in every case.
"""

import asyncio
import ssl
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
import msgspec
import structlog

from cht_rapidpro.config import Rapidpro
from cht_rapidpro.domain.budget import Budget
from cht_rapidpro.domain.outgoing import (
    Answer,
    Broadcast,
    Created,
    Doubtful,
    NotSent,
    Refused,
    Throttled,
    Trouble,
    read_answer,
)
from cht_rapidpro.errors import TransientError, TroubleError
from cht_rapidpro.health import Health

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# RapidPro's usual server drops idle connections after a few seconds; a POST that meets a dropped one is in doubt.
_KEEPALIVE: Final = 1.5
_CONNECT_TIMEOUT: Final = 10.0
_ANSWER_BYTES: Final = 1024 * 1024
_NOT_COUNTED: Final = (Throttled, NotSent, Trouble)  # RapidPro counts neither 403s nor 429s


class RapidPro:
    """The API below a base URL that each call names, since it may come from CHT's app settings and change there.

    `budget` is that of the scope `v2`, which broadcasts and workspace share.
    """

    def __init__(self, config: Rapidpro) -> None:
        self._config = config
        self.health = Health("rapidpro")
        self.budget = Budget(config.requests_per_hour)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_KEEPALIVE, ssl=await asyncio.to_thread(_ssl, self._config.ca_file)
            ),
            timeout=aiohttp.ClientTimeout(
                total=self._config.timeout, sock_connect=min(_CONNECT_TIMEOUT, self._config.timeout)
            ),
            headers={"Authorization": f"Token {self._config.token.reveal()}"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post_broadcast(self, base: str, broadcast: Broadcast) -> Answer:
        """POST broadcasts.json, once."""
        return await self._ask("POST", f"{base}/api/v2/broadcasts.json", msgspec.json.encode(broadcast.body()))

    async def probe(self, base: str) -> Answer | None:
        """GET workspace.json, the cheapest request that needs a valid token; None: all is well."""
        answer = await self._ask("GET", f"{base}/api/v2/workspace.json", None)
        return None if isinstance(answer, Created) else answer

    async def _ask(self, method: str, url: str, data: bytes | None) -> Answer:
        self.budget.begin()
        answer: Answer = Doubtful("cancelled")
        try:
            answer = await self._request(method, url, data)
        finally:
            now = asyncio.get_running_loop().time()
            self.budget.end(now, counted=not isinstance(answer, _NOT_COUNTED))
        self._note(answer, method, url, now)
        return answer

    async def _request(self, method: str, url: str, data: bytes | None) -> Answer:
        try:
            async with self._session.request(
                method,
                url,
                data=data,
                headers={"Content-Type": "application/json"} if data else None,
                allow_redirects=False,
                proxy=_proxy_for(url),
            ) as response:
                return await _read(method, response)
        except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL) as error:
            return Trouble(_name(error))
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientHttpProxyError,
        ) as error:
            return NotSent(_name(error))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Doubtful(_name(error))

    def _note(self, answer: Answer, method: str, url: str, now: float) -> None:
        """Bookkeeping of the budget and the health; what a server says in its error could quote our token."""
        match answer:
            case Created() | Refused():
                self.health.works()
            case Throttled(retry_after):
                if self.budget.left(now) != 0:
                    log.warning("rapidpro.throttled", url=url, retry_after=retry_after)
                self.budget.throttled(now, retry_after)
            case NotSent(why):
                self.health.fails(TransientError(f"{method} {url}: {why}"))
            case Trouble(why):
                self.health.fails(TroubleError(f"{method} {url}: {self._redact(why)}: {_remedy(why)}"))
            case Doubtful():
                pass  # about one message: its sender logs it

    def _redact(self, text: str) -> str:
        return text.replace(self._config.token.reveal(), "(token)")


async def _read(method: str, response: aiohttp.ClientResponse) -> Answer:
    """The answer to a POST; for a GET, where nothing can have been created, every success is a `Created`."""
    try:
        body = _decode(await _body(response))
    except (aiohttp.ClientError, TimeoutError, OSError):
        body = None  # the status alone decides; a success without its body leaves the POST in doubt
    if method == "GET" and response.status == 200 and body is not None:
        body = {"id": 0}
    return read_answer(response.status, body, _retry_after(response))


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The answer's body, cut where it is longer than any of RapidPro's."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _ANSWER_BYTES:
            break
    return bytes(body)


def _decode(data: bytes) -> object:
    try:
        body: object = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return None
    return body


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds; RapidPro sends whole ones. Anything else counts as absent."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _remedy(why: str) -> str:
    if why.startswith("HTTP 403"):
        return "check the token, and that its user may send broadcasts"
    if why.startswith("HTTP 400"):
        return "RapidPro takes no broadcast from this workspace now: look at the workspace in RapidPro"
    if why.startswith("HTTP"):
        return "check [rapidpro] url, or sms.rapidpro.url in the app settings: this does not answer as RapidPro does"
    return "check [rapidpro] url and ca_file"


def _name(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _ssl(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file or None)


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this URL.

    aiohttp's own `trust_env` would also look into ~/.netrc, and fails where that names the host.
    """
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies_environment().get(parts.scheme)

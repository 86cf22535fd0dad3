"""Sends one request to RapidPro, once, and returns the answer or why there is none.

A POST that a library repeats is a second SMS, so no request is repeated here. Redirects are not followed: the token
must not go to another host, and a 302 turns a POST into a GET. Errors of aiohttp are translated only here, into "surely
not sent" and "perhaps sent", since a caller has to tell the two apart in every case.
"""

import asyncio
import ssl
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
import msgspec

from cht_rapidpro.adapters.http.error_words import in_words
from cht_rapidpro.adapters.http.user_agent import USER_AGENT
from cht_rapidpro.concurrency.cancellation import raise_cancelled
from cht_rapidpro.config.schema import Rapidpro
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.budget import HOUR
from cht_rapidpro.domain.outgoing import Ambiguous, NotSent, Trouble

# RapidPro's usual server drops idle connections after a few seconds; a POST on a dropped connection is ambiguous.
_KEEPALIVE: Final = 1.5
_CONNECT_TIMEOUT: Final = 10.0
_ANSWER_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. `body`: decoded JSON, None if it was not JSON or ended early; `retry_after`: s or None.

    `date`: the server's clock (its Date header) in ms since the epoch, None without the header.
    """

    status: int
    body: object
    retry_after: float | None
    date: int | None


class Transport:
    """The session with RapidPro; to be entered before use. The token is an argument of each request: it may be
    rotated.
    """

    def __init__(self, config: Rapidpro) -> None:
        self._config = config

    async def __aenter__(self) -> Self:
        timeout = self._config.timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE, ssl=await _ssl(self._config.ca_file)),
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(_CONNECT_TIMEOUT, timeout)),
            headers=USER_AGENT,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(
        self, method: str, url: str, token: Secret, data: bytes | None = None
    ) -> Reply | NotSent | Trouble | Ambiguous:
        """Sends the request; `data`: JSON."""
        headers = {"Authorization": f"Token {token.reveal()}"}
        if data:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method,
                url,
                data=data,
                headers=headers,
                allow_redirects=False,
                proxy=_proxy_for(url),
            ) as response:
                return await _read(response, token)
        except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL) as error:
            return Trouble(in_words(error))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError) as error:
            raise_cancelled(error)
            return NotSent(in_words(error))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise_cancelled(error)
            return Ambiguous(in_words(error))


async def _read(response: aiohttp.ClientResponse, token: Secret) -> Reply:
    """Reads the answer; an error's text may quote the token and reaches logs and documents, so the token is removed
    from it.
    """
    try:
        body = _decode((await _body(response)).replace(token.reveal().encode(), b"(token)"))
    except (aiohttp.ClientError, TimeoutError, OSError):
        body = None  # only the status counts; a POST with a success but no body is ambiguous
    return Reply(response.status, body, _retry_after(response), _date(response))


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Reads the answer's body up to a limit above RapidPro's longest answers."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _ANSWER_BYTES:
            break
    return bytes(body)


def _decode(data: bytes) -> object:
    try:
        body: object = msgspec.json.decode(data)
    except (ValueError, RecursionError):  # also text that is no UTF-8
        return None
    return body


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds, an hour at most, which is RapidPro's window; anything but a whole number counts as absent."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), HOUR) if value.isascii() and value.isdigit() else None


def _date(response: aiohttp.ClientResponse) -> int | None:
    try:
        return round(parsedate_to_datetime(response.headers.get("Date", "")).timestamp() * 1000)
    except (ValueError, OverflowError, TypeError, IndexError, AttributeError):  # the parser raises various errors
        return None


async def _ssl(ca_file: str) -> ssl.SSLContext | bool:
    """True: aiohttp's own context with the system's certificates, of which a second one takes more than 1 MB."""
    return await asyncio.to_thread(ssl.create_default_context, cafile=ca_file) if ca_file else True


def _proxy_for(url: str) -> str | None:
    """Returns the proxy that the environment names for this URL.

    aiohttp's own `trust_env` would also read ~/.netrc, and fails if that file names the host.
    """
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    proxy = getproxies_environment().get(parts.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy

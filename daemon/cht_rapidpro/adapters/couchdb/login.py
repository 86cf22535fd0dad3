"""Adds user and password to each request to CouchDB, but not after a redirect; limits tries with a refused password.

They are added when the request leaves, so that a password can be rotated while the daemon runs. Five wrong passwords
lock the user for minutes, even for the right password (docs/couchdb.md#documents, "Lock-out"), and several jobs make
requests at the same time. So this module holds back a refused pair for all of them, and lets a new pair through at
once.
"""

import math
from typing import Final

import aiohttp
from yarl import URL

from cht_rapidpro.adapters.couchdb.errors import denied
from cht_rapidpro.adapters.http.user_agent import USER_AGENT
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.errors import OperatorActionRequiredError

_REDIRECTING: Final = range(300, 400)
_UNAUTHORIZED: Final = 401
_PAUSE: Final = 120.0  # CouchDB counts over five minutes


class Login:
    """`sign` is a middleware of the session."""

    def __init__(self, config: Couchdb) -> None:
        self.use(config)

    def use(self, config: Couchdb) -> None:
        """Uses this user and password from now on."""
        self._config = config
        self._refused_at = -math.inf
        self._header = aiohttp.encode_basic_auth(config.user, config.password.reveal()) if config.user else None

    async def sign(self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        config = self._config
        if loop_time() < self._refused_at + _PAUSE:
            raise denied(config)
        request.headers.update(USER_AGENT)
        if self._header is not None:
            request.headers["Authorization"] = self._header
        response = await send(request)
        if response.status in _REDIRECTING:
            response.close()
            raise _redirected(config, response)
        # Below _node a 401 may also mean that the user is no administrator.
        if response.status == _UNAUTHORIZED and config is self._config and "/_node/" not in request.url.path:
            self._refused_at = loop_time()
        return response


def _redirected(config: Couchdb, response: aiohttp.ClientResponse) -> OperatorActionRequiredError:
    """Makes the error for a redirect: CouchDB redirects none of these requests, so a proxy or another server answers.
    Only the host is quoted.
    """
    try:
        host = URL(response.headers.get("Location", "")).host
    except ValueError:
        host = None
    to = f" to the host {host!r}" if host else ""
    where = f"CouchDB at {config.url}: HTTP {response.status}, it redirects{to}"
    remedy = "set [couchdb] url to the address that answers itself; the password follows no redirect"
    return OperatorActionRequiredError(f"{where}; {remedy}", about="redirect")

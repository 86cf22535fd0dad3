"""The webhook that RapidPro's flows call, as CHT's own API answers it.

Every request gets an answer below 500, except in one case: the message could not be stored. So the flow's failure
branch runs for that case only. No caller can hold a connection for ever: headers, body and the wait for an answer each
have a time limit.
"""

import asyncio
import codecs
import json
import math
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, NoReturn, Self
from urllib.parse import parse_qsl

import structlog
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from cht_rapidpro.adapters.web.listener import Listener
from cht_rapidpro.adapters.web.server_log import OnceAMinute
from cht_rapidpro.config.addresses import read_address
from cht_rapidpro.config.schema import Incoming
from cht_rapidpro.config.secret_store import Keyring
from cht_rapidpro.config.secrets import three_ways
from cht_rapidpro.domain.incoming import AlreadyStored, InboundMessage, Stored, doc_id, read_arrival, shown_id
from cht_rapidpro.domain.miswiring import Miswiring, find_miswirings
from cht_rapidpro.domain.records.characters import WS_CLASS
from cht_rapidpro.errors import OperatorActionRequiredError, TransientError
from cht_rapidpro.telemetry.metrics import request_times

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# The second path is CHT's older, misspelt one, which old flows still call.
PATHS: Final = ("/api/v2/sms/rapidpro/incoming-messages", "/api/v1/sms/radpidpro/incoming-messages")

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_FORM_FIELDS: Final = 100
_SAVED, _NOT_NEW = b'{"saved": 1}', b'{"saved": 0}'
_NOT_SAVED: Final = "Message was not saved"
_BODY_TIME: Final = 10.0  # seconds for the body, of the 15 that a flow waits
# For the headers, from the connection or the last answer on. Longer than a proxy keeps an idle connection (nginx: 60
# s), because otherwise a webhook could arrive just when the connection is closed.
_HEADER_TIME: Final = 75.0
_LINGER_TIME: Final = 1.0  # for reading the rest of a refused body, so that the sender gets the answer
_STOP_TIME: Final = 10.0
_LAST_CALL: Final = 0.5
_SCHEME: Final = re.compile(f"Token{WS_CLASS}+(.*)")
_KIND: Final = re.compile(r"[a-z0-9!#$&^_.+/-]{1,80}")
_LISTEN_AGAIN: Final = 5.0  # seconds


class Webhook:
    """Listens while it is entered. `store` raises TransientError if the message is not stored anywhere.

    `notice` gets each mistake of the flow. `sockets`: sockets that listen already, used instead of `[incoming] listen`.
    `addresses`: the bound addresses, empty while the address is taken or unknown; then `problem` says why, and the
    address is tried again every few seconds.
    """

    def __init__(
        self,
        config: Incoming,
        keyring: Keyring,
        store: Callable[[InboundMessage], Awaitable[Stored]],
        wall_clock: Callable[[], int],
        sockets: Sequence[socket.socket] = (),
        notice: Callable[[Miswiring], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._keyring = keyring
        self._store = store
        self._wall_clock = wall_clock
        self._sockets = sockets
        self._notice = notice
        self.times = request_times("webhook", "answer")
        self._refused = OnceAMinute()
        self._listener = Listener(
            "incoming",
            self._answer,
            request_factory=partial(_request, max_body=config.max_body),
            keepalive_timeout=_HEADER_TIME,
            lingering_time=_LINGER_TIME,
            shutdown_timeout=_STOP_TIME,
        )
        self.addresses: list[str] = []
        self.problem = ""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._listener)
            try:
                await self._listen()
            except OperatorActionRequiredError as error:
                self.problem = str(error)
                log.error("incoming.unavailable", listen=self._config.listen, error=self.problem)
            else:
                self._tell_addresses()
            self._stack = stack.pop_all()
        return self

    async def run(self) -> NoReturn:
        """Tries the address again while it is not available; everything else works meanwhile."""
        while True:
            await asyncio.sleep(_LISTEN_AGAIN)
            if self.problem:
                with suppress(OperatorActionRequiredError):
                    await self._listen()
                    self.problem = ""
                    self._tell_addresses()

    def _tell_addresses(self) -> None:
        self.addresses = [_shown(address) for address in self._listener.addresses]
        log.info("incoming.listening", addresses=self.addresses, by="systemd" if self._sockets else "configuration")
        if self._keyring.is_filled and not self._keyring.secrets.incoming_keys:
            log.warning("incoming.no_keys", means=f"every webhook is refused; {three_ways('incoming-key')}")

    async def _listen(self) -> None:
        if self._sockets:
            self._listener.listen_at(self._sockets, leaves_queue=True)
            return
        host, port = read_address(self._config.listen)
        try:
            await self._listener.listen(host, port)
        except OSError as error:
            why = f"[incoming] listen: cannot listen at {self._config.listen}: {error.strerror or error}"
            raise OperatorActionRequiredError(why, about="listen") from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops accepting connections, and waits until the requests that have arrived are answered.

        This includes connections that were accepted a moment ago: aiohttp would close one whose request has not arrived
        yet.
        """
        await self._listener.stop_accepting()
        if len(self._listener):
            await asyncio.sleep(_LAST_CALL)
        await self._stack.__aexit__(kind, error, trace)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Refuses as CHT does it."""
        started = time.perf_counter()
        try:
            await _accept(request)
            answer = await self._handle(request)
        except web.HTTPException as error:
            self._report(error, request)
            kept = {name: error.headers[name] for name in (hdrs.ALLOW, hdrs.RETRY_AFTER) if name in error.headers}
            answer = web.json_response({"code": error.status, "error": error.reason}, status=error.status, headers=kept)
        self.times.labels(f"{answer.status // 100}xx").observe(time.perf_counter() - started)
        return answer

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        await self._authorise(request.headers.get(hdrs.AUTHORIZATION, ""))
        body = await _read_body(request)
        for found in find_miswirings(body):
            self._notice(found)
        arrival = read_arrival(body, self._wall_clock())
        if isinstance(arrival, str):
            raise _Refused(arrival)
        if request.headers.get("X-Mailroom-Mode") == "simulation" and not self._config.accept_simulated:
            log.info("incoming.simulated", doc=doc_id(arrival.id, arrival.at), gateway_ref=shown_id(arrival.id))
            return _answer(_SAVED)
        try:
            stored = await self._store(arrival)
        except TransientError as error:
            seconds = str(math.ceil(error.retry_after or 1))
            raise web.HTTPServiceUnavailable(reason=_NOT_SAVED, headers={hdrs.RETRY_AFTER: seconds}) from error
        return _answer(_NOT_NEW if isinstance(stored, AlreadyStored) else _SAVED)

    async def _authorise(self, header: str) -> None:
        """Checks the key as CHT does, with CHT's error texts; an unknown key may have been rotated a moment ago."""
        found = _SCHEME.fullmatch(header)
        key = found[1] if found else ""
        if key and self._keyring.secrets.admits(key):
            return
        if key:
            await self._keyring.renew("incoming_keys")
        if not self._keyring.is_filled:  # the vault was not read yet, so no key can be called wrong
            raise web.HTTPServiceUnavailable(reason=_NOT_SAVED, headers={hdrs.RETRY_AFTER: "1"})
        if not self._keyring.secrets.incoming_keys:
            raise web.HTTPForbidden(reason="No incoming key configured")
        if not key:
            raise web.HTTPForbidden(reason="Missing authorization token")
        if not self._keyring.secrets.admits(key):
            raise web.HTTPForbidden(reason="Incorrect token")

    def _report(self, error: web.HTTPException, request: web.BaseRequest) -> None:
        """Logs the first refusal of a kind, then one line a minute: refused webhooks are not stored, but any sender can
        cause them.
        """
        field = error.field if isinstance(error, _Refused) else ""
        if times := self._refused.count((error.status, error.reason, field)):
            detail = {"field": field} if field else {}
            if isinstance(error, web.HTTPUnsupportedMediaType):
                detail["content_type"] = request.content_type if _KIND.fullmatch(request.content_type) else "unreadable"
            log.warning("incoming.refused", status=error.status, error=error.reason, **detail, times=times)


class _Refused(web.HTTPBadRequest):
    """The body is not a message, because of this field."""

    def __init__(self, field: str) -> None:
        super().__init__(reason=_NOT_SAVED)
        self.field = field


def _shown(address: object) -> str:
    """Shows an IP address with its port, a Unix socket as its path."""
    return ":".join(map(str, address[:2])) if isinstance(address, tuple) else str(address)


def _request(
    message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None], max_body: int
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=max_body)


async def _accept(request: web.BaseRequest) -> None:
    """Refuses other paths and methods than CHT's, which matches its paths without regard to case, too."""
    if request.rel_url.path_safe.lower() not in PATHS:
        raise web.HTTPNotFound
    if request.method != hdrs.METH_POST:
        raise web.HTTPMethodNotAllowed(request.method, [hdrs.METH_POST])
    if hdrs.EXPECT in request.headers and request.version == HttpVersion11:
        await _let_go_on(request)


async def _let_go_on(request: web.BaseRequest) -> None:
    """Asks for the body of a client that waits for this before it sends it."""
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        raise web.HTTPExpectationFailed
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer has not begun


def _answer(body: bytes) -> web.Response:
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: "application/json; charset=utf-8"})


async def _read_body(request: web.BaseRequest) -> object:
    kind = request.content_type if hdrs.CONTENT_TYPE in request.headers else _JSON
    if kind not in (_JSON, _FORM):
        raise web.HTTPUnsupportedMediaType
    try:
        if request.content.is_eof():  # nearly all have come whole
            body = await request.read()
        else:
            async with asyncio.timeout(_BODY_TIME):
                body = await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise web.HTTPBadRequest(reason="The body cannot be read") from error
    try:
        # As in CHT, invalid UTF-8 becomes U+FFFD.
        text = body.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
        return _read_form(text) if kind == _FORM else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(reason=f"The body is not {kind}") from error


def _read_form(body: str) -> dict[str, str]:
    return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=_FORM_FIELDS))

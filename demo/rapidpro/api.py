"""RapidPro's API v2: routes, tokens and the order in which a request is judged.

The order is RapidPro's (token, throttle, method, body): it decides which requests count against the rate limit. All of
it is synchronous, so an effect is complete or absent, even if the connection breaks.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from aiohttp import hdrs, web

from . import listings, posting, rows
from .answers import NOT_FOUND, SERVER_ERROR, Answer, RefusedError, as_json, detail, page
from .calls import Call
from .throttle import Throttle
from .workspace import Workspace

_PATH = re.compile(r"/api/v2/(broadcasts|flows|messages|runs|workspace)(\.json)?")
_LISTINGS: Mapping[str, Callable[[Workspace, listings.Query, int], listings.Page]] = {
    "GET broadcasts": listings.broadcasts,
    "GET messages": listings.messages,
    "GET runs": listings.runs,
}


class Api:
    """Answers one request at a time."""

    def __init__(self, workspace: Workspace, throttle: Throttle, page_size: int) -> None:
        self._workspace = workspace
        self._throttle = throttle
        self._page_size = page_size

    def answer(self, request: web.Request, body: bytes, call: Call) -> Answer:
        """What RapidPro says; `call` learns the scope that was charged and the broadcast that came of it."""
        match = _PATH.fullmatch(call.path)
        if match is None:
            return NOT_FOUND
        if match[2] is None:  # documentation for people; no token needed, nothing happens
            return as_json(200, []) if "json" in request.headers.get(hdrs.ACCEPT, "") else page(200, "API v2")
        try:
            self._authenticate(request.headers.get(hdrs.AUTHORIZATION, ""))
            self._charge(self._throttle.scope(match[1]), call)
            return self._dispatch(request, body, call)
        except RefusedError as refused:
            return refused.answer

    def _authenticate(self, header: str) -> None:
        keyword, *tokens = header.split()[:3] or [""]
        if keyword.lower() != "token":
            raise RefusedError(detail(403, "Authentication credentials were not provided."))
        if len(tokens) != 1:
            flaw = "Token string should not contain spaces." if tokens else "No credentials provided."
            raise RefusedError(detail(403, f"Invalid token header. {flaw}"))
        if tokens[0] in self._workspace.powerless_tokens:
            raise RefusedError(detail(403, "You do not have permission to perform this action."))
        if tokens[0] not in self._workspace.tokens:
            raise RefusedError(detail(403, "Invalid token"))

    def _charge(self, scope: str, call: Call) -> None:
        call.scope = scope
        if throttled := self._throttle.refuse(scope):
            raise RefusedError(throttled)

    def _dispatch(self, request: web.Request, body: bytes, call: Call) -> Answer:
        if call.target == "POST broadcasts":
            return self._post(request, body, call)
        if call.target == "GET workspace":
            return as_json(200, rows.workspace(self._workspace))
        if call.target == "GET flows":
            return as_json(200, {"next": None, "previous": None, "results": rows.flows(self._workspace, call.query)})
        if listing := _LISTINGS.get(call.target):
            found = listing(self._workspace, call.query, self._page_size)
            following = _next(request, call, found.cursor) if found.cursor else None
            return as_json(200, {"next": following, "previous": None, "results": found.rows})
        return detail(405, f'Method "{call.method}" not allowed.')

    def _post(self, request: web.Request, body: bytes, call: Call) -> Answer:
        if len(body) > posting.MAX_BODY:
            return SERVER_ERROR
        chunked = hdrs.TRANSFER_ENCODING in request.headers
        urns, text = posting.read(b"" if chunked else body, self._workspace)
        broadcast = self._workspace.create_broadcast(urns, text)
        call.broadcast = broadcast.id
        return as_json(201, rows.created(broadcast, self._workspace))


def _next(request: web.Request, call: Call, cursor: str) -> str:
    """Absolute, with the host and scheme that the request's headers name."""
    scheme = request.headers.get("X-Forwarded-Proto", "http")
    return f"{scheme}://{request.host}{call.path}?{urlencode({**call.query, 'cursor': cursor})}"
